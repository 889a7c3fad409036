"""The key columns of lake files, held in memory and sorted for look-ups; reread when a file changes.

Their seal, a hash over the keys of all rows in order, tells a file from any other state of it and from every other one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from hybridmu.core.kernel.partition import Digests, order_words
from hybridmu.store.dataset.layout import META, digest_column, number_column
from hybridmu.store.storage.parquet import read_parquet
from hybridmu.store.storage.storage import Storage


class SortedDigests:
    """Digests in the order of their first 8 bytes: a look-up is a binary search.

    Args:
        digests: uint8 [n, 16].
    """

    def __init__(self, digests: Digests) -> None:
        words = order_words(digests) if len(digests) else np.empty(0, dtype=np.uint64)
        self._order = np.argsort(words, kind="stable")
        self._words = words[self._order]
        self._digests = digests

    def rows(self, keys: Sequence[bytes]) -> Iterator[list[int]]:
        """Yield the row numbers that each of these 16-byte digests has."""
        words = order_words(np.frombuffer(b"".join(keys), dtype=np.uint8).reshape(-1, 16))
        low = np.searchsorted(self._words, words, side="left")
        high = np.searchsorted(self._words, words, side="right")
        for key, start, stop in zip(keys, low.tolist(), high.tolist(), strict=True):
            yield [int(row) for row in self._order[start:stop] if self._digests[row].tobytes() == key]


@dataclass(frozen=True)
class KeyColumns:
    """Slice, id, group and content of every row of one file, tombstoned rows included.

    Attributes:
        slices: int32 [n].
        ids: uint8 [n, 16].
        groups: uint8 [n, 16]; zeros where a row has no group.
        content: uint8 [n, 16].
    """

    slices: npt.NDArray[np.int32]
    ids: Digests
    groups: Digests
    content: Digests

    @property
    def owners(self) -> Digests:
        """Return whom each row belongs to, uint8 [n, 16]: its group, or itself."""
        return np.where(np.any(self.groups, axis=1)[:, None], self.groups, self.ids)

    @cached_property
    def seal(self) -> str:
        """Return the seal of a table with these rows, 64 hex digits."""
        return _seal(self.slices, self.ids, self.groups, self.content)

    def where(self, mask: npt.NDArray[np.bool_]) -> KeyColumns:
        """Return the keys of some rows."""
        return KeyColumns(self.slices[mask], self.ids[mask], self.groups[mask], self.content[mask])

    @cached_property
    def by_id(self) -> SortedDigests:
        """Return the ids, sorted."""
        return SortedDigests(self.ids)

    @cached_property
    def by_group(self) -> SortedDigests:
        """Return the groups, sorted."""
        return SortedDigests(self.groups)


_NONE = np.empty((0, 16), dtype=np.uint8)
NO_ROWS = KeyColumns(np.empty(0, dtype=np.int32), _NONE, _NONE, _NONE)


def joined(parts: Sequence[KeyColumns]) -> KeyColumns:
    """Return the columns of several files one after the other."""
    if len(parts) < 2:
        return parts[0] if parts else NO_ROWS
    columns = ([getattr(part, name) for part in parts] for name in ("slices", "ids", "groups", "content"))
    return KeyColumns(*map(np.concatenate, columns))


def key_columns(storage: Storage, name: str) -> KeyColumns:
    """Return the key columns of a lake file, from memory while its content is the same."""
    return _columns(storage.url, name, storage.version(name))


@lru_cache(maxsize=256)
def _columns(url: str, name: str, version: str) -> KeyColumns:
    return keys_in(read_parquet(Storage(url), name, META))


def keys_in(table: pa.Table) -> KeyColumns:
    """Return the key columns of a table that has them."""
    return KeyColumns(
        number_column(table, "_slice"),
        digest_column(table, "_id"),
        digest_column(table, "_group"),
        digest_column(table, "_content"),
    )


def index_seal(table: pa.Table) -> str:
    """Return the seal of an index file with these rows, 64 hex digits."""
    digests = [name for name in ("_id", "_content", "_group") if name in table.schema.names]
    numbers = [name for name in ("shard", "source") if name in table.schema.names]
    return _seal(
        *(digest_column(table, name) for name in digests),
        *(number_column(table, name) for name in numbers),
    )


def stored_seal(storage: Storage, name: str) -> str:
    """Return the seal of an index file, from memory while its content is the same."""
    return _stored_seal(storage.url, name, storage.version(name))


@lru_cache(maxsize=256)
def _stored_seal(url: str, name: str, version: str) -> str:
    return index_seal(read_parquet(Storage(url), name))


def _seal(*columns: npt.NDArray[np.generic]) -> str:
    found = hashlib.blake2b(digest_size=32, person=b"hybridmu-rows")
    for column in columns:
        found.update(len(column).to_bytes(8, "little"))
        found.update(np.ascontiguousarray(column).reshape(-1).view(np.uint8).data)
    return found.hexdigest()


def id_index(storage: Storage, name: str) -> tuple[SortedDigests, npt.NDArray[np.int32]]:
    """Return one part of the id → shard index: its ids, sorted, and the shard of each row."""
    return _ids(storage.url, name, storage.version(name))


@lru_cache(maxsize=256)
def _ids(url: str, name: str, version: str) -> tuple[SortedDigests, npt.NDArray[np.int32]]:
    table = read_parquet(Storage(url), name, ("_id", "shard"))
    return SortedDigests(digest_column(table, "_id")), number_column(table, "shard")
