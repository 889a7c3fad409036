"""Places of a request's keys: computed from the key's hash, or looked up for ids of a grouped table.

A request touches only the files it names. Each file's digests are kept sorted in memory, so that a look-up costs a
binary search and not a pass over the rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from hybridmu.core.kernel.partition import check_key, digest
from hybridmu.errors import DataError
from hybridmu.store.dataset.key_index import id_index
from hybridmu.store.dataset.lake import Lake
from hybridmu.store.dataset.layout import SPLITS, id_file, part_of
from hybridmu.types import Key, KeyKind, NamedKey, ResolvedKey, RowKey

Mac = Callable[[KeyKind, object], tuple[str, bytes]]


@dataclass(frozen=True)
class RawKey:
    """An id or group as a caller wrote it.

    Attributes:
        kind: Id or group.
        text: As the caller wrote it.
        value: In the column's own type.
    """

    kind: KeyKind
    text: str
    value: object


class Lookup:
    """Finds the rows of ids and groups.

    Args:
        lake: The tables.
        mac: Makes the guard's HMAC of a raw id or group, with the id of its key.
    """

    def __init__(self, lake: Lake, mac: Mac | None = None) -> None:
        self._lake, self._mac = lake, mac

    def find(self, wanted: Iterable[tuple[KeyKind, object]]) -> tuple[list[ResolvedKey], list[RawKey]]:
        """Find where the keys of a request live.

        Args:
            wanted: (kind, raw id or group) pairs; repeated ones count once.

        Returns:
            (keys with rows, one entry per shard and slice that holds some; keys without), each in the caller's order.

        Raises:
            DataError: A group is asked of a table without groups, or a key has the wrong type.
        """
        asked: dict[Key, RawKey] = {}
        for kind, raw in wanted:
            value = self.typed(kind, raw)
            asked.setdefault((kind, digest(self._lake.key, kind, value)), RawKey(kind, str(raw), value))

        def mac(pair: Key) -> tuple[str, bytes]:
            return self._mac(pair[0], asked[pair].value) if self._mac else ("", b"")

        found = self._find(asked, mac)
        known = [key for pair in asked for key in found.get(pair, [])]
        return known, [unknown for pair, unknown in asked.items() if pair not in found]

    def find_named(self, wanted: Iterable[NamedKey]) -> tuple[list[ResolvedKey], list[NamedKey]]:
        """Find where keys live of which a linked model knows the digests.

        Args:
            wanted: Keys.

        Returns:
            (keys with rows, one entry per shard and slice that holds some; keys without), each in the given order.
        """
        asked = {(key.kind, key.key): key for key in wanted}
        found = self._find(asked, lambda pair: (asked[pair].mac_key, asked[pair].mac))
        known = [key for pair in asked for key in found.get(pair, [])]
        return known, [key for pair, key in asked.items() if pair not in found]

    def _find(self, asked: Iterable[Key], mac: Callable[[Key], tuple[str, bytes]]) -> dict[Key, list[ResolvedKey]]:
        places: dict[int, list[Key]] = {}
        for pair, shard in self._shards_of(asked):
            places.setdefault(shard, []).append(pair)
        # In a grouped table an id may have rows in two shards: one in the training, one in the test table. A group has
        # rows in one slice of every generation that brought it some.
        found: dict[Key, list[ResolvedKey]] = {}
        for shard, pairs in sorted(places.items()):
            for pair, slices in self._rows(shard, pairs).items():
                mac_key, made = mac(pair)
                found.setdefault(pair, []).extend(
                    ResolvedKey(pair[0], pair[1], shard, slice_, tuple(rows), made, mac_key)
                    for slice_, rows in sorted(slices.items())
                )
        return found

    def _rows(self, shard: int, pairs: list[Key]) -> dict[Key, dict[int, list[RowKey]]]:
        """Return key → slice → rows of a shard that carry it."""
        found: dict[Key, dict[int, list[RowKey]]] = {}
        for split in SPLITS:
            for columns in map(self._lake.keys_of, self._lake.files(split, shard)):
                for kind, index in (("id", columns.by_id), ("group", columns.by_group)):
                    keys = [(k, key) for k, key in pairs if k == kind]
                    for pair, rows in zip(keys, index.rows([key for _, key in keys]) if keys else (), strict=True):
                        for row in rows:
                            members = found.setdefault(pair, {}).setdefault(int(columns.slices[row]), [])
                            group = columns.groups[row].tobytes() if columns.groups[row].any() else None
                            members.append(RowKey(columns.ids[row].tobytes(), group, split == "train"))
        return found

    def typed(self, kind: KeyKind, value: object) -> object:
        """Return a key in the column's own type: the text "7" is the integer 7 in an integer column.

        Args:
            kind: Id or group.
            value: As the caller wrote it.

        Raises:
            DataError: A group is asked of a table without groups, or the key is none that a table may hold.
        """
        check_key(value)
        type_ = self._lake.manifest.id_type if kind == "id" else self._lake.manifest.group_type
        if type_ is None:
            raise DataError(
                "this table has no groups", expected="ids", got="a group", remedy="set data.group before training"
            )
        return integer_of(str(value)) if "int" in type_ else str(value)

    def _shards_of(self, asked: Iterable[Key]) -> Iterator[tuple[Key, int]]:
        """Yield (key, shard that may hold it): computed, or looked up for ids of a grouped table."""
        lake = self._lake
        computed = [pair for pair in asked if pair[0] == "group" or lake.manifest.group_type is None]
        if computed:
            joined = np.frombuffer(b"".join(key for _, key in computed), dtype=np.uint8).reshape(-1, 16)
            shards = lake.partitioner.shards_of(joined, lake.shards)
            yield from zip(computed, shards.tolist(), strict=True)
        looked_up: dict[int, list[bytes]] = {}
        for kind, key in asked:
            if kind == "id" and lake.manifest.group_type is not None:
                looked_up.setdefault(part_of(key, lake.shards), []).append(key)
        for part, keys in looked_up.items():
            shards_of: dict[bytes, set[int]] = {key: set() for key in keys}
            for name in lake.index_of(id_file, part):
                lake.check(name)
                index, column = id_index(lake.storage, name)
                for key, rows in zip(keys, index.rows(keys), strict=True):
                    shards_of[key] |= {int(column[row]) for row in rows}
            for key in keys:
                for shard in sorted(shards_of[key]):
                    yield ("id", key), shard


def integer_of(text: str) -> int | str:
    """Return the integer that a text is, or the text: it can't be a key of a column of integers.

    "1_0" and "007" are no integers: a row is never revoked by a typing error.
    """
    try:
        number = int(text)
    except ValueError:
        return text
    return number if str(number) == text else text


def values_of(lake: Lake, key: RawKey) -> list[object]:
    """Return what a key can be in rows that wait: before the first group came, its column has no type yet."""
    if key.kind == "group" and lake.manifest.group_type == "null":
        return list(dict.fromkeys((key.value, integer_of(key.text))))
    return [key.value]
