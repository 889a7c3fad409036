"""Survey before a purge: the rows that it will remove, since afterwards nothing could tell what to look for."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from hybridmu.core.kernel.revoked_keys import carries
from hybridmu.store.dataset.key_index import KeyColumns
from hybridmu.store.dataset.lake import Lake
from hybridmu.store.dataset.layout import SPLITS, stored_name
from hybridmu.store.storage.parquet import read_parquet
from hybridmu.types import NO_KEYS, Key, KeyKind, KeySet
from hybridmu.types.surveys import Survey

# Shorter raw ids occur by chance in any file.
_TELLING_BYTES = 8
_TELLING_DIGITS = 14


def survey(
    lake: Lake, shard: int, keys: Mapping[str, KeySet], held: KeySet = NO_KEYS
) -> tuple[dict[str, Survey], frozenset[str]]:
    """Look up what requests' keys name in a shard's tables, in one pass over them; changes nothing.

    Args:
        lake: The tables.
        shard: Shard number.
        keys: Request → keys whose rows go.
        held: Keys whose rows a legal hold keeps.

    Returns:
        (request → what goes for it; requests some of whose rows are held, and must wait).
    """
    owners: dict[Key, list[str]] = {}
    for request, mine in keys.items():
        for key in mine:
            owners.setdefault(key, []).append(request)
    going = KeySet(owners)
    rows: dict[str, set[tuple[str, bytes, bytes]]] = {request: set() for request in keys}
    raw: dict[str, set[bytes]] = {request: set() for request in keys}
    waiting: set[str] = set()
    for split in SPLITS:
        for name in lake.files(split, shard):
            columns = lake.keys_of(name)
            places = np.flatnonzero(carries(columns.ids, columns.groups, going))
            if not len(places):
                continue
            kept = carries(columns.ids, columns.groups, held)
            values = _raw(lake, name, places)
            for number, place in enumerate(places.tolist()):
                for key in _keys_at(columns, place):
                    for request in owners.get(key, ()):
                        rows[request].add((split, columns.ids[place].tobytes(), columns.content[place].tobytes()))
                        # Who asks for one row only may leave others of its group.
                        raw[request] |= {values[kind][number] for kind in {"id", key[0]} if values[kind][number]}
                        if kept[place]:
                            waiting.add(request)
    found = {r: Survey(keys[r], frozenset(rows[r]), frozenset(raw[r])) for r in keys}
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
