"""Transactions of the ledger: writers one at a time, readers beside them.

Write transactions run one at a time, from their first statement to their commit. Tombstone numbers are drawn inside
such a transaction, so their order is the order of commits, and a reader that sees number n sees every smaller one that
will ever be. That is what a version's watermark ("everything up to n is out") relies on. SQLite has one writer by
nature (BEGIN IMMEDIATE); on PostgreSQL the transaction takes an advisory lock when it begins. Readers take no lock and
see one snapshot.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from sqlalchemy.engine import Connection, Engine

from hybridmu.faults import reach

BUSY_SECONDS = 30
# A reader's transaction sees one state of the database, in which its statements fit together.
_READER = {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}


def reader(engine: Engine) -> Engine:
    """Return the same engine for read-only transactions, which do not wait for writers."""
    return engine.execution_options(readonly=True, **(_READER if engine.dialect.name == "postgresql" else {}))


@contextmanager
def transaction(engine: Engine, name: str) -> Iterator[Connection]:
    """Begin a write transaction that is a fault point before and after its commit.

    Args:
        engine: From `opening.connect`.
        name: One of `faults.TRANSACTIONS`.

    Yields:
        The connection.
    """
    with engine.begin() as connection:
        yield connection
        reach(f"{name}.commit")
    reach(f"{name}.committed")


def parts(values: Sequence[Any], size: int = 900) -> Iterator[list[Any]]:
    """Yield pieces of at most `size` values: databases limit the parameters of one statement."""
    for start in range(0, len(values), size):
        yield list(values[start : start + size])


def is_reader(connection: Connection) -> bool:
    """Return whether a connection is one of `reader`."""
    return bool(connection.get_execution_options().get("readonly", False))
