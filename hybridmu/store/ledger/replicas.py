"""Registry of live serving replicas, their leases, the version each answers with, and what it withholds."""

from __future__ import annotations

import time
from typing import Literal

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from hybridmu.store.ledger import tables as t
from hybridmu.store.ledger.engine.transactions import reader
from hybridmu.types import RequestState, Touched

Role = Literal["answers", "votes"]

# A failed request's rows are in the model until another request takes them along.
_OPEN = (RequestState.RECEIVED, RequestState.PLANNED, RequestState.APPLIED, RequestState.FAILED)


class Replicas:
    """The replicas that follow the serving pointer.

    Args:
        engine: From `opening.connect`.
    """

    def __init__(self, engine: Engine) -> None:
        self._write, self._read = engine, reader(engine)

    def register(
        self, replica_id: str, version: int, lease_seconds: float, quarantined_upto: int = 0, role: Role = "answers"
    ) -> None:
        """Add or renew a replica; call with version 0 before reading the pointer.

        Args:
            replica_id: Its name.
            version: What it answers with; of one that votes, the oldest that it holds.
            lease_seconds: How long it may answer without another call.
            quarantined_upto: No answer of it is influenced by an open deletion whose tombstones have at most this
                number.
            role: Whether it gives answers, or holds sub-models for those that do.
        """
        values = {
            "expires_at": time.time() + lease_seconds,
            "version": version,
            "quarantined_upto": quarantined_upto,
            "role": role,
        }
        with self._write.begin() as connection:
            changed = connection.execute(
                t.replicas.update().where(t.replicas.c.replica_id == replica_id).values(**values)
            )
            if changed.rowcount == 0:
                connection.execute(t.replicas.insert().values(replica_id=replica_id, **values))
            if quarantined_upto:
                _mark_quarantined(connection)

    def unregister(self, replica_id: str) -> None:
        """Remove a replica that stopped answering."""
        with self._write.begin() as connection:
            connection.execute(t.replicas.delete().where(t.replicas.c.replica_id == replica_id))

    def confirmed(self) -> int:
        """Return the newest version that every unexpired replica answers with; the pointer when there is none."""
        with self._read.begin() as connection:
            pointer = int(connection.scalar(sa.select(t.serving.c.version)) or 0)
            slowest = connection.scalar(
                sa.select(sa.func.min(t.replicas.c.version)).where(t.replicas.c.expires_at > time.time())
            )
        return pointer if slowest is None else min(pointer, int(slowest))

    def answering(self) -> int | None:
        """Return the oldest version that any unexpired replica gives answers with; None when there is none."""
        with self._read.begin() as connection:
            slowest = connection.scalar(sa.select(sa.func.min(t.replicas.c.version)).where(_answers()))
        return None if slowest is None else int(slowest)

    def live(self) -> dict[str, int]:
        """Return unexpired replica → version."""
        query = t.replicas.select().where(t.replicas.c.expires_at > time.time())
        with self._read.begin() as connection:
            return {row.replica_id: row.version for row in connection.execute(query)}

    def touched(self) -> list[Touched]:
        """Return the shards that deletions wait for which are not served yet."""
        upto = t.needs.c.upto
        query = (
            sa
            .select(t.needs.c.shard, sa.func.min(upto), sa.func.max(upto))
            .join(t.requests, t.requests.c.request_id == t.needs.c.request_id)
            .where(t.requests.c.state.in_(_OPEN))
            .group_by(t.needs.c.shard)
            .order_by(t.needs.c.shard)
        )
        with self._read.begin() as connection:
            return [Touched(*row) for row in connection.execute(query)]


def _answers() -> sa.ColumnElement[bool]:
    return (t.replicas.c.expires_at > time.time()) & (t.replicas.c.role == "answers")


def _mark_quarantined(connection: Connection) -> None:
    """Note the moment from which no unexpired replica lets a deletion's shards vote."""
    upto = connection.scalar(sa.select(sa.func.min(t.replicas.c.quarantined_upto)).where(_answers())) or 0
    last = sa.select(sa.func.max(t.needs.c.upto)).where(t.needs.c.request_id == t.requests.c.request_id)
    open_ = t.requests.c.quarantined_at.is_(None) & t.requests.c.state.in_(_OPEN)
    connection.execute(
        t.requests.update().where(open_ & (last.scalar_subquery() <= upto)).values(quarantined_at=time.time())
    )
