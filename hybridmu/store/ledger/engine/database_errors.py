"""Database failures in a caller's words: `DatabaseError` instead of the driver's exceptions.

A transaction is committed as a whole or not at all, so every one of them leaves nothing half-written.
"""

from __future__ import annotations

import sqlite3
from typing import NoReturn

from sqlalchemy.engine import ExceptionContext
from sqlalchemy.exc import InterfaceError, OperationalError

from hybridmu.errors import DatabaseError, StateError

_AGAIN = "repeat the call; nothing is half-written, and an idempotency key keeps a request from being doubled"
_BUSY = ("another writer kept the database for too long", "repeat the call; see who else writes to this database")
_FULL = ("the disk of the database is full", "make room, then repeat the call")
_READ_ONLY = ("the database can't be written", "make the file, its folder or the server writable for this user")
_DAMAGED = ("the database file is damaged", "restore it from a backup; see docs/operations.md")
_UNREADABLE = (
    "the database file can't be opened or read",
    "check the disk, the path and the rights, then repeat the call",
)
_BROKE_OFF = ("the connection to the database broke off", _AGAIN)
_UNREACHABLE = (
    "the database can't be reached",
    "check that the server runs and database_url is right, then repeat the call",
)
_REFUSED = ("the database gave up", _AGAIN)

_SQLITE = {
    sqlite3.SQLITE_BUSY: _BUSY,
    sqlite3.SQLITE_LOCKED: _BUSY,
    sqlite3.SQLITE_FULL: _FULL,
    sqlite3.SQLITE_READONLY: _READ_ONLY,
    sqlite3.SQLITE_CORRUPT: _DAMAGED,
    sqlite3.SQLITE_NOTADB: _DAMAGED,
    sqlite3.SQLITE_CANTOPEN: _UNREADABLE,
    sqlite3.SQLITE_IOERR: _UNREADABLE,
}
_POSTGRESQL = {"55P03": _BUSY, "53100": _FULL, "25006": _READ_ONLY}  # by SQLSTATE


def refuse_damaged(got: str) -> NoReturn:
    """Refuse a database whose content is not what was written.

    Args:
        got: What was found.

    Raises:
        DatabaseError: Always.
    """
    what, remedy = _DAMAGED
    raise DatabaseError(what, got=got, remedy=remedy)


def translate(context: ExceptionContext) -> None:
    """Raise what a driver's exception means; programming errors and constraints keep SQLAlchemy's own classes.

    Args:
        context: From SQLAlchemy's event `handle_error`.

    Raises:
        DatabaseError: The database, and not the statement, is the reason.
    """
    if context.is_pre_ping or not isinstance(context.original_exception, Exception):
        return  # the pool opens another connection; an interrupt is no failure of the database
    found = _meaning(context)
    if found is not None:
        what, remedy = found
        got = next(iter(str(context.original_exception).strip().splitlines()), "")
        raise DatabaseError(what, got=got, remedy=remedy) from context.original_exception


def _meaning(context: ExceptionContext) -> tuple[str, str] | None:
    original = context.original_exception
    if isinstance(original, UnicodeDecodeError) or str(original).startswith("Could not decode to UTF-8"):
        return _DAMAGED  # text in a file that is no text any more
    if isinstance(original, sqlite3.Error):
        return _SQLITE.get(getattr(original, "sqlite_errorcode", 0) & 0xFF)  # the rest of the number says details
    state = getattr(original, "sqlstate", None)
    if state in _POSTGRESQL:
        return _POSTGRESQL[state]
    if context.connection is None:
        return _UNREACHABLE
    if context.is_disconnect:
        return _BROKE_OFF
    return _REFUSED if isinstance(context.sqlalchemy_exception, (OperationalError, InterfaceError)) else None


def untrained() -> StateError:
    """Return the refusal of a database without a ledger."""
    return StateError(
        "nothing was trained here",
        expected="a ledger at database_url",
        remedy="run `hybridmu train -c CONFIG` first; if it was trained, correct database_url, or restore the ledger "
        "from a backup",
    )
