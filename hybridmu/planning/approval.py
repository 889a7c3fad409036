"""Approval of deletions: which of them a second person has to agree to before anything is done. Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ApprovalRule:
    """Which deletions wait for another caller.

    Attributes:
        rows: Those that would revoke more rows than this; None: no number is too great.
        groups: Those that name a group.
    """

    rows: int | None = None
    groups: bool = False

    def wanted(self, rows: int, groups: int) -> bool:
        """Return whether a deletion has to be approved.

        Args:
            rows: Rows that nobody revoked before.
            groups: Groups among its keys with such rows.

        Example:
            >>> rule = ApprovalRule(rows=100)
            >>> rule.wanted(100, 1), rule.wanted(101, 0), ApprovalRule(groups=True).wanted(1, 1)
            (False, True, True)
            >>> ApprovalRule(rows=0, groups=True).wanted(0, 0)  # nothing is left to be revoked
            False
        """
        if rows == 0:
            return False
        return (self.rows is not None and rows > self.rows) or (self.groups and groups > 0)
