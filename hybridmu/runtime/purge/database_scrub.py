"""Cleaning the database after a purge: what deleted values may still lie in is rewritten, then it is searched."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Engine

from hybridmu.core.proof.byte_search import Needles, spelled
from hybridmu.errors import PurgeError
from hybridmu.faults import reach
from hybridmu.store.ledger import tables as t
from hybridmu.store.ledger.database import reader

# How long others are waited for; it must end well before the coordinator's lease does.
_BUSY_MILLISECONDS = 4000
_AGAIN = "it is tried again; if it stays, end processes that keep the database open for long"
Beat = Callable[[], None]


def clean(engine: Engine, needles: Collection[bytes], beat: Beat) -> dict[str, int]:
    """Empty the database's logs and free space of deleted values, and look.

    SQLite overwrites what it deletes with zeros at once (secure_delete), and the checkpoint empties its write-ahead
    log. Where a copy is found all the same, which the balancing of its trees may leave, the file is written anew
    (VACUUM). PostgreSQL's tables that held such values are always written anew: its files are the server's own, and
    can't be looked at from here.

    Args:
        engine: From `database.connect`.
        needles: Digests and telling raw ids of purged rows.
        beat: Called between pieces of work, to keep the coordinator's lease.

    Returns:
        How many needles were searched for, in how many bytes.

    Raises:
        PurgeError: A needle is still there, or somebody else kept the database busy.
    """
    wanted = Needles(spelled(needles))
    if engine.dialect.name == "sqlite":
        return _clean_file(engine, wanted, beat) | {"needles": len(needles)}
    with _alone(engine) as driver:
        driver.autocommit = True
        driver.execute(f"SET lock_timeout = {_BUSY_MILLISECONDS}")
        for table in (t.tombstones, t.surveys, t.evidence, t.curves, t.claims, t.idempotency, t.seals):
            beat()
            driver.execute(f"VACUUM (FULL) {table.name}")
    beat()
    reach("compact.done")
    return _look_in_tables(engine, wanted, beat) | {"needles": len(needles)}


def _clean_file(engine: Engine, needles: Needles, beat: Beat) -> dict[str, int]:
    """Clean and search an SQLite file with its logs."""  # noqa: DOC201, DOC501 - helper of `clean`
    path = Path(str(engine.url.database))
    with _alone(engine) as driver:
        driver.execute(f"PRAGMA busy_timeout = {_BUSY_MILLISECONDS}")
        for attempt in ("checkpoint", "vacuum"):
            if attempt == "vacuum":
                driver.execute("VACUUM")
            beat()
            busy, _, _ = driver.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            if busy:
                raise PurgeError("a reader keeps the database's log in use", remedy=_AGAIN)
            reach("compact.done")
            size, held = _search_files([path, Path(f"{path}-wal"), Path(f"{path}-journal")], needles, beat)
            if not held:
                return {"bytes": size}
    raise PurgeError(f"{', '.join(sorted(held))} still hold(s) a purged key", remedy=_AGAIN)


def _search_files(files: Collection[Path], needles: Needles, beat: Beat) -> tuple[int, set[str]]:
    size, held = 0, set()
    for file in files:
        if not file.exists():
            continue
        with file.open("rb") as stream:
            for found in needles.in_stream(stream.read):
                beat()
                if found:
                    held.add(file.name)
            size += stream.tell()
    return size, held


def _look_in_tables(engine: Engine, needles: Needles, beat: Beat) -> dict[str, int]:
    """Search every text and byte column of a server's tables."""  # noqa: DOC201, DOC501 - helper of `clean`
    size = 0
    with reader(engine).connect() as connection:
        for table in t.metadata.sorted_tables:
            columns = [c for c in table.columns if isinstance(c.type, (sa.String, sa.LargeBinary))]
            if not columns:
                continue
            rows = connection.execution_options(yield_per=10_000).execute(sa.select(*columns))
            for part in rows.partitions():
                beat()
                data = b"\0".join(
                    value if isinstance(value, bytes) else str(value).encode() for row in part for value in row if value
                )
                size += len(data)
                if needles.in_(data):
                    raise PurgeError(f"table {table.name} still holds a purged key", remedy=_AGAIN)
    return {"bytes": size}


@contextmanager
def _alone(engine: Engine) -> Iterator[Any]:
    """Yield a driver's connection of our own, outside of any transaction, which SQLAlchemy would begin.

    Raises:
        PurgeError: The database gave up.
    """
    raw = engine.raw_connection()
    driver = raw.driver_connection
    raw.detach()  # nobody else may get a connection that commits by itself
    try:
        yield driver
    except engine.dialect.loaded_dbapi.Error as error:
        raise PurgeError("the database could not be compacted", got=str(error), remedy=_AGAIN) from None
    finally:
        raw.close()
