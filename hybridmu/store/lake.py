"""Reading the Parquet lake: live rows as tensors, exact counts, twins.

Tombstoned rows stay in the files until purge; every reader names the keys to leave out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import torch

from hybridmu.config import Settings
from hybridmu.core.rows import Rows, carries
from hybridmu.errors import StateError
from hybridmu.store.columns import NO_ROWS, KeyColumns, key_columns
from hybridmu.store.layout import (
    DIGEST,
    MANIFEST,
    META,
    Manifest,
    Split,
    content_file,
    digest_column,
    id_file,
    part_of,
    shard_file,
)
from hybridmu.store.parquet import open_parquet, read_parquet
from hybridmu.store.storage import Storage
from hybridmu.types import ResolvedKey


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

    def keys(self, split: Split, shard: int) -> KeyColumns:
        """Return the keys of every row of a shard, tombstoned ones included."""
        name = shard_file(split, shard)
        there = split in self.manifest.rows and self.storage.exists(name)
        return key_columns(self.storage, name) if there else NO_ROWS

    def files(self, split: Split, shard: int) -> list[str]:
        """Return the names of a shard's tables that are there."""
        name = shard_file(split, shard)
        return [name] if split in self.manifest.rows and self.storage.exists(name) else []

    def index_files(self, part: int) -> list[str]:
        """Return the names of one part of the indexes that are there."""
        return [name for name in (id_file(part), content_file(part)) if self.storage.exists(name)]

    def keys_of(self, name: str) -> KeyColumns:
        """Return the keys of every row of one table, tombstoned ones included."""
        return key_columns(self.storage, name)

    def outline(self, shard: int, revoked: set[tuple[str, bytes]]) -> Rows:
        """Return the live training rows of a shard without features and labels: enough for lineage keys."""
        keys = self.keys("train", shard)
        live = ~carries(keys.ids, keys.groups, revoked)
        none = torch.empty(0)
        return Rows(none, none, keys.slices[live], keys.ids[live], keys.groups[live], keys.content[live])

    def counts(
        self, split: Split, shard: int, revoked: set[tuple[str, bytes]]
    ) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return (live, revoked) rows per slice 1..R of a shard."""
        keys = self.keys(split, shard)
        mask = carries(keys.ids, keys.groups, revoked)

        def per_slice(chosen: npt.NDArray[np.int32]) -> tuple[int, ...]:
            return tuple(int(c) for c in np.bincount(chosen, minlength=self.slices + 1)[1:])

        return per_slice(keys.slices[~mask]), per_slice(keys.slices[mask])

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
            held = self.keys("train", shard)
            mask = carries(held.ids, held.groups, {(k.kind, k.key) for k in keys if k.shard == shard})
            going |= {row.tobytes() for row in held.content[mask]}
        twins = 0
        for part in sorted({part_of(content, self.shards) for content in going}):
            table = read_parquet(self.storage, content_file(part))
            hits = table.filter(pc.is_in(table["_content"], value_set=pa.array(sorted(going), type=DIGEST)))
            for shard in sorted(set(hits["shard"].to_pylist())):
                mine = hits.filter(pc.equal(hits["shard"], shard))
                ids, groups = digest_column(mine, "_id"), digest_column(mine, "_group")
                twins += int((~carries(ids, groups, revoked.get(shard, set()))).sum())
        return twins

    def _groups(self, split: Split, shard: int) -> Iterator[pa.Table]:
        with open_parquet(self.storage, shard_file(split, shard)) as file:
            for number in range(file.num_row_groups):
                yield file.read_row_group(number, use_threads=False)
            pa.default_memory_pool().release_unused()
