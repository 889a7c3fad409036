"""PostgreSQL as the ledger uses it: one writer at a time, by an advisory lock, and clocks on its holder."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.engine import URL, Connection, Engine

from hybridmu.errors import ConfigError
from hybridmu.store.ledger.engine.transactions import BUSY_SECONDS, is_reader

# A writer that hangs between two statements is ended before any that waits for it gives up.
_HUNG_SECONDS = 20
_LOCK = int.from_bytes(b"hybridmu", "big")
_BEGIN_WRITE = (
    # One round trip. A client that vanishes in the middle must not keep the lock; what is acknowledged must be on disk.
    f"SELECT set_config('lock_timeout', '{BUSY_SECONDS}s', true), "
    f"set_config('idle_in_transaction_session_timeout', '{_HUNG_SECONDS}s', true), "
    "CASE current_setting('synchronous_commit') WHEN 'off' THEN set_config('synchronous_commit', 'on', true) END, "
    f"pg_advisory_xact_lock({_LOCK})"
)


def postgresql_engine(url: URL) -> Engine:
    """Return an engine for a server.

    Args:
        url: With its driver.

    Raises:
        ConfigError: The driver is not installed.
    """
    try:
        engine = sa.create_engine(
            url,
            # Every statement of a writer must see what was committed while it waited for the lock.
            isolation_level="READ COMMITTED",
            pool_pre_ping=True,
            hide_parameters=True,
            # A server that vanishes without a word is noticed in seconds, not in hours.
            connect_args={
                "connect_timeout": 10,
                "keepalives_idle": 10,
                "keepalives_interval": 5,
                "keepalives_count": 3,
                "tcp_user_timeout": 30_000,
                "application_name": "hybridmu",
            },
        )
    except ModuleNotFoundError as error:
        raise ConfigError(
            "the PostgreSQL driver is not installed", got=str(error), remedy="pip install 'hybridmu[postgres]'"
        ) from None
    event.listen(engine, "begin", _begin)
    return engine


def _begin(connection: Connection) -> None:
    if not is_reader(connection):
        connection.exec_driver_sql(_BEGIN_WRITE)
