"""The database behind ledger and registry: one SQLite file, or PostgreSQL.

On both, write transactions run one at a time, from their first statement to their commit. Tombstone numbers are drawn
inside such a transaction, so their order is the order of commits, and a reader that sees number n sees every smaller
one that will ever be. That is what a version's watermark ("everything up to n is out") relies on. SQLite has one writer
by nature (BEGIN IMMEDIATE); on PostgreSQL the transaction takes an advisory lock when it begins. Readers take no lock
and see one snapshot.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.engine import URL, Connection, Engine, make_url

from hybridmu.config.addresses import SQLITE, sqlite_path
from hybridmu.errors import ConfigError, DatabaseError, StateError
from hybridmu.faults import reach
from hybridmu.store.ledger import migrations
from hybridmu.store.ledger.database_errors import refuse_damaged, translate
from hybridmu.store.ledger.tables import metadata
from hybridmu.store.storage.durable_files import make_folder
from hybridmu.store.storage.file_modes import PRIVATE, Modes
from hybridmu.store.storage.file_modes import create as create_file

BUSY_SECONDS = 30
# A writer that hangs between two statements is ended before any that waits for it gives up.
_HUNG_SECONDS = 20
_LOCK = int.from_bytes(b"hybridmu", "big")
# A reader's transaction sees one state of the database, in which its statements fit together.
_READER = {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
_BEGIN_WRITE = (
    # One round trip. A client that vanishes in the middle must not keep the lock; what is acknowledged must be on disk.
    f"SELECT set_config('lock_timeout', '{BUSY_SECONDS}s', true), "
    f"set_config('idle_in_transaction_session_timeout', '{_HUNG_SECONDS}s', true), "
    "CASE current_setting('synchronous_commit') WHEN 'off' THEN set_config('synchronous_commit', 'on', true) END, "
    f"pg_advisory_xact_lock({_LOCK})"
)


def connect(url: str, *, create: bool = False, modes: Modes = PRIVATE) -> Engine:
    """Open the database.

    Args:
        url: SQLAlchemy URL: `sqlite:///PATH`, `postgresql://…` (read as `postgresql+psycopg://…`).
        create: Make the database file and its tables, or bring older tables up to date. Otherwise nothing is ever
            written by opening.
        modes: Who may read a database file, whatever the umask; a file that is there gets them with `create`.

    Returns:
        The engine for write transactions; see `reader` for the others.

    Raises:
        ConfigError: The URL is malformed, names another kind of database, or its driver is not installed.
        DatabaseError: The database can't be reached.
        StateError: Nothing was trained here and `create` is false, or the tables are of another release.
    """
    engine = _opened(database_url(url), create, modes)
    try:
        _prepare(engine, create)
    except BaseException:
        engine.dispose()
        raise
    return engine


def has_tables(url: str) -> bool:
    """Return whether a database is there, and tables of ours in it, of whichever release.

    Args:
        url: As `connect` takes it.

    Raises:
        ConfigError: As `connect`.
        DatabaseError: As `connect`.
    """
    parsed = database_url(url)
    if parsed.drivername == "sqlite" and not Path(parsed.database or "").is_file():
        return False
    engine = _opened(parsed, False, PRIVATE)
    try:
        with reader(engine).begin() as connection:
            return migrations.revision(connection) is not None
    finally:
        engine.dispose()


def reader(engine: Engine) -> Engine:
    """Return the same engine for read-only transactions, which do not wait for writers."""
    return engine.execution_options(readonly=True, **(_READER if engine.dialect.name == "postgresql" else {}))


@contextmanager
def transaction(engine: Engine, name: str) -> Iterator[Connection]:
    """Begin a write transaction that is a fault point before and after its commit.

    Args:
        engine: From `connect`.
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


def database_url(url: str) -> URL:
    """Return a database's URL in its parts; the path of an SQLite file is taken as it is, `?` and all.

    Args:
        url: As `connect` takes it.

    Raises:
        ConfigError: It is malformed, or names another kind of database.
    """
    if (path := sqlite_path(url)) is not None:
        return URL.create("sqlite", database=path)
    try:
        parsed = make_url(url)
    except (sa.exc.ArgumentError, ValueError):  # the second: a port that is no number, a bracket that is not closed
        raise ConfigError(
            "database_url is not a database URL",
            expected="sqlite:////PATH/ledger.sqlite3 or postgresql://USER@HOST/DATABASE",
            remedy="special characters in a password must be percent-encoded",  # the URL is not shown: it may hold one
        ) from None
    if parsed.drivername in {"postgresql", "postgres"}:
        parsed = parsed.set(drivername="postgresql+psycopg")
    if parsed.drivername not in {"sqlite", "postgresql+psycopg"}:
        raise ConfigError(
            "database_url names an unknown kind of database",
            expected="sqlite or postgresql",
            got=parsed.drivername,
        )
    return parsed


def _opened(url: URL, create: bool, modes: Modes) -> Engine:
    engine = _sqlite(url, create, modes) if url.drivername == "sqlite" else _postgresql(url)
    event.listen(engine, "handle_error", translate)
    return engine


def _sqlite(url: URL, create: bool, modes: Modes) -> Engine:
    path = Path(url.database or "")
    if not url.database or url.database == ":memory:":
        raise ConfigError(
            "database_url names no file", expected="sqlite:////PATH/ledger.sqlite3", got=f"{SQLITE}{url.database or ''}"
        )
    # SQLite keeps its other files beside what a link leads to: where the link is, they would be another database's.
    if links := [each for each in (path, *_beside(path)) if os.path.islink(each)]:
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
        raise _untrained()
    engine = sa.create_engine(url, connect_args={"timeout": BUSY_SECONDS}, hide_parameters=True)
    event.listen(engine, "connect", _sqlite_pragmas)
    event.listen(engine, "begin", _sqlite_begin)
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
    for name in (path, *_beside(path)):
        with suppress(FileNotFoundError, PermissionError):  # somebody else's, who let us in
            if name.stat().st_mode & 0o777 != modes.file:
                name.chmod(modes.file)


def _beside(path: Path) -> list[Path]:
    """Return the files that SQLite keeps beside its own."""
    return [path.with_name(f"{path.name}{suffix}") for suffix in ("-wal", "-shm", "-journal")]


def _sqlite_pragmas(connection: Any, _: Any) -> None:
    connection.isolation_level = None  # transactions are begun by _sqlite_begin, not by the driver
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


def _sqlite_begin(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN" if _is_reader(connection) else "BEGIN IMMEDIATE")


def _postgresql(url: URL) -> Engine:
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
    event.listen(engine, "begin", _postgresql_begin)
    return engine


def _postgresql_begin(connection: Connection) -> None:
    if not _is_reader(connection):
        connection.exec_driver_sql(_BEGIN_WRITE)


def _is_reader(connection: Connection) -> bool:
    return bool(connection.get_execution_options().get("readonly", False))


def _prepare(engine: Engine, create: bool) -> None:
    # Checks that the tables are those of this release; with `create` makes them so.
    with reader(engine).begin() as connection:
        stored = migrations.revision(connection)
        if stored == migrations.head() and engine.dialect.name == "sqlite":
            _compare_tables(connection)
    if stored == migrations.head():
        return
    if stored is None and not create:
        raise _untrained()
    if stored is not None and not migrations.is_known(stored):
        raise StateError(
            "the database was made by a newer release, or belongs to another program",
            expected=f"tables of revision {migrations.head()} or older",
            got=f"revision {stored}",
            remedy="install the release that wrote it, or name another database_url",
        )
    if not create:
        raise StateError(
            "the database was made by an older release",
            expected=f"tables of revision {migrations.head()}",
            got=f"revision {stored}",
            remedy="stop everything that uses it, make a backup, then run `hybridmu train -c CONFIG`: it changes the "
            "tables and trains nothing anew",
        )
    with engine.begin() as connection:  # a second process waits here, and then finds the work done
        migrations.upgrade(connection)


def _compare_tables(connection: Connection) -> None:
    """Refuse a file whose tables are called something else than the release that it names calls them."""
    query = "SELECT m.name, c.name FROM sqlite_master m JOIN pragma_table_info(m.name) c WHERE m.type = 'table'"
    there = {(table, column) for table, column in connection.exec_driver_sql(query)}
    missing = {(table.name, column.name) for table in metadata.tables.values() for column in table.columns} - there
    if missing:
        refuse_damaged(f"there is no column {'.'.join(min(missing))}")


def _untrained() -> StateError:
    return StateError(
        "nothing was trained here",
        expected="a ledger at database_url",
        remedy="run `hybridmu train -c CONFIG` first; if it was trained, correct database_url, or restore the ledger "
        "from a backup",
    )
