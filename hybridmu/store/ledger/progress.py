"""Progress of requests: what the coordinator marks on their way, fenced by its lease."""

from __future__ import annotations

import time
from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy.engine import Engine

from hybridmu.store.ledger import tables as t
from hybridmu.store.ledger.accept.reliance import WAITING
from hybridmu.store.ledger.engine.transactions import parts, reader, transaction
from hybridmu.store.ledger.lease import fence
from hybridmu.store.ledger.request_rows import begin_earlier, set_values, taken_up
from hybridmu.store.ledger.tombstones import to_tombstone
from hybridmu.store.ledger.webhook_outbox import changed, tell
from hybridmu.types import RequestState, Tombstone


class Progress:
    """The coordinator's marks on requests.

    Args:
        engine: From `opening.connect`.
    """

    def __init__(self, engine: Engine) -> None:
        self._write, self._read = engine, reader(engine)

    def mark_planned(self, token: int, request_ids: Sequence[str], round_id: str, version: int) -> bool:
        """Move requests to PLANNED in a round, fenced.

        Returns:
            False, and nothing is changed, when one of them was cancelled since it was looked at.
        """
        with transaction(self._write, "planned") as connection:
            fence(connection, token)
            for part in parts(list(request_ids)):
                cancelled = t.requests.c.request_id.in_(part) & (t.requests.c.state == RequestState.CANCELLED)
                if connection.execute(sa.select(t.requests.c.seq).where(cancelled)).first():
                    return False
            set_values(connection, request_ids, version_before=version, **taken_up())
            connection.execute(t.rounds.insert(), [{"request_id": r, "round_id": round_id} for r in request_ids])
            begin_earlier(connection)
            return True

    def take(self, token: int, shards: Sequence[int] | None) -> dict[int, list[Tombstone]]:
        """Return shard → its tombstones for a job that starts now, fenced.

        Requests that brought them are PLANNED from here on: what is started without their rows can't be cancelled.
        """
        there = t.tombstones.c.key.is_not(None)
        where = there if shards is None else sa.and_(there, t.tombstones.c.shard.in_(list(shards)))
        taken = sa.select(t.tombstones.c.request_id).where(where).distinct()
        received = t.requests.c.state == RequestState.RECEIVED
        found: dict[int, list[Tombstone]] = {}
        with transaction(self._write, "take") as connection:
            fence(connection, token)
            connection.execute(
                t.requests.update().where(received & t.requests.c.request_id.in_(taken)).values(**taken_up())
            )
            begin_earlier(connection)
            for row in connection.execute(t.tombstones.select().where(where).order_by(t.tombstones.c.seq)):
                found.setdefault(row.shard, []).append(to_tombstone(row))
        return found

    def mark_failed(self, token: int, request_ids: Sequence[str], reason: str) -> None:
        """Move requests to FAILED, fenced; their tombstones stay. What was cancelled meanwhile stays so."""
        with self._write.begin() as connection:
            fence(connection, token)
            ids = changed(connection, t.requests.c.state.in_(WAITING), request_ids)
            set_values(connection, ids, state=RequestState.FAILED, reason=reason)
            tell(connection, ids, "failed")

    def mark_served(self, token: int, upto_version: int) -> list[str]:
        """Return the requests of versions ≤ `upto_version` that this call moved from APPLIED to SERVED, fenced."""
        where = (t.requests.c.state == RequestState.APPLIED) & (t.requests.c.version_after <= upto_version)
        with self._read.begin() as connection:  # most calls find nothing and need not write
            if not connection.scalar(sa.select(sa.func.count()).select_from(t.requests).where(where)):
                return []
        with transaction(self._write, "served") as connection:
            fence(connection, token)
            ids = list(connection.scalars(sa.select(t.requests.c.request_id).where(where)))
            set_values(connection, ids, state=RequestState.SERVED, served_at=time.time())
            tell(connection, ids, "served")
            return ids
