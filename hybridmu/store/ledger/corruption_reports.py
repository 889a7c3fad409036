"""Served weights that somebody found missing or changed: who meets them reports them, the coordinator mends them."""

from __future__ import annotations

from sqlalchemy.engine import Engine

from hybridmu.store.ledger import tables as t
from hybridmu.store.ledger.engine.transactions import reader
from hybridmu.store.ledger.lease import fence

_PREFIX = "damaged/"


class Damages:
    """Reports of damage, at most one per shard.

    Args:
        engine: From `opening.connect`.
    """

    def __init__(self, engine: Engine) -> None:
        self._write, self._read = engine, reader(engine)

    def report(self, shard: int, blob: str) -> None:
        """Say that the weights of a shard can't be used."""
        with self._write.begin() as connection:
            connection.execute(t.meta.delete().where(t.meta.c.key == _key(shard)))
            connection.execute(t.meta.insert().values(key=_key(shard), value=blob))

    def reported(self) -> dict[int, str]:
        """Return shard → the blob that was reported."""
        with self._read.begin() as connection:
            found = connection.execute(t.meta.select().where(t.meta.c.key.startswith(_PREFIX))).all()
        return {int(row.key.removeprefix(_PREFIX)): row.value for row in found}

    def settle(self, token: int, shard: int) -> None:
        """Forget the report of a shard that was retrained, fenced."""
        with self._write.begin() as connection:
            fence(connection, token)
            connection.execute(t.meta.delete().where(t.meta.c.key == _key(shard)))


def _key(shard: int) -> str:
    return f"{_PREFIX}{shard}"
