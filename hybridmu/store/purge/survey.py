"""What a purge is about to remove, found before anything is removed: afterwards nothing could tell what to look for."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np

from hybridmu.core.kernel.rows import carries
from hybridmu.store.files.parquet import read_parquet
from hybridmu.store.lake.columns import KeyColumns
from hybridmu.store.lake.lake import Lake
from hybridmu.store.lake.layout import SPLITS, stored_name
from hybridmu.types import KeyKind

# Shorter raw ids occur by chance in any file.
_TELLING_BYTES = 8
_TELLING_DIGITS = 14
Key = tuple[KeyKind, bytes]


@dataclass(frozen=True, slots=True)
class Survey:
    """What goes from one shard for one request.

    Attributes:
        keys: (kind, digest) that the request revoked.
        rows: (table, id digest, content digest) of every row that carries one of them.
        raw: Ids and groups of the rows as they are in the table, where they are long enough to be telling.
    """

    keys: frozenset[Key] = frozenset()
    rows: frozenset[tuple[str, bytes, bytes]] = frozenset()
    raw: frozenset[bytes] = frozenset()

    @property
    def ids(self) -> frozenset[bytes]:
        """Return the id digests of the rows."""
        return frozenset(id_ for _, id_, _ in self.rows)

    @property
    def content(self) -> frozenset[bytes]:
        """Return the content digests of the training rows."""
        return frozenset(content for split, _, content in self.rows if split == "train")

    @property
    def needles(self) -> frozenset[bytes]:
        """Return the byte strings that must not be found anywhere once the rows are gone."""
        return self.ids | self.raw | {key for _, key in self.keys}

    def merged(self, other: Survey) -> Survey:
        """Return what either survey names: a later one no more finds what is gone already."""
        return Survey(self.keys | other.keys, self.rows | other.rows, self.raw | other.raw)

    def to_json(self) -> str:
        """Return the text that `from_json` reads."""
        return json.dumps({
            "keys": sorted((kind, key.hex()) for kind, key in self.keys),
            "rows": sorted((split, id_.hex(), content.hex()) for split, id_, content in self.rows),
            "raw": sorted(value.hex() for value in self.raw),
        })

    @classmethod
    def from_json(cls, text: str) -> Survey:
        """Return the survey that `to_json` wrote."""
        read = json.loads(text)
        return cls(
            frozenset((kind, bytes.fromhex(key)) for kind, key in read["keys"]),
            frozenset((split, bytes.fromhex(id_), bytes.fromhex(content)) for split, id_, content in read["rows"]),
            frozenset(map(bytes.fromhex, read["raw"])),
        )


def survey(
    lake: Lake, shard: int, keys: Mapping[str, Collection[Key]], held: Collection[Key] = ()
) -> tuple[dict[str, Survey], frozenset[str]]:
    """Look up what requests' keys name in a shard's tables, in one pass over them; changes nothing.

    Args:
        lake: The tables.
        shard: Shard number.
        keys: Request → (kind, digest) whose rows go.
        held: (kind, digest) whose rows a legal hold keeps.

    Returns:
        (request → what goes for it; requests some of whose rows are held, and must wait).
    """
    owners: dict[Key, list[str]] = {}
    for request, mine in keys.items():
        for key in mine:
            owners.setdefault(key, []).append(request)
    rows: dict[str, set[tuple[str, bytes, bytes]]] = {request: set() for request in keys}
    raw: dict[str, set[bytes]] = {request: set() for request in keys}
    waiting: set[str] = set()
    for split in SPLITS:
        for name in lake.files(split, shard):
            columns = lake.keys_of(name)
            places = np.flatnonzero(carries(columns.ids, columns.groups, set(owners)))
            if not len(places):
                continue
            kept = carries(columns.ids, columns.groups, set(held))
            values = _raw(lake, name, places)
            for number, place in enumerate(places.tolist()):
                for key in _keys_at(columns, place):
                    for request in owners.get(key, ()):
                        rows[request].add((split, columns.ids[place].tobytes(), columns.content[place].tobytes()))
                        # Who asks for one row only may leave others of its group.
                        raw[request] |= {values[kind][number] for kind in {"id", key[0]} if values[kind][number]}
                        if kept[place]:
                            waiting.add(request)
    found = {r: Survey(frozenset(keys[r]), frozenset(rows[r]), frozenset(raw[r])) for r in keys}
    return found, frozenset(waiting)


def _keys_at(columns: KeyColumns, place: int) -> list[Key]:
    return [("id", columns.ids[place].tobytes()), ("group", columns.groups[place].tobytes())]


def _raw(lake: Lake, name: str, places: np.ndarray[tuple[int], np.dtype[np.intp]]) -> dict[KeyKind, list[bytes]]:
    """Return the telling ids and groups of some rows as bytes, empty where they are too short to tell."""
    data = lake.settings.data
    kinds: list[tuple[KeyKind, str]] = [("id", stored_name(data.id))]
    kinds += [("group", stored_name(data.group))] if data.group else []
    wanted = [column for _, column in kinds]
    table = read_parquet(lake.storage, name, wanted).take(places)
    none = [b""] * len(places)
    found: dict[KeyKind, list[bytes]] = {"id": none, "group": none}
    for kind, column in kinds:
        found[kind] = [_telling(value) for value in table[column].to_pylist()]
    return found


def _telling(value: object) -> bytes:
    """Return an id as text when it is long enough to be told from other content: numbers occur everywhere."""
    text = str(value).encode() if isinstance(value, (str, int)) else b""
    return text if len(text) >= (_TELLING_DIGITS if text.isdigit() else _TELLING_BYTES) else b""
