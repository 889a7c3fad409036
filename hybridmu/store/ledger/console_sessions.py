"""Sessions of the console, in the ledger's database: digests of their names, never the names.

They are kept there and not in memory, so that several processes answer one browser, and a restart logs nobody out.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Callable

import sqlalchemy as sa
from sqlalchemy.engine import Engine

from hybridmu.store.ledger import tables as t
from hybridmu.store.ledger.engine.transactions import reader

_BYTES = 32
# That somebody was seen is written this many times within the time after which a session ends unseen.
_MARKS = 30


class ConsoleSessions:
    """Begins, finds and ends sessions.

    Args:
        engine: From `opening.connect`.
        seconds: How long a session lasts.
        idle_seconds: It ends earlier when nobody is seen for so long.
        clock: Seconds since the epoch.
    """

    def __init__(
        self, engine: Engine, seconds: float, idle_seconds: float, clock: Callable[[], float] = time.time
    ) -> None:
        self._write, self._read = engine, reader(engine)
        self._seconds, self._idle, self._clock = seconds, idle_seconds, clock

    def begin(self, token_id: str) -> str:
        """Return the name of a new session, which nobody can find out again.

        Args:
            token_id: The token that it rests on; the caller who asks for the session looks whether that still counts.
        """
        name, now, sessions = secrets.token_hex(_BYTES), self._clock(), t.console_sessions.c
        with self._write.begin() as connection:
            over = (sessions.ends_at <= now) | (sessions.seen_at <= now - self._idle)
            connection.execute(t.console_sessions.delete().where(over))
            connection.execute(
                t.console_sessions.insert().values(
                    digest=_digest(name), token_id=token_id, seen_at=now, ends_at=now + self._seconds
                )
            )
        return name

    def find(self, name: str, *, seen: bool) -> str | None:
        """Return the token that a session rests on, or None where there is no such session any more.

        Args:
            name: What a browser presented.
            seen: Whether somebody asked, and not a page by itself.
        """
        if not name:
            return None
        mine, now = t.console_sessions.c.digest == _digest(name), self._clock()
        with self._read.begin() as connection:
            row = connection.execute(sa.select(t.console_sessions).where(mine)).first()
        # A clock that was set back must not make a session last.
        if row is None or not 0 < row.ends_at - now <= self._seconds or now - row.seen_at >= self._idle:
            return None
        if seen and now - row.seen_at >= self._idle / _MARKS:
            with self._write.begin() as connection:
                connection.execute(t.console_sessions.update().where(mine).values(seen_at=now))
        return str(row.token_id)

    def end(self, name: str) -> None:
        """End a session, if there is one of this name."""
        mine = t.console_sessions.c.digest == _digest(name)
        with self._read.begin() as connection:  # a guess of names does not become a writer
            there = connection.execute(sa.select(t.console_sessions.c.digest).where(mine)).first()
        if there is not None:
            with self._write.begin() as connection:
                connection.execute(t.console_sessions.delete().where(mine))


def _digest(name: str) -> bytes:
    return hashlib.sha256(name.encode("utf-8", "surrogatepass")).digest()
