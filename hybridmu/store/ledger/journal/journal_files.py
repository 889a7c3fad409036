"""Files of the journal: sealed JSON documents, each of which says which file of which system it is.

A file that was copied over another, or came from another system with a backup, is refused before anything in it counts.
Documents of earlier releases don't say it, and are taken as long as nothing contradicts them. A file whose name is none
of ours is nobody's business here.
"""

from __future__ import annotations

import re
import uuid
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Engine

from hybridmu.errors import CorruptBlobError, StateError
from hybridmu.store.ledger import tables as t
from hybridmu.store.ledger.engine.transactions import reader
from hybridmu.store.storage.sealed_json import sealed, unsealed
from hybridmu.store.storage.storage import Storage

_FOLDER = "journal"
STATE, SEALS = f"{_FOLDER}/state.json", f"{_FOLDER}/seals.json"
ENTRY = re.compile(rf"{_FOLDER}/[0-9a-f]{{32}}\.json")
MEMBERS = {STATE: ("version", "token", "shards"), SEALS: ("changes", "seals")}
ENTRY_MEMBERS = ("requests", "tombstones", "needs", "guard", "idempotency")
_NEWEST = (
    "put its own newest copy in its place. Where there is none: a ledger that was not restored from a backup does "
    "without it, and writes it again"
)
_DAMAGED = f"the journal matters only to a ledger that was restored; {_NEWEST} once this file is moved away"

Document = dict[str, Any]


class JournalFiles:
    """What one system's journal is kept in.

    Args:
        storage: Where.
        engine: The ledger, which knows the system's name.
    """

    def __init__(self, storage: Storage, engine: Engine) -> None:
        self.storage = storage
        self._read = reader(engine)
        self._own: str | None = None

    @property
    def system(self) -> str | None:
        """Return the name of the system, or None as long as it has none."""
        if self._own is None:
            with self._read.begin() as connection:
                self._own = connection.scalar(sa.select(t.meta.c.value).where(t.meta.c.key == "system"))
        return self._own

    def write(self, name: str, document: Document) -> None:
        """Write a document under its name; durable when this returns."""
        self.storage.write(name, sealed({**document, "file": name, "system": self.system}))

    def add(self, entry: Document) -> None:
        """Write an entry under a new name; durable when this returns."""
        self.write(f"{_FOLDER}/{uuid.uuid4().hex}.json", entry)

    def entries(self) -> list[tuple[str, Document]]:
        """Return (name, entry) of every request that was written down; entries of one call are one document.

        Raises:
            CorruptBlobError: One is damaged, or a copy of another file.
            StateError: One is of another system.
        """
        names = [info.name for info in self.storage.list(_FOLDER)]
        return [(name, self._document(name)) for name in names if ENTRY.fullmatch(name)]

    def state(self) -> Document | None:
        """Return which version is served and what it is made of, or None before the first; raises as `entries`."""
        return self._found(STATE)

    def seals(self) -> Document | None:
        """Return what is recorded of the lake's files, or None before the first time; raises as `entries`."""
        return self._found(SEALS)

    def _found(self, name: str) -> Document | None:
        try:
            return self._document(name)
        except FileNotFoundError:
            return None

    def _document(self, name: str) -> Document:
        members = MEMBERS.get(name, ENTRY_MEMBERS)
        older = None if name == SEALS else members
        place = f"{name} in {self.storage.url}"
        found = unsealed(self.storage.read(name), place, members, _DAMAGED, older=older)
        if found.get("file", name) != name:
            raise CorruptBlobError(
                f"{place} is a copy of another file",
                expected=name,
                got=str(found["file"]),
                remedy=f"move this file out of this storage; if one of this name belongs here, {_NEWEST}",
            )
        if found.get("system") not in {None, self.system}:
            raise StateError(
                f"{place} is of another system",
                expected=f"system {self.system}, which the ledger belongs to; nothing was changed",
                got=f"system {found['system']}",
                remedy=f"if database_url and storage_url are right, move this file out of this storage and {_NEWEST}",
            )
        return found


def named(document: Document) -> bool:
    """Return whether a document says which system it is of; those of earlier releases don't."""
    return document.get("system") is not None


def guard_keys_in(storage: Storage) -> set[str]:
    """Return the ids of the guard keys that a storage's journal names, as far as it can be read."""
    found: set[str] = set()
    for info in storage.list(_FOLDER):
        if not ENTRY.fullmatch(info.name):
            continue
        try:
            entry = unsealed(storage.read(info.name), info.name, ENTRY_MEMBERS, _DAMAGED, older=ENTRY_MEMBERS)
        except CorruptBlobError:  # told of where it matters
            continue
        # An older release made HMACs without naming their key.
        found |= {str(row["key_id"]) for table in ("guard", "idempotency") for row in entry[table] if "key_id" in row}
    return found
