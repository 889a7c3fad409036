"""Opening the database: one SQLite file or PostgreSQL, with the tables of this release."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.engine import URL, Engine, make_url

from hybridmu.config.addresses import sqlite_path
from hybridmu.errors import ConfigError, StateError
from hybridmu.store.ledger import migrations
from hybridmu.store.ledger.engine.database_errors import translate, untrained
from hybridmu.store.ledger.engine.postgresql import postgresql_engine
from hybridmu.store.ledger.engine.sqlite import compare_tables, sqlite_engine
from hybridmu.store.ledger.engine.transactions import reader
from hybridmu.store.storage.file_modes import PRIVATE, Modes


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
    engine = sqlite_engine(url, create, modes) if url.drivername == "sqlite" else postgresql_engine(url)
    event.listen(engine, "handle_error", translate)
    return engine


def _prepare(engine: Engine, create: bool) -> None:
    # Checks that the tables are those of this release; with `create` makes them so.
    with reader(engine).begin() as connection:
        stored = migrations.revision(connection)
        if stored == migrations.head() and engine.dialect.name == "sqlite":
            compare_tables(connection)
    if stored == migrations.head():
        return
    if stored is None and not create:
        raise untrained()
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
            "tables and trains nothing again",
        )
    with engine.begin() as connection:  # a second process waits here, and then finds the work done
        migrations.upgrade(connection)
