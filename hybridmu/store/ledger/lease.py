"""The coordinator's lease: who may write plans, outcomes and the serving pointer; the fence stops all others."""

from __future__ import annotations

import time

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from hybridmu.errors import LeaseLostError
from hybridmu.store.ledger import tables as t
from hybridmu.store.ledger.engine.transactions import reader, transaction

_COORDINATOR = "coordinator"


class Lease:
    """One holder at a time; every take-over raises the fencing token.

    Expiry is wall-clock time, so a clock that goes wrong can let a second coordinator in early; the token, checked
    inside every writing transaction, keeps the first one from writing even then. A clock that was set back does not
    keep the next one out: no lease is believed to last longer than it was asked for.

    Args:
        engine: From `opening.connect`.
    """

    def __init__(self, engine: Engine) -> None:
        self._write, self._read = engine, reader(engine)

    def acquire(self, holder: str, seconds: float) -> int | None:
        """Return a fencing token if nobody else holds the lease, or None.

        Args:
            holder: Name under which it is taken; the same name may take it again.
            seconds: How long it lasts without a heartbeat.
        """
        now = time.time()
        with transaction(self._write, "lease") as connection:
            row = connection.execute(t.leases.select().where(t.leases.c.name == _COORDINATOR)).first()
            if row is None:
                connection.execute(
                    t.leases.insert().values(name=_COORDINATOR, token=1, holder=holder, expires_at=now + seconds)
                )
                return 1
            if row.holder and row.holder != holder and row.expires_at > now:
                _cut(connection, now + seconds)
                return None
            token = int(row.token) + 1
            connection.execute(
                t.leases
                .update()
                .where(t.leases.c.name == _COORDINATOR)
                .values(token=token, holder=holder, expires_at=now + seconds)
            )
            return token

    def heartbeat(self, token: int, seconds: float) -> None:
        """Extend the lease, fenced."""
        with self._write.begin() as connection:
            fence(connection, token)
            connection.execute(
                t.leases.update().where(t.leases.c.name == _COORDINATOR).values(expires_at=time.time() + seconds)
            )

    def release(self, token: int) -> None:
        """Give the lease back, if it is still ours."""
        with self._write.begin() as connection:
            connection.execute(
                t.leases
                .update()
                .where((t.leases.c.name == _COORDINATOR) & (t.leases.c.token == token))
                .values(holder="", expires_at=0.0)
            )

    def holder(self, seconds: float | None = None) -> str | None:
        """Return who holds an unexpired lease.

        Args:
            seconds: How long a lease lasts; one that seems to last longer is cut to that, as `acquire` does. For those
                who wait until it ends.
        """
        with self._read.begin() as connection:
            row = connection.execute(t.leases.select().where(t.leases.c.name == _COORDINATOR)).first()
        now = time.time()
        if row is None or not row.holder or row.expires_at <= now:
            return None
        if seconds is not None and row.expires_at > now + seconds:
            with transaction(self._write, "lease") as connection:
                _cut(connection, now + seconds)
        return str(row.holder)


def _cut(connection: Connection, end: float) -> None:
    """Let a lease end at this time if it would end later; a holder that is alive has renewed it by then."""
    later = (t.leases.c.name == _COORDINATOR) & (t.leases.c.expires_at > end)
    connection.execute(t.leases.update().where(later).values(expires_at=end))


def fence(connection: Connection, token: int) -> None:
    """Stop a coordinator that lost its lease, inside the transaction that it is about to write in.

    Raises:
        LeaseLostError: Another token is current.
    """
    current = connection.scalar(sa.select(t.leases.c.token).where(t.leases.c.name == _COORDINATOR))
    if current != token:
        raise LeaseLostError("another coordinator took over", expected=f"token {token}", got=f"token {current}")
