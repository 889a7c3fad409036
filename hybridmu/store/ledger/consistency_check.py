"""Consistency check of the ledger: does it still say what was written, looked at before a coordinator acts on it.

A disk may change bits. PostgreSQL keeps checksums of its pages; SQLite has none, but keeps every key twice, in its
table and in an index, and compares them when asked. What no index covers is compared with the journal in storage, or
with what it must agree with.
"""

from __future__ import annotations

import json

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from hybridmu.errors import StateError
from hybridmu.store.ledger import tables as t
from hybridmu.store.ledger.engine.database_errors import refuse_damaged
from hybridmu.store.ledger.engine.transactions import reader
from hybridmu.store.ledger.journal.journal import Journal
from hybridmu.store.ledger.journal.journal_files import STATE


def check_soundness(engine: Engine, journal: Journal) -> None:
    """Refuse a ledger whose content was changed by something else than this program.

    Args:
        engine: From `opening.connect`.
        journal: The same system's.

    Raises:
        DatabaseError: It is damaged; nothing is trained, published or answered from it.
        StateError: A journal that does not say whose it is has other records than the ledger.
    """
    try:
        with reader(engine).begin() as connection:
            if engine.dialect.name == "sqlite":
                found = connection.exec_driver_sql("PRAGMA integrity_check(1)").scalar()
                if found != "ok":
                    refuse_damaged(str(found))
            _compare_needs(connection)
            _compare_texts(connection)
            for row in journal.shards():
                _compare_version(connection, row, journal.named())
    except ValueError as error:  # text that is no text any more
        refuse_damaged(str(error))


def _compare_needs(connection: Connection) -> None:
    """Check that every request waits for the removal of its own tombstones."""
    own = (
        sa
        .select(t.tombstones.c.request_id, t.tombstones.c.shard, sa.func.max(t.tombstones.c.seq).label("last"))
        .group_by(t.tombstones.c.request_id, t.tombstones.c.shard)
        .subquery()
    )
    same = (t.needs.c.request_id == own.c.request_id) & (t.needs.c.shard == own.c.shard)
    missing = t.needs.c.upto.is_(None) | (t.needs.c.upto < own.c.last)
    query = sa.select(own.c.request_id).join(t.needs, same, isouter=True).where(missing)
    if found := connection.execute(query.limit(1)).first():
        refuse_damaged(f"request {found.request_id} would not wait for its own rows")


def _compare_texts(connection: Connection) -> None:
    for key, value in connection.execute(sa.select(t.meta.c.key, t.meta.c.value)):
        if value[:1] in {"{", "["}:
            try:
                json.loads(value)
            except ValueError:
                refuse_damaged(f"entry {key!r} can't be read")


def _compare_version(connection: Connection, row: dict[str, object], named: bool) -> None:
    """Check a sub-model's record, which never changes, against the journal.

    Raises:
        StateError: They differ, and the journal may be another system's: then the ledger must not be called damaged.
    """
    mine = (t.version_shards.c.version == row["version"]) & (t.version_shards.c.shard == row["shard"])
    found = connection.execute(t.version_shards.select().where(mine)).first()
    if found is None or dict(found._mapping) == row:
        return
    got = f"the record of shard {row['shard']} in version {row['version']} is not what was published"
    if named:
        refuse_damaged(got)
    raise StateError(
        f"{STATE} in storage, which does not say of which system it is, contradicts the ledger",
        got=got,
        remedy="if this file was copied here, move it out of this storage: it is written again. Otherwise the database "
        "was changed from outside: restore it from a backup; see docs/operations.md",
    )
