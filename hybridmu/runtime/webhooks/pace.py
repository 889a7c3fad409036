"""Pace of sending: how long a failed try is waited after, and how long a sender's lease lasts."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Pace:
    """Times of a sender, in seconds.

    Attributes:
        first: After the first failure of an event.
        longest: After any failure, at most.
        rest: After a receiver was out of reach, at most: no other event is tried meanwhile.
        look: How often the ledger is looked into.
        lease: How long a dead sender's lease lasts beyond the longest try.
    """

    first: float = 5.0
    longest: float = 3600.0
    rest: float = 60.0
    look: float = 1.0
    lease: float = 20.0

    def pause(self, failures: int, draw: float) -> float:
        """Return how long to wait after failures in a row: twice as long each time, and by chance up to half less.

        Args:
            failures: At least 1.
            draw: From 0 to 1, by chance: receivers that went down together are not tried at one moment.

        Example:
            >>> [Pace().pause(n, 1.0) for n in (1, 2, 3, 99)], Pace().pause(1, 0.0)
            ([5.0, 10.0, 20.0, 3600.0], 2.5)
        """
        whole = min(self.longest, self.first * 2.0 ** min(failures - 1, 60))
        return whole * (0.5 + 0.5 * draw)
