"""Cleaning the database after a purge: free pages and logs are rewritten, then the files are searched."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Engine

from hybridmu.core.needles import search
from hybridmu.errors import PurgeError
from hybridmu.store import tables as t
from hybridmu.store.database import reader
from hybridmu.store.ledger import parts


def compact(engine: Engine) -> None:
    """Rewrite what deleted values may still lie in: SQLite's free pages and write-ahead log, PostgreSQL's dead rows.

    SQLite overwrites deleted content with zeros at once (secure_delete); VACUUM drops the free pages, and the
    checkpoint truncates the log.

    Args:
        engine: From `database.connect`.

    Raises:
        PurgeError: Somebody else holds the database for long.
    """
    raw = engine.raw_connection()  # outside of any transaction, which SQLAlchemy would begin
    driver: Any = raw.driver_connection
    try:
        if engine.dialect.name == "sqlite":
            driver.execute("VACUUM")
            busy, _, _ = driver.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        else:
            driver.autocommit = True
            for table in (t.tombstones, t.surveys, t.evidence, t.meta):
                driver.execute(f"VACUUM {table.name}")
            driver.autocommit = False
            busy = 0
    except engine.dialect.loaded_dbapi.Error as error:
        raise PurgeError("the database could not be compacted", got=str(error), remedy="it is tried again") from None
    finally:
        raw.close()
    if busy:
        raise PurgeError("a reader keeps the database's log in use", remedy="it is tried again")


def look_in_database(engine: Engine, needles: Collection[bytes]) -> dict[str, int]:
    """Search the database for byte strings.

    Args:
        engine: From `database.connect`.
        needles: Digests and telling raw ids of purged rows.

    Returns:
        Needles, files and bytes searched (SQLite), or tables asked (PostgreSQL, whose files and logs are the server's own).

    Raises:
        PurgeError: A needle was found.
    """
    wanted = {*needles, *(needle.hex().encode() for needle in needles if len(needle) == 16)}
    if engine.dialect.name == "sqlite":
        path = Path(str(engine.url.database))
        files = [file for file in (path, Path(f"{path}-wal"), Path(f"{path}-journal")) if file.exists()]
        size = 0
        for file in files:
            data = file.read_bytes()
            size += len(data)
            if search(data, wanted):
                raise PurgeError(
                    f"{file.name} still holds a purged key",
                    got="a free page or a log that is still in use",
                    remedy="it is tried again; if it stays, end processes that keep the database open for long",
                )
        return {"needles": len(needles), "files": len(files), "bytes": size}
    digests = [needle for needle in needles if len(needle) == 16]
    with reader(engine).begin() as connection:
        for part in parts(digests):
            if connection.scalar(sa.select(t.tombstones.c.seq).where(t.tombstones.c.key.in_(part)).limit(1)):
                raise PurgeError("the tombstones still hold a purged key", remedy="it is tried again")
    return {"needles": len(needles), "tables": 1}
