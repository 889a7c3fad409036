"""Reading one shard's rows: the keys of all of them, then the features of those that somebody wants.

Decoding and encoding features is most of what reading costs, so row groups without a wanted row are passed over. Every
page that is read is checked against its checksum; the keys of all rows always are, so that none is missed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from hybridmu.core.features import FeatureSource, opened
from hybridmu.core.kernel.partition import Digests
from hybridmu.core.kernel.rows import Positions, Rows
from hybridmu.core.kernel.table_encoder import Encoder
from hybridmu.core.targets import empty_outcomes
from hybridmu.errors import StorageError
from hybridmu.store.dataset.key_index import keys_in
from hybridmu.store.dataset.layout import META, as_given, digest_column, stored_name
from hybridmu.store.dataset.list_packing import unpacked
from hybridmu.store.storage.parquet import open_parquet
from hybridmu.store.storage.storage import Storage

# Row groups are decoded together up to so many bytes: a call costs as much per column as a row group does, and a reader
# holds a few times what it decodes.
_BATCH_BYTES = 24 << 20


class ShardTables:
    """One shard's tables of all generations, as one run of rows in canonical order; positions count through them.

    Args:
        storage: Where they are.
        names: The tables, one per generation, in that order.
        encoder: Feature columns, label and classes.
        features: Makes numbers of the feature columns.
        compare: Called with the name and the seal of every table before a row of it is used.

    Attributes:
        outline: Keys of every row, tombstoned ones included.

    Raises:
        StorageError: A table is damaged, or not the one that was recorded.
    """

    def __init__(
        self,
        storage: Storage,
        names: Sequence[str],
        encoder: Encoder,
        features: FeatureSource,
        compare: Callable[[str, str], None],
    ) -> None:
        self._storage, self._encoder, self._source, self._compare = storage, encoder, features, compare
        found = [(name, *self._keys(name)) for name in names]
        self._files = [(name, metadata) for name, metadata, _ in found]
        tables = [keys for _, _, keys in found]
        none = np.empty((0, 16), dtype=np.uint8)
        columns = ([digest_column(table, name) for table in tables] for name in META[1:])
        ids, groups, content = (np.concatenate([none, *parts]) for parts in columns)
        slices = [table.column("_slice").to_numpy() for table in tables]
        self.outline = outline(np.concatenate([np.empty(0, dtype=np.int32), *slices]), ids, groups, content)

    def rows(self, *wanted: Positions) -> tuple[Rows, ...]:
        """Return rows with their features, from one pass over the row groups that hold any of them.

        Args:
            wanted: Positions, sorted, each once.

        Returns:
            The rows at each of these, in that order; encoded some row groups at a time, so memory stays near the
            tensors' own size.

        Raises:
            StorageError: A table is damaged, or was replaced after its keys were read.
        """
        width = self._source.width(self._encoder)
        x = [np.empty((len(positions), width), dtype=np.float32) for positions in wanted]
        y = [empty_outcomes(self._encoder, len(positions)) for positions in wanted]
        transform = opened(self._source, self._encoder)
        some = np.zeros(len(self.outline), dtype=np.bool_)
        for positions in wanted:
            some[positions] = True
        for places, table in self._features(np.flatnonzero(some)):
            for positions, features, labels in zip(wanted, x, y, strict=True):
                low, high = np.searchsorted(positions, (places[0], places[-1] + 1))
                if low < high:
                    kept = _kept(table, np.searchsorted(places, positions[low:high]))
                    transform(kept, features[low:high])
                    labels[low:high] = self._encoder.encode_labels(kept)
        return tuple(
            replace(self._outline_of(positions), x=torch.from_numpy(x[number]), y=torch.from_numpy(y[number]))
            for number, positions in enumerate(wanted)
        )

    def _outline_of(self, positions: Positions) -> Rows:
        return self.outline if len(positions) == len(self.outline) else self.outline.take(positions)

    def _keys(self, name: str) -> tuple[pq.FileMetaData, pa.Table]:
        with open_parquet(self._storage, name) as file:
            found = file.read(list(META), use_threads=False)
            self._compare(name, keys_in(found).seal)
            return file.metadata, found

    def _features(self, positions: Positions) -> Iterator[tuple[Positions, pa.Table]]:
        """Yield the positions, features and labels of the row groups that hold any of some rows, a few at a time."""  # noqa: DOC501
        columns = [stored_name(self._encoder.label), *(stored_name(column.name) for column in self._encoder.columns)]
        start = 0
        for name, metadata in self._files:
            bounds = start + np.cumsum([0, *(metadata.row_group(g).num_rows for g in range(metadata.num_row_groups))])
            start = int(bounds[-1])
            needed = np.flatnonzero(np.diff(np.searchsorted(positions, bounds))).tolist()
            if not needed:
                continue
            with open_parquet(self._storage, name, coded=True) as file:
                if not file.metadata.equals(metadata):
                    raise StorageError(
                        f"{name} in {self._storage.url} was replaced while it was read",
                        expected="one reader or one purge of a shard at a time",
                        remedy="try again",
                    )
                for groups in _batches(metadata, needed):
                    places = np.concatenate([np.arange(bounds[group], bounds[group + 1]) for group in groups])
                    yield places, as_given(unpacked(file.read_row_groups(groups, columns, use_threads=False)))


def outline(slices: npt.NDArray[np.int32], ids: Digests, groups: Digests, content: Digests) -> Rows:
    """Return rows without features and labels.

    Args:
        slices: int32 [n], not decreasing.
        ids: uint8 [n, 16].
        groups: uint8 [n, 16].
        content: uint8 [n, 16].
    """
    none = torch.empty(0)
    return Rows(none, none, slices, ids, groups, content)


def _kept(table: pa.Table, rows: Positions) -> pa.Table:
    """Return some rows of a table, in its order."""
    if len(rows) == len(table):
        return table
    mask = np.zeros(len(table), dtype=np.bool_)
    mask[rows] = True
    return table.filter(pa.array(mask))


def _batches(metadata: Any, groups: Sequence[int]) -> Iterator[list[int]]:
    batch: list[int] = []
    size = 0
    for group in groups:
        more = metadata.row_group(group).total_byte_size
        if batch and size + more > _BATCH_BYTES:
            yield batch
            batch, size = [], 0
        batch.append(group)
        size += more
    yield batch
