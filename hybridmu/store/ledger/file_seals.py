"""Seals: what every file of the lake holds, so that a damaged, older or foreign one is refused before it is used.

Copies of new rows that wait to come in have seals too, from the call that brought them until they are in.

A change has two steps, for a process may die between the ledger and the file: `propose` writes down what the file will
hold, then the file is replaced, then `confirm` forgets what it held. In between either is right. Each step makes the
ledger's count of changes larger; the journal keeps a copy, which tells an older ledger from an older file.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from hybridmu.store.dataset.layout import INCOMING
from hybridmu.store.ledger import tables as t
from hybridmu.store.ledger.engine.transactions import parts, reader, transaction
from hybridmu.store.ledger.lease import fence

_IS_COPY = t.seals.c.name.startswith(f"{INCOMING}/")
_CHANGES = "changes"
Change = tuple[str | None, str]  # the seal that a file has, and the one that it gets


class Seals:
    """The seals of one system's lake.

    Args:
        engine: From `opening.connect`.
    """

    def __init__(self, engine: Engine) -> None:
        self._write, self._read = engine, reader(engine)

    def known(self, names: Sequence[str]) -> dict[str, frozenset[str]]:
        """Return name → the seals that a file may have now, of those of these files that are recorded."""
        found = {}
        with self._read.begin() as connection:
            for part in parts(list(names)):
                for row in connection.execute(t.seals.select().where(t.seals.c.name.in_(part))):
                    found[row.name] = frozenset(seal for seal in (row.seal, row.next) if seal)
        return found

    def any(self) -> bool:
        """Return whether any file of the lake is recorded."""
        with self._read.begin() as connection:
            return connection.scalar(sa.select(t.seals.c.name).where(~_IS_COPY).limit(1)) is not None

    def unconfirmed(self) -> dict[str, frozenset[str]]:
        """Return name → both seals of files whose change was not confirmed."""
        with self._read.begin() as connection:
            rows = connection.execute(t.seals.select().where(t.seals.c.next.is_not(None))).all()
        return {row.name: frozenset(seal for seal in (row.seal, row.next) if seal) for row in rows}

    def begin(self, seals: Mapping[str, str]) -> None:
        """Record all files of a new lake, in place of what was recorded before."""
        with transaction(self._write, "seal") as connection:
            connection.execute(t.seals.delete())
            _insert(connection, {name: (seal, None) for name, seal in seals.items()})
            _count(connection)

    def propose(self, token: int, changes: Mapping[str, Change]) -> None:
        """Write down what files will hold before they are written, fenced.

        Args:
            token: The coordinator's fencing token.
            changes: Name → (the seal that it has, None for a new file; the one that it gets).
        """
        with transaction(self._write, "seal") as connection:
            fence(connection, token)
            for part in parts(sorted(changes)):
                connection.execute(t.seals.delete().where(t.seals.c.name.in_(part)))
            _insert(connection, {name: (now, None if now == then else then) for name, (now, then) in changes.items()})
            _count(connection)

    def confirm(self, token: int, names: Collection[str]) -> None:
        """Say that files are written as proposed, fenced."""
        with transaction(self._write, "sealed") as connection:
            fence(connection, token)
            confirm(connection, names)

    def settle(self, token: int, seal_of: Callable[[str], str]) -> None:
        """Find out, fenced, which of proposed changes came to pass before a crash.

        Args:
            token: The coordinator's fencing token.
            seal_of: Returns what a file holds; a file that is neither is left, and refused when it is read.
        """
        open_ = self.unconfirmed()
        found = {name: seal for name, both in open_.items() if (seal := seal_of(name)) in both}
        if found:
            self.propose(token, {name: (seal, seal) for name, seal in found.items()})

    def content(self) -> tuple[int, dict[str, list[str | None]]]:
        """Return (count of changes, name → seals), for the journal."""
        with self._read.begin() as connection:
            rows = connection.execute(t.seals.select()).all()
            return changes(connection), {row.name: [row.seal, row.next] for row in rows}


def confirm(connection: Connection, names: Collection[str]) -> None:
    """Say that files are written as proposed, in the caller's transaction."""
    proposed = t.seals.c.next.is_not(None)
    for part in parts(sorted(names)):
        mine = t.seals.c.name.in_(part) & proposed
        connection.execute(t.seals.update().where(mine).values(seal=t.seals.c.next, next=None))
    _count(connection)


def changes(connection: Connection) -> int:
    """Return how many changes were recorded."""
    return int(connection.scalar(sa.select(t.meta.c.value).where(t.meta.c.key == _CHANGES)) or 0)


def record_copy(connection: Connection, name: str, seal: str) -> None:
    """Record a waiting copy of new rows, in the caller's transaction.

    It is no change of the lake, and does not count as one: a ledger that lacks it lacks the ingestion too.
    """
    _insert(connection, {name: (seal, None)})


def drop_copies(connection: Connection, waiting: sa.Select[Any]) -> None:
    """Forget all copies but those whose names a query selects, in the caller's transaction."""
    connection.execute(t.seals.delete().where(_IS_COPY & t.seals.c.name.not_in(waiting)))


def restore(connection: Connection, count: int, seals: Mapping[str, Sequence[str | None]]) -> None:
    """Take over what the journal kept, in the caller's transaction; it may not know of the newest copies yet."""
    for part in parts(sorted(seals)):
        connection.execute(t.seals.delete().where(t.seals.c.name.in_(part)))
    connection.execute(t.seals.delete().where(~_IS_COPY))
    _insert(connection, {name: (seal, then) for name, (seal, then) in seals.items()})
    _set_count(connection, count)


def _insert(connection: Connection, seals: Mapping[str, tuple[str | None, str | None]]) -> None:
    if rows := [{"name": name, "seal": seal, "next": then} for name, (seal, then) in seals.items()]:
        connection.execute(t.seals.insert(), rows)


def _count(connection: Connection) -> None:
    _set_count(connection, changes(connection) + 1)


def _set_count(connection: Connection, count: int) -> None:
    connection.execute(t.meta.delete().where(t.meta.c.key == _CHANGES))
    connection.execute(t.meta.insert().values(key=_CHANGES, value=str(count)))
