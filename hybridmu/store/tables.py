"""The SQL schema: only requests, tombstones, versions and outcomes; never a row per sample."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.engine import Connection, Engine, make_url

metadata = sa.MetaData()

meta = sa.Table(
    "meta",
    metadata,
    sa.Column("key", sa.String(64), primary_key=True),
    sa.Column("value", sa.Text, nullable=False),
)
requests = sa.Table(
    "requests",
    metadata,
    sa.Column("seq", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("request_id", sa.String(40), nullable=False, unique=True),
    sa.Column("state", sa.String(16), nullable=False, index=True),
    sa.Column("strategy", sa.String(16), nullable=False),
    sa.Column("keys", sa.Integer, nullable=False),
    sa.Column("already_forgotten", sa.Integer, nullable=False, default=0),
    sa.Column("ignored_unknown", sa.Integer, nullable=False, default=0),
    sa.Column("received_at", sa.Float, nullable=False),
    sa.Column("deadline_at", sa.Float),
    sa.Column("applied_at", sa.Float),
    sa.Column("served_at", sa.Float),
    sa.Column("version_before", sa.Integer),
    sa.Column("version_after", sa.Integer),
    sa.Column("round_id", sa.String(40)),
    sa.Column("reason", sa.Text),
)
idempotency = sa.Table(  # the primary key, not a look-up, prevents doubles
    "idempotency",
    metadata,
    sa.Column("key", sa.String(200), primary_key=True),
    sa.Column("payload", sa.String(64), nullable=False),  # digest of what was asked, to tell a repeat from a conflict
    sa.Column("request_id", sa.String(40), nullable=False),
)
tombstones = sa.Table(
    "tombstones",
    metadata,
    sa.Column("seq", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("request_id", sa.String(40), nullable=False, index=True),
    sa.Column("kind", sa.String(5), nullable=False),
    sa.Column("key", sa.LargeBinary(16), nullable=False),
    sa.Column("shard", sa.Integer, nullable=False, index=True),
    sa.Column("slice", sa.Integer, nullable=False),
    sa.UniqueConstraint("kind", "key", "shard"),
)
needs = sa.Table(  # shards that must have removed their tombstones before a request is fulfilled
    "needs",
    metadata,
    sa.Column("request_id", sa.String(40), primary_key=True),
    sa.Column("shard", sa.Integer, primary_key=True, autoincrement=False),
)
versions = sa.Table(
    "versions",
    metadata,
    sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("created_at", sa.Float, nullable=False),
)
version_shards = sa.Table(  # only the shards that a version changed
    "version_shards",
    metadata,
    sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("shard", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("blob", sa.String(64)),
    sa.Column("exact", sa.Boolean, nullable=False),
    sa.Column("removed_upto", sa.Integer, nullable=False),
    sa.Column("exact_upto", sa.Integer, nullable=False),
    sa.Column(
        "checkpoints", sa.Text, nullable=False
    ),  # JSON: [slice, lineage key, blob] per slice of the last exact run
    sa.Column("error_spent", sa.Float, nullable=False),
)
serving = sa.Table(
    "serving",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("version", sa.Integer, nullable=False),
)
replicas = sa.Table(
    "replicas",
    metadata,
    sa.Column("replica_id", sa.String(80), primary_key=True),
    sa.Column("expires_at", sa.Float, nullable=False),
    sa.Column("version", sa.Integer, nullable=False),
)
leases = sa.Table(
    "leases",
    metadata,
    sa.Column("name", sa.String(40), primary_key=True),
    sa.Column("token", sa.Integer, nullable=False),
    sa.Column("holder", sa.String(80), nullable=False),
    sa.Column("expires_at", sa.Float, nullable=False),
)
outcomes = sa.Table(  # plan against actual, for every request
    "outcomes",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("round_id", sa.String(40), nullable=False, index=True),
    sa.Column("shard", sa.Integer, nullable=False),
    sa.Column("strategy", sa.String(16), nullable=False),
    sa.Column("rule", sa.String(16), nullable=False),
    sa.Column("reasons", sa.Text, nullable=False),
    sa.Column("first_slice", sa.Integer, nullable=False),
    sa.Column("revoked", sa.Integer, nullable=False),
    sa.Column("sample_visits", sa.Integer, nullable=False),
    sa.Column("planned_visits", sa.Integer, nullable=False),
    sa.Column("estimated_seconds", sa.Float, nullable=False),
    sa.Column("measured_seconds", sa.Float, nullable=False),
)
costs = sa.Table(  # what the cost model learns from
    "costs",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("strategy", sa.String(16), nullable=False),
    sa.Column("visits", sa.Integer, nullable=False),
    sa.Column("checkpoints", sa.Integer, nullable=False),
    sa.Column("seconds", sa.Float, nullable=False),
)


def connect(url: str) -> Engine:
    """Open the database and create missing tables.

    SQLite runs in WAL mode with full synchronisation; writers take the write lock when they begin, so that a
    read-then-write transaction can't be overtaken.

    Args:
        url: SQLAlchemy URL.

    Returns:
        The engine.
    """
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite":
        if parsed.database:
            Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
        engine = sa.create_engine(parsed, connect_args={"timeout": 30})
        event.listen(engine, "connect", _sqlite_pragmas)
        event.listen(engine, "begin", _sqlite_begin)
    else:
        engine = sa.create_engine(parsed, pool_pre_ping=True)
    metadata.create_all(engine)
    return engine


def reader(engine: Engine) -> Engine:
    """Return the same engine for read-only transactions, which do not wait for writers."""
    return engine.execution_options(readonly=True)


def _sqlite_pragmas(connection: Any, _: Any) -> None:
    connection.isolation_level = None  # transactions are begun by _sqlite_begin, not by the driver
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "secure_delete=ON"):
        connection.execute(f"PRAGMA {pragma}")


def _sqlite_begin(connection: Connection) -> None:
    readonly = connection.get_execution_options().get("readonly", False)
    connection.exec_driver_sql("BEGIN" if readonly else "BEGIN IMMEDIATE")
