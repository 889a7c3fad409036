"""Cleaning the database after a purge: what deleted values may still lie in is rewritten, then it is searched.

Digests and raw ids must stand in no row data. What people wrote is rewritten without them; names that an operator
declared and words of our own may be the same as an id, and tell of no row (`store/ledger/purge/free_text.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import sqlalchemy as sa
from sqlalchemy.engine import Engine

from hybridmu.core.proof.byte_search import DIGEST_BYTES, Needles, spelled
from hybridmu.errors import PurgeError
from hybridmu.faults import reach
from hybridmu.store.ledger import tables as t
from hybridmu.store.ledger.engine.transactions import reader
from hybridmu.store.ledger.engine.unlocked_reading import UnlockedFile
from hybridmu.store.ledger.purge.free_text import LIBRARIES, is_declared, is_ours, redact

# How long others are waited for; it must end well before the coordinator's lease does.
_BUSY_MILLISECONDS = 4000
_AGAIN = "it is tried again; if it stays, end processes that keep the database open for long"
Beat = Callable[[], None]


def clean(engine: Engine, needles: Collection[bytes], beat: Beat) -> dict[str, int]:
    """Take purged names out of reasons, empty the database's logs and free space of deleted values, and look.

    SQLite overwrites what it deletes with zeros at once (secure_delete), and the checkpoint empties its write-ahead
    log. Where a copy is found all the same, which the balancing of its trees may leave, the file is written again
    (VACUUM); what is found even then stands in a live row, and its column decides. PostgreSQL's tables that held such
    values are always written again: its files are the server's own, and can't be looked at from here.

    Args:
        engine: From `opening.connect`.
        needles: Digests and telling raw ids of purged rows.
        beat: Called between pieces of work, to keep the coordinator's lease.

    Returns:
        How many needles were searched for, in how many bytes.

    Raises:
        PurgeError: A needle is still there, or somebody else kept the database busy.
    """
    wanted = _Wanted.of(needles)
    redact(engine, wanted.all, beat)
    if engine.dialect.name == "sqlite":
        return _clean_file(engine, wanted, beat) | {"needles": len(needles)}
    with _alone(engine) as driver:
        driver.autocommit = True
        driver.execute(f"SET lock_timeout = {_BUSY_MILLISECONDS}")
        for table in (t.tombstones, t.surveys, t.evidence, t.curves, t.claims, t.approvals, t.idempotency, t.seals):
            beat()
            driver.execute(f"VACUUM (FULL) {table.name}")
    beat()
    reach("compact.done")
    return _look_in_tables(engine, wanted, beat) | {"needles": len(needles)}


@dataclass(frozen=True)
class _Wanted:
    """What is searched for: everything in row data, digests alone in our own words."""

    all: Needles
    digests: Needles

    @classmethod
    def of(cls, needles: Collection[bytes]) -> _Wanted:
        return cls(Needles(spelled(needles)), Needles(spelled([one for one in needles if len(one) == DIGEST_BYTES])))


def _clean_file(engine: Engine, wanted: _Wanted, beat: Beat) -> dict[str, int]:
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
            size, held = _search_files(path, wanted.all, beat)
            if not held:
                return {"bytes": size}
        _look_in_file(driver, wanted, beat)
    return {"bytes": size}


def _look_in_file(driver: Any, wanted: _Wanted, beat: Beat) -> None:
    """Search every live value of an SQLite file, also of tables that are not ours."""
    driver.text_factory = bytes  # somebody else's text may be none
    known = {*t.metadata.tables, *LIBRARIES}
    # What has no page holds no value.
    there = "SELECT name FROM sqlite_master WHERE type = 'table' AND rootpage > 0"
    for table in [row[0].decode(errors="surrogateescape") for row in driver.execute(there)]:
        quoted = '"' + table.replace('"', '""') + '"'
        rows = driver.execute(f"SELECT * FROM {quoted}")
        columns = [column[0] for column in rows.description]
        if table not in known:
            _search(wanted, table, "its names", "", [table, *columns])
        while part := rows.fetchmany(10_000):
            beat()
            _look(wanted, table, columns, part)


def _look(wanted: _Wanted, table: str, columns: Sequence[str], rows: Collection[Sequence[Any]]) -> int:
    """Search some rows of a table.

    Args:
        wanted: What for.
        table: Its name.
        columns: Theirs, in the order of the values.
        rows: Values of any type.

    Returns:
        How many bytes were searched.

    Raises:
        PurgeError: A value holds what must be gone.
    """
    size = 0
    for place, column in enumerate(columns):
        if (table, column) == ("meta", "value"):
            at = columns.index("key")
            for row in rows:
                size += _search(wanted, table, column, _bytes([row[at]]).decode(errors="replace"), [row[place]])
        else:
            size += _search(wanted, table, column, "", [row[place] for row in rows])
    return size


def _search(wanted: _Wanted, table: str, column: str, key: str, values: Collection[Any]) -> int:
    if is_declared(table, column, key):
        return 0
    data = _bytes(values)
    if (wanted.digests if is_ours(table, column, key) else wanted.all).in_(data):
        raise PurgeError(f"table {table} still holds a purged key in {column}", remedy=_AGAIN)
    return len(data)


def _bytes(values: Collection[Any]) -> bytes:
    return b"\0".join(
        value.encode(errors="surrogateescape") if isinstance(value, str) else bytes(value)
        for value in values
        if value and isinstance(value, (str, bytes, memoryview))
    )


def _search_files(path: Path, needles: Needles, beat: Beat) -> tuple[int, bool]:
    """Search an SQLite file and its logs."""  # noqa: DOC201 - helper of `clean`
    size, held = 0, False
    with ExitStack() as stack:
        logs = [log for log in (Path(f"{path}-wal"), Path(f"{path}-journal")) if log.exists()]
        streams: list[UnlockedFile | BinaryIO] = [UnlockedFile(path)]
        streams += [stack.enter_context(log.open("rb")) for log in logs]  # SQLite takes no locks on these
        for stream in streams:
            for found in needles.in_stream(stream.read):
                beat()
                held = held or bool(found)
            size += stream.tell()
    return size, held


def _look_in_tables(engine: Engine, wanted: _Wanted, beat: Beat) -> dict[str, int]:
    """Search every text and byte column of a server's tables."""  # noqa: DOC201 - helper of `clean`
    size = 0
    with reader(engine).connect() as connection:
        for table in t.metadata.sorted_tables:
            columns = [c for c in table.columns if isinstance(c.type, (sa.String, sa.LargeBinary))]
            if not columns:
                continue
            rows = connection.execution_options(yield_per=10_000).execute(sa.select(*columns))
            for part in rows.partitions():
                beat()
                size += _look(wanted, table.name, [column.name for column in columns], part)
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
