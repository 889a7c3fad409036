"""SQLite as the ledger uses it: one private file with a write-ahead log, whose transactions we begin ourselves."""

from __future__ import annotations

import os
import sqlite3
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.engine import URL, Connection, Engine

from hybridmu.config.addresses import SQLITE
from hybridmu.errors import ConfigError, DatabaseError
from hybridmu.store.ledger.engine.database_errors import refuse_damaged, untrained
from hybridmu.store.ledger.engine.transactions import BUSY_SECONDS, is_reader
from hybridmu.store.ledger.tables import metadata
from hybridmu.store.storage.durable_files import make_folder
from hybridmu.store.storage.file_modes import Modes
from hybridmu.store.storage.file_modes import create as create_file


def sqlite_engine(url: URL, create: bool, modes: Modes) -> Engine:
    """Return an engine for a file.

    Args:
        url: Names the file.
        create: Make it, or give it the bits of `modes`.
        modes: Who may read it.

    Raises:
        ConfigError: The URL names no file, or a link.
        DatabaseError: The file can't be made, or not be looked at.
        StateError: It is not there and `create` is false.
    """  # noqa: DOC501 - a function makes the StateError
    path = Path(url.database or "")
    if not url.database or url.database == ":memory:":
        raise ConfigError(
            "database_url names no file", expected="sqlite:////PATH/ledger.sqlite3", got=f"{SQLITE}{url.database or ''}"
        )
    # SQLite keeps its other files beside what a link leads to: where the link is, they would be another database's.
    if links := [each for each in (path, *files_beside(path)) if os.path.islink(each)]:
        raise ConfigError(
            "the database is a link",
            expected="the file itself; a folder above it may be a link",
            got=f"{links[0]}, which leads to {links[0].readlink()}",
            remedy="stop everything that uses it, then put the file in the link's place, with those that end in -wal "
            "and -shm if there are any; or name the file in database_url",
        )
    if os.path.exists(path) and not os.path.isfile(path):  # a device would be given our permissions
        raise ConfigError(
            "database_url names no file",
            expected="a file, or a name for a new one",
            got=f"{path}, a folder or a device",
        )
    if create:
        try:
            make_folder(path.parent, modes)
            _make_file(path, modes)
        except OSError as error:
            raise DatabaseError(
                "the file of the database can't be made", got=str(error), remedy="correct database_url or the rights"
            ) from None
    elif not _is_file(path):
        raise untrained()
    engine = sa.create_engine(url, connect_args={"timeout": BUSY_SECONDS}, hide_parameters=True)
    event.listen(engine, "connect", _pragmas)
    event.listen(engine, "begin", _begin)
    return engine


def _is_file(path: Path) -> bool:
    """Return whether the file of the database is there.

    Raises:
        DatabaseError: It can't be seen: a folder above it is closed to us, for one.
    """
    try:
        return path.is_file()
    except OSError as error:
        raise DatabaseError(
            "the file of the database can't be looked at", got=str(error), remedy="correct database_url or the rights"
        ) from None


def _make_file(path: Path, modes: Modes) -> None:
    """Make an empty file that SQLite fills: it gives its other files the bits of this one."""
    if not path.exists():
        create_file(path, modes.file)
    # Never opened here: closing it again would let go of the locks that this process holds on it.
    for name in (path, *files_beside(path)):
        with suppress(FileNotFoundError, PermissionError):  # somebody else's, who let us in
            if name.stat().st_mode & 0o777 != modes.file:
                name.chmod(modes.file)


def files_beside(path: Path) -> list[Path]:
    """Return the files that SQLite keeps beside its own."""
    return [path.with_name(f"{path.name}{suffix}") for suffix in ("-wal", "-shm", "-journal")]


def _pragmas(connection: Any, _: Any) -> None:
    connection.isolation_level = None  # transactions are begun by _begin, not by the driver
    try:
        _write_ahead(connection)
        for pragma in ("synchronous=FULL", "foreign_keys=ON", "secure_delete=ON"):
            connection.execute(f"PRAGMA {pragma}")
    except UnicodeDecodeError as error:  # the schema's text, or what SQLite says of it
        refuse_damaged(str(error))


def _write_ahead(connection: Any) -> None:
    # Unlike a statement, a change of the journal's mode does not wait for other connections: SQLite refuses it at once.
    deadline = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def _begin(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN" if is_reader(connection) else "BEGIN IMMEDIATE")


def compare_tables(connection: Connection) -> None:
    """Refuse a file whose tables are called something else than the release that it names calls them."""
    query = "SELECT m.name, c.name FROM sqlite_master m JOIN pragma_table_info(m.name) c WHERE m.type = 'table'"
    there = {(table, column) for table, column in connection.exec_driver_sql(query)}
    missing = {(table.name, column.name) for table in metadata.tables.values() for column in table.columns} - there
    if missing:
        refuse_damaged(f"there is no column {'.'.join(min(missing))}")
