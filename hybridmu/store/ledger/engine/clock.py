"""Clock of the machine on which the ledger is."""

from __future__ import annotations

from sqlalchemy import text
from sqlalchemy.engine import Engine

from hybridmu.store.ledger.engine.transactions import reader

_NOW = {"sqlite": "SELECT strftime('%s', 'now')", "postgresql": "SELECT extract(epoch FROM now())"}


def ledger_time(engine: Engine) -> float:
    """Return the ledger's time, in seconds since 1970; of SQLite, which is on this machine, whole ones."""
    with reader(engine).begin() as connection:
        return float(connection.execute(text(_NOW[engine.dialect.name])).scalar_one())
