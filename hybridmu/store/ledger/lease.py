"""Leases: who may write plans, outcomes and the serving pointer, or send webhooks; the fence stops all others."""

from __future__ import annotations

import time

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from hybridmu.errors import LeaseLostError
from hybridmu.store.ledger import tables as t
from hybridmu.store.ledger.engine.transactions import reader, transaction

COORDINATOR, WEBHOOKS = "coordinator", "webhooks"
_TAKEN = {COORDINATOR: "another coordinator took over", WEBHOOKS: "another sender of webhooks took over"}


class Lease:
    """One holder at a time; every take-over raises the fencing token.

    Expiry is wall-clock time, so a clock that goes wrong can let a second coordinator in early; the token, checked
    inside every writing transaction, keeps the first one from writing even then. A clock that was set back does not
    keep the next one out: no lease is believed to last longer than it was asked for.

    Args:
        engine: From `opening.connect`.
        name: What it is for.
    """

    def __init__(self, engine: Engine, name: str = COORDINATOR) -> None:
        self._write, self._read = engine, reader(engine)
        self._name = name

    def acquire(self, holder: str, seconds: float) -> int | None:
        """Return a fencing token if nobody else holds the lease, or None.

        Args:
            holder: Name under which it is taken; the same name may take it again.
            seconds: How long it lasts without a heartbeat.
        """
        now = time.time()
        with transaction(self._write, "lease") as connection:
            row = connection.execute(t.leases.select().where(t.leases.c.name == self._name)).first()
            if row is None:
                connection.execute(
                    t.leases.insert().values(name=self._name, token=1, holder=holder, expires_at=now + seconds)
                )
                return 1
            if row.holder and row.holder != holder and row.expires_at > now:
                _cut(connection, self._name, now + seconds)
                return None
            token = int(row.token) + 1
            connection.execute(
                t.leases
                .update()
                .where(t.leases.c.name == self._name)
                .values(token=token, holder=holder, expires_at=now + seconds)
            )
            return token

    def heartbeat(self, token: int, seconds: float) -> None:
        """Extend the lease, fenced."""
        with self._write.begin() as connection:
            fence(connection, token, self._name)
            connection.execute(
                t.leases.update().where(t.leases.c.name == self._name).values(expires_at=time.time() + seconds)
            )

    def release(self, token: int) -> None:
        """Give the lease back, if it is still ours."""
        with self._write.begin() as connection:
            connection.execute(
                t.leases
                .update()
                .where((t.leases.c.name == self._name) & (t.leases.c.token == token))
                .values(holder="", expires_at=0.0)
            )

    def holder(self, seconds: float | None = None) -> str | None:
        """Return who holds an unexpired lease.

        Args:
            seconds: How long a lease lasts; one that seems to last longer is cut to that, as `acquire` does. For those
                who wait until it ends.
        """
        with self._read.begin() as connection:
            row = connection.execute(t.leases.select().where(t.leases.c.name == self._name)).first()
        now = time.time()
        if row is None or not row.holder or row.expires_at <= now:
            return None
        if seconds is not None and row.expires_at > now + seconds:
            with transaction(self._write, "lease") as connection:
                _cut(connection, self._name, now + seconds)
        return str(row.holder)


def _cut(connection: Connection, name: str, end: float) -> None:
    """Let a lease end at this time if it would end later; a holder that is alive has renewed it by then."""
    later = (t.leases.c.name == name) & (t.leases.c.expires_at > end)
    connection.execute(t.leases.update().where(later).values(expires_at=end))


def fence(connection: Connection, token: int, name: str = COORDINATOR) -> None:
    """Stop a holder that lost its lease, inside the transaction that it is about to write in.

    Args:
        connection: Of that transaction.
        token: The fencing token.
        name: Which lease.

    Raises:
        LeaseLostError: Another token is current.
    """
    current = connection.scalar(sa.select(t.leases.c.token).where(t.leases.c.name == name))
    if current != token:
        raise LeaseLostError(_TAKEN[name], expected=f"token {token}", got=f"token {current}")
