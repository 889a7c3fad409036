"""Small files of our own in storage: what in them tells of a row, and what is a word that an id may be the same as.

Their names, the words of their schema and what an operator declared (callers, categories, classes) tell of no row. What
is not exactly such a file, whatever its name, is searched like anybody's.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hybridmu.errors import CorruptBlobError
from hybridmu.store.dataset.layout import LAYOUT, MANIFEST, Manifest
from hybridmu.store.ledger import tables as t
from hybridmu.store.ledger.journal.journal_files import ENTRY, ENTRY_MEMBERS, MEMBERS, SEALS, STATE
from hybridmu.store.ledger.journal.journal_replay import TABLES
from hybridmu.store.ledger.purge.free_text import FREE, is_declared
from hybridmu.store.ownership import MARKER
from hybridmu.store.storage.sealed_json import unsealed

_NAMES = {"file", "system"}  # what every document of the journal says of itself
_SCORES = re.compile(r"audits/shard-\d{5}/[0-9a-f-]+/\d{6}\.json")
_LINEAGE = re.compile(r"lineage/shard-\d{5}/[0-9a-f]{48}")
_KEEP = (
    "it is this system's, so don't delete it; put back its newest copy if it was changed, else tell the authors, with "
    "this sentence"
)
_RAYS = "it is Ray's, and goes when that session of Ray is over and its folder removed"
_ELSEWHERE = "delete it, or move it elsewhere"


@dataclass(frozen=True)
class OwnText:
    """What is searched of a file of our own.

    Attributes:
        hashes: Our own words and hashes: searched for digests, which are no words.
        said: What people wrote: searched for everything.
    """

    hashes: bytes
    said: bytes = b""


def own_text(name: str, read: Callable[[], bytes]) -> OwnText | None:
    """Return what is searched of one of our own small files; None where it is none, and is searched in full.

    Args:
        name: Of a file in storage.
        read: Returns its bytes; called only for a name of ours.
    """
    reader = _READERS.get(name) or next((found for pattern, found in _PATTERNS if pattern.fullmatch(name)), None)
    if reader is None:
        return None
    try:
        return reader(name, read())
    except (CorruptBlobError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None  # somebody else's under a name of ours, or damaged


def advice(name: str) -> str:
    """Return what the reader can do about a file that names a purged row."""
    if name.startswith("/"):  # not relative to storage
        return _RAYS
    ours = name in _READERS or any(
        pattern.fullmatch(name) for pattern in (_LINEAGE, *(found for found, _ in _PATTERNS))
    )
    return _KEEP if ours else _ELSEWHERE


def _manifest(name: str, data: bytes) -> OwnText:
    Manifest.from_bytes(data)
    return OwnText(data)


def _layout(name: str, data: bytes) -> OwnText:
    if data != b"1":
        raise ValueError("not what this program writes")
    return OwnText(data)


def _marker(name: str, data: bytes) -> OwnText:
    _only(json.loads(data), {"system", "mode"})
    return OwnText(data)


def _journal_state(name: str, data: bytes) -> OwnText:
    document = unsealed(data, name, MEMBERS[name], "", older=MEMBERS[name])
    _only(document, _NAMES | set(MEMBERS[name]) | ({"certificate"} if name == SEALS else set()))
    return OwnText(data)


def _journal_entry(name: str, data: bytes) -> OwnText:
    document = unsealed(data, name, ENTRY_MEMBERS, "", older=ENTRY_MEMBERS)
    tables = {table.name: table for table in TABLES}
    _only(document, _NAMES | set(tables))
    for member in _NAMES & set(document):
        del document[member]
    free = {column.name for column in FREE if column.table is t.requests}
    said: list[object] = []
    for table, rows in document.items():
        for row in rows:
            _only(row, set(tables[table].columns.keys()))
            said += [row.pop(column) for column in free & set(row) if table == t.requests.name]
            for column in [column for column in row if is_declared(table, column)]:
                del row[column]
    return OwnText(json.dumps(document).encode(), "\n".join(map(str, said)).encode(errors="surrogatepass"))


def _scores(name: str, data: bytes) -> OwnText:
    _only(unsealed(data, name, ("file", "scores"), ""), {"file", "scores"})
    return OwnText(data)


def _only(document: Any, members: set[str]) -> None:
    if not set(document) <= members:
        raise ValueError("other members than this program writes")


_Reader = Callable[[str, bytes], OwnText]
_READERS: dict[str, _Reader] = {
    MANIFEST: _manifest,
    LAYOUT: _layout,
    MARKER: _marker,
    STATE: _journal_state,
    SEALS: _journal_state,
}
_PATTERNS: tuple[tuple[re.Pattern[str], _Reader], ...] = ((ENTRY, _journal_entry), (_SCORES, _scores))
