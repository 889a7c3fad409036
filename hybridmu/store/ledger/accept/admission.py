"""Admission limits of one caller."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from hybridmu.errors import AdmissionError
from hybridmu.store.ledger import tables as t
from hybridmu.types import RequestState

_OPEN = (RequestState.RECEIVED, RequestState.PLANNED, RequestState.APPLIED)


@dataclass(frozen=True)
class Limits:
    """What one caller may ask; None is no limit.

    Attributes:
        open_requests: Requests of the caller that are not served yet.
        per_minute: Requests of the caller in the last 60 seconds.
    """

    open_requests: int | None = None
    per_minute: int | None = None


def admit(connection: Connection, caller: str, limits: Limits | None, now: float) -> None:
    """Check the limits of a caller in the transaction that accepts a request.

    Raises:
        AdmissionError: They are reached.
    """
    if limits is None:
        return
    mine = sa.select(sa.func.count()).select_from(t.requests).where(t.requests.c.caller == caller)
    checks = (
        ("open requests", limits.open_requests, mine.where(t.requests.c.state.in_(_OPEN))),
        # What a clock that was set back left in the future is not counted: it would keep a caller out for as long.
        ("requests in the last minute", limits.per_minute, mine.where(t.requests.c.received_at.between(now - 60, now))),
    )
    for what, limit, query in checks:
        if limit is not None and (have := connection.scalar(query) or 0) >= limit:
            raise AdmissionError(
                f"caller {caller!r} has too many {what}",
                expected=f"at most {limit}",
                got=str(have + 1),
                remedy="put many ids into one request, wait, or raise the limit under admission:",
            )
