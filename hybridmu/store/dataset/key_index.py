"""The key columns of lake files, held in memory and sorted for look-ups; reread when a file changes.

Their seal, a hash over the keys of all rows in order, tells a file from any other state of it and from every other one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TypeVar, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from hybridmu.core.kernel.partition import Digests, order_words
from hybridmu.store.dataset.layout import META, digest_column, number_column
from hybridmu.store.storage.parquet import open_parquet, read_parquet
from hybridmu.store.storage.storage import Storage

_T = TypeVar("_T")


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

    def having(self, keys: Digests) -> npt.NDArray[np.int64]:
        """Return the numbers of all rows that have one of these digests, uint8 [k, 16], in any order."""
        words = order_words(keys)
        low = np.searchsorted(self._words, words, side="left")
        counts = np.searchsorted(self._words, words, side="right") - low
        which = np.repeat(np.arange(len(keys)), counts)
        places = np.arange(len(which)) + np.repeat(low - np.cumsum(counts) + counts, counts)
        rows = self._order[places]
        same: npt.NDArray[np.bool_] = (self._digests[rows] == keys[which]).all(axis=1)
        found: npt.NDArray[np.int64] = rows[same]
        return found


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

    def carrying(self, keys: frozenset[tuple[str, bytes]]) -> npt.NDArray[np.int64]:
        """Return the numbers of all rows that carry one of some keys, in any order.

        Args:
            keys: (kind, digest) pairs.
        """
        found = [np.empty(0, dtype=np.int64)]
        for kind, known in (("id", "by_id"), ("group", "by_group")):
            if wanted := b"".join(key for k, key in keys if k == kind):
                found.append(getattr(self, known).having(np.frombuffer(wanted, dtype=np.uint8).reshape(-1, 16)))
        return np.concatenate(found)

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


@dataclass(frozen=True)
class ContentIndex:
    """Training rows by their content: one part of a generation's index.

    Attributes:
        by_content: Digests of features and label, sorted.
        ids: uint8 [n, 16].
        groups: uint8 [n, 16].
        shards: int32 [n], the shard of each row.
    """

    by_content: SortedDigests
    ids: Digests
    groups: Digests
    shards: npt.NDArray[np.int32]


def joined(parts: Sequence[KeyColumns]) -> KeyColumns:
    """Return the columns of several files one after the other."""
    if len(parts) < 2:
        return parts[0] if parts else NO_ROWS
    columns = ([getattr(part, name) for part in parts] for name in ("slices", "ids", "groups", "content"))
    return KeyColumns(*map(np.concatenate, columns))


def key_columns(storage: Storage, name: str) -> KeyColumns:
    """Return the key columns of a lake file, from memory while its content is the same."""
    return stored_keys(storage, name)[1]


def stored_keys(storage: Storage, name: str) -> tuple[pq.FileMetaData, KeyColumns]:
    """Return the footer of a lake file and its key columns, from memory while its content is the same."""
    return _remembered(storage, name, _read_keys)


def stored_content(storage: Storage, name: str) -> ContentIndex:
    """Return one part of the content index, from memory while its content is the same."""
    return _remembered(storage, name, _read_content)


def id_index(storage: Storage, name: str) -> tuple[SortedDigests, npt.NDArray[np.int32]]:
    """Return one part of the id → shard index: its ids, sorted, and the shard of each row."""
    return _remembered(storage, name, _read_ids)


def _remembered(storage: Storage, name: str, read: Callable[[Storage, str], _T]) -> _T:
    """Return what a function reads of a file, from memory while the file's content is the same.

    What a file held before it was rewritten is not kept: a purge takes rows out of memory too.
    """
    newest = _newest(storage.url, name, read)
    version = storage.version(name)  # asked first: what is read may be newer, never older
    if not newest or newest[0][0] != version:
        newest[:] = [(version, storage.settled(lambda: read(storage, name)))]
    return cast("_T", newest[0][1])


@lru_cache(maxsize=256)
def _newest(url: str, name: str, read: object) -> list[tuple[str, object]]:
    """Return a place for one entry: the version of a file, and what was read of it then."""
    return []


def _read_keys(storage: Storage, name: str) -> tuple[pq.FileMetaData, KeyColumns]:
    with open_parquet(storage, name) as file:
        return file.metadata, keys_in(file.read(list(META), use_threads=False))


def _read_content(storage: Storage, name: str) -> ContentIndex:
    table = read_parquet(storage, name, ("_content", "_id", "_group", "shard"))
    content, ids, groups = (digest_column(table, column) for column in ("_content", "_id", "_group"))
    return ContentIndex(SortedDigests(content), ids, groups, number_column(table, "shard"))


def _read_ids(storage: Storage, name: str) -> tuple[SortedDigests, npt.NDArray[np.int32]]:
    table = read_parquet(storage, name, ("_id", "shard"))
    return SortedDigests(digest_column(table, "_id")), number_column(table, "shard")


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
