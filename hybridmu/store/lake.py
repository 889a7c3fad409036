"""Reading the Parquet lake: live rows as tensors, where keys live, exact counts.

Tombstoned rows stay in the files until purge; every reader names the keys to leave out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch

from hybridmu.config import Settings
from hybridmu.core.partition import Digests, digest, place
from hybridmu.core.rows import Rows, carries
from hybridmu.errors import DataError, StateError
from hybridmu.store.blobs import Storage
from hybridmu.store.layout import (
    DIGEST,
    MANIFEST,
    META,
    SPLITS,
    Manifest,
    Split,
    content_file,
    digest_column,
    id_file,
    part_of,
    read_index,
    shard_file,
)
from hybridmu.types import KeyKind, ResolvedKey


class Lake:
    """The tables of one system.

    Args:
        settings: Names the source columns, shards, slices and the partition key.
        storage: Where the lake is kept.
    """

    def __init__(self, settings: Settings, storage: Storage) -> None:
        self.settings, self.storage = settings, storage
        self.shards, self.slices = settings.sisa.shards, settings.sisa.slices
        self.key = settings.partition_key()
        self._manifest: Manifest | None = None

    @property
    def exists(self) -> bool:
        """Return whether the source was read completely."""
        return self.storage.exists(MANIFEST)

    @property
    def manifest(self) -> Manifest:
        """Return the manifest.

        Raises:
            StateError: Nothing was ingested yet.
        """
        if self._manifest is None:
            if not self.exists:
                raise StateError(
                    f"nothing was trained in {self.storage.url}", remedy="run `hybridmu train -c CONFIG` first"
                )
            self._manifest = Manifest.from_bytes(self.storage.read(MANIFEST))
        return self._manifest

    def rows(self, split: Split, shard: int, revoked: set[tuple[str, bytes]], *, only_revoked: bool = False) -> Rows:
        """Return the live rows of a shard as tensors, or only the revoked ones.

        Args:
            split: Which table.
            shard: Shard number.
            revoked: (kind, digest) of tombstoned keys.
            only_revoked: Return what live reading leaves out (a removal's or audit's fenced read).

        Returns:
            Rows in canonical order; encoded slice by slice, so memory stays near the tensors' own size.
        """
        encoder = self.manifest.encoder
        total = sum(self.manifest.rows[split][shard]) if split in self.manifest.rows else 0
        x = np.empty((total, encoder.features), dtype=np.float32)
        y = np.empty(total, dtype=np.int64)
        slices = np.empty(total, dtype=np.int32)
        metas = {name: np.empty((total, 16), dtype=np.uint8) for name in META[1:]}
        at = 0
        for table in self._groups(split, shard) if total else ():
            ids, groups = digest_column(table, "_id"), digest_column(table, "_group")
            mask = carries(ids, groups, revoked)
            mask = mask if only_revoked else ~mask
            if not mask.any():
                continue
            kept = table if mask.all() else table.filter(pa.array(mask))
            stop = at + kept.num_rows
            x[at:stop] = encoder.encode(kept)
            y[at:stop] = encoder.encode_labels(kept)
            slices[at:stop] = kept.column("_slice").to_numpy()
            for name, column in metas.items():
                column[at:stop] = digest_column(kept, name)
            at = stop
        return Rows(
            torch.from_numpy(x[:at]),
            torch.from_numpy(y[:at]),
            slices[:at],
            metas["_id"][:at],
            metas["_group"][:at],
            metas["_content"][:at],
        )

    def keys(self, split: Split, shard: int) -> tuple[npt.NDArray[np.int32], Digests, Digests, Digests]:
        """Return (slice, id, group, content digests) of every row of a shard, tombstoned ones included."""
        name = shard_file(split, shard)
        if split not in self.manifest.rows or not self.storage.exists(name):
            none = np.empty((0, 16), dtype=np.uint8)
            return np.empty(0, dtype=np.int32), none, none, none
        return _key_columns(self.storage, name)

    def outline(self, shard: int, revoked: set[tuple[str, bytes]]) -> Rows:
        """Return the live training rows of a shard without features and labels: enough for lineage keys."""
        slices, ids, groups, content = self.keys("train", shard)
        live = ~carries(ids, groups, revoked)
        none = torch.empty(0)
        return Rows(none, none, slices[live], ids[live], groups[live], content[live])

    def resolve(
        self, wanted: Iterable[tuple[KeyKind, object]], revoked: dict[int, set[tuple[str, bytes]]]
    ) -> tuple[list[ResolvedKey], list[ResolvedKey], list[str]]:
        """Find where the keys of a request live.

        Args:
            wanted: (kind, raw id or group) pairs.
            revoked: Shard → (kind, digest) of tombstones that exist already.

        Returns:
            (keys with live rows, keys whose rows are all revoked already, unknown keys), each in the caller's order,
            the unknown ones as the caller wrote them; an entry per shard for a key with rows in several.

        Raises:
            DataError: A group is asked of a table without groups, or a key has the wrong type.
        """
        asked: dict[tuple[KeyKind, bytes], str] = {}
        places: dict[int, set[tuple[KeyKind, bytes]]] = {}
        for kind, value in wanted:
            key = digest(self.key, kind, self._typed(kind, value))
            if (kind, key) not in asked:
                asked[kind, key] = str(value)
        for pair, shard in self._shards_of(asked):
            places.setdefault(shard, set()).add(pair)
        # In a grouped table an id may have rows in two shards: one in the training, one in the test table.
        found: dict[tuple[KeyKind, bytes], list[ResolvedKey]] = {}
        for shard, pairs in sorted(places.items()):
            for item in self._count(shard, pairs, revoked.get(shard, set())):
                found.setdefault((item.kind, item.key), []).append(item)
        fresh = [item for pair in asked for item in found.get(pair, []) if item.rows]
        live = {(item.kind, item.key) for item in fresh}
        known = [item for pair in asked if pair not in live for item in found.get(pair, [])]
        return fresh, known, [value for pair, value in asked.items() if pair not in found]

    def counts(
        self, split: Split, shard: int, revoked: set[tuple[str, bytes]]
    ) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return (live, revoked) rows per slice 1..R of a shard."""
        slices, ids, groups, _ = self.keys(split, shard)
        mask = carries(ids, groups, revoked)

        def per_slice(chosen: npt.NDArray[np.int32]) -> tuple[int, ...]:
            return tuple(int(c) for c in np.bincount(chosen, minlength=self.slices + 1)[1:])

        return per_slice(slices[~mask]), per_slice(slices[mask])

    def twins(self, keys: Sequence[ResolvedKey], revoked: dict[int, set[tuple[str, bytes]]]) -> int:
        """Count live training rows with the same features and label as a row that `keys` revoke.

        Args:
            keys: What a request is about to revoke.
            revoked: Shard → tombstones, `keys` included.

        Returns:
            Number of live twins over all shards; content digests are looked up in files partitioned by them.
        """
        going: set[bytes] = set()
        for shard in sorted({key.shard for key in keys}):
            _, ids, groups, content = self.keys("train", shard)
            mask = carries(ids, groups, {(k.kind, k.key) for k in keys if k.shard == shard})
            going |= {row.tobytes() for row in content[mask]}
        twins = 0
        for part in sorted({part_of(content, self.shards) for content in going}):
            table = read_index(self.storage, content_file(part))
            hits = table.filter(pc.is_in(table["_content"], value_set=pa.array(sorted(going), type=DIGEST)))
            for shard in sorted(set(hits["shard"].to_pylist())):
                mine = hits.filter(pc.equal(hits["shard"], shard))
                ids, groups = digest_column(mine, "_id"), digest_column(mine, "_group")
                twins += int((~carries(ids, groups, revoked.get(shard, set()))).sum())
        return twins

    def _typed(self, kind: KeyKind, value: object) -> object:
        """Return a key in the column's own type: the text "7" is the integer 7 in an integer column.

        Raises:
            DataError: A group is asked of a table without groups.
        """
        type_ = self.manifest.id_type if kind == "id" else self.manifest.group_type
        if type_ is None:
            raise DataError(
                "this table has no groups", expected="ids", got="a group", remedy="set data.group before training"
            )
        if "int" not in type_:
            return str(value)
        text = str(value)
        try:
            number = int(text)
        except ValueError:
            return text  # can't be a key of this column, so it will be reported as unknown
        return number if str(number) == text else text  # nor can "1_0" or "007": never revoke a row by a typing error

    def _shards_of(self, asked: Iterable[tuple[KeyKind, bytes]]) -> Iterator[tuple[tuple[KeyKind, bytes], int]]:
        """Yield (key, shard that may hold it): computed, or looked up for ids of a grouped table."""
        looked_up: dict[int, list[bytes]] = {}
        for kind, key in asked:
            if kind == "group" or self.manifest.group_type is None:
                shard, _ = place(np.frombuffer(key, dtype=np.uint8).reshape(1, 16), self.shards, self.slices)
                yield (kind, key), int(shard[0])
            else:
                looked_up.setdefault(part_of(key, self.shards), []).append(key)
        for part, keys in looked_up.items():
            if not self.storage.exists(id_file(part)):
                continue
            table = read_index(self.storage, id_file(part))
            hits = table.filter(pc.is_in(table["_id"], value_set=pa.array(keys, type=DIGEST)))
            for key, number in set(zip(hits["_id"].to_pylist(), hits["shard"].to_pylist(), strict=True)):
                yield ("id", key), number

    def _count(
        self, shard: int, asked: set[tuple[KeyKind, bytes]], revoked: set[tuple[str, bytes]]
    ) -> list[ResolvedKey]:
        """Return one entry per asked key with rows in this shard; `rows` counts those not revoked yet."""
        found: dict[tuple[KeyKind, bytes], tuple[int, list[bool], set[bytes]]] = {}
        for split in SPLITS:
            slices, ids, groups, _ = self.keys(split, shard)
            dead = carries(ids, groups, revoked)
            mine = np.flatnonzero(carries(ids, groups, {(str(k), d) for k, d in asked}))
            for row in mine:
                pairs: tuple[tuple[KeyKind, bytes], ...] = (
                    ("id", ids[row].tobytes()),
                    ("group", groups[row].tobytes()),
                )
                for pair in pairs:
                    if pair in asked:
                        _, live, carriers = found.setdefault(pair, (int(slices[row]), [], set()))
                        live.append(not dead[row])
                        carriers.update(digest for _, digest in pairs)
        return [
            ResolvedKey(kind, key, shard, slice_, sum(live), tuple(sorted(carriers)))
            for (kind, key), (slice_, live, carriers) in found.items()
        ]

    def _groups(self, split: Split, shard: int) -> Iterator[pa.Table]:
        with self.storage.fs.open_input_file(self.storage.path(shard_file(split, shard))) as source:
            file = pq.ParquetFile(source, pre_buffer=False)
            for number in range(file.num_row_groups):
                yield file.read_row_group(number, use_threads=False)
            pa.default_memory_pool().release_unused()


@lru_cache(maxsize=256)
def _cached_keys(url: str, name: str, stamp: int) -> tuple[npt.NDArray[np.int32], Digests, Digests, Digests]:
    storage = Storage(url)
    table = pq.read_table(storage.path(name), filesystem=storage.fs, columns=list(META))
    return (
        table["_slice"].to_numpy().astype(np.int32),
        digest_column(table, "_id"),
        digest_column(table, "_group"),
        digest_column(table, "_content"),
    )


def _key_columns(storage: Storage, name: str) -> tuple[npt.NDArray[np.int32], Digests, Digests, Digests]:
    info = storage.fs.get_file_info(storage.path(name))
    return _cached_keys(storage.url, name, int(info.mtime_ns or 0))
