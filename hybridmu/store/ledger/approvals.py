"""Approvals, as they are shown: what waits for a second person, and who approved what."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.engine import Engine

from hybridmu.store.ledger import tables as t
from hybridmu.store.ledger.accept.proposal import Proposed, named
from hybridmu.store.ledger.engine.transactions import reader
from hybridmu.types import RequestState


@dataclass(frozen=True)
class Approval:
    """Approval of one request.

    Attributes:
        rows: That it would revoke, when it was proposed.
        approved_by: Who approved it; None as long as nobody did.
        approved_at: When, in seconds since the epoch, UTC.
    """

    rows: int
    approved_by: str | None
    approved_at: float | None


@dataclass(frozen=True)
class Waiting:
    """A request that waits for its approval.

    Attributes:
        request_id: Its name.
        caller: Who asked, and can't approve it.
        rows: That it would revoke.
        received_at: When it was proposed.
        deadline_at: When it must be exact and purged.
    """

    request_id: str
    caller: str
    rows: int
    received_at: float
    deadline_at: float | None


class Approvals:
    """The approvals of one system.

    Args:
        engine: From `opening.connect`.
    """

    def __init__(self, engine: Engine) -> None:
        self._read = reader(engine)

    def of_request(self, request_id: str) -> Approval | None:
        """Return the approval of a request; None where none was wanted."""
        with self._read.begin() as connection:
            row = connection.execute(t.approvals.select().where(t.approvals.c.request_id == request_id)).first()
        return None if row is None else Approval(row.rows, row.approved_by, row.approved_at)

    def named(self, request_id: str) -> Proposed | None:
        """Return what a proposal names; None once it is decided."""
        with self._read.begin() as connection:
            return named(connection, request_id)

    def waiting(self) -> list[Waiting]:
        """Return what waits, the oldest first."""
        asked = t.requests.c
        query = (
            sa
            .select(asked.request_id, asked.caller, t.approvals.c.rows, asked.received_at, asked.deadline_at)
            .join(t.approvals, t.approvals.c.request_id == asked.request_id)
            .where(asked.state == RequestState.PROPOSED)
            .order_by(asked.seq)
        )
        with self._read.begin() as connection:
            return [Waiting(*row) for row in connection.execute(query)]
