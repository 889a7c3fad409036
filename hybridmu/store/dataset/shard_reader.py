"""Reading one shard's rows: the keys of all of them, then the features of those that somebody wants.

Decoding and encoding features is most of what reading costs, so row groups without a wanted row are passed over. Every
page that is read is checked against its checksum. The keys of all rows are read once, and again when a file changes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from hybridmu.core.features import FeatureSource, opened
from hybridmu.core.kernel.partition import Digests
from hybridmu.core.kernel.rows import Positions, Rows
from hybridmu.core.kernel.table_encoder import Encoder
from hybridmu.core.targets import empty_outcomes, outcome_columns
from hybridmu.errors import StorageError
from hybridmu.store.dataset.key_index import joined, stored_keys
from hybridmu.store.dataset.layout import as_given, stored_name
from hybridmu.store.dataset.list_packing import unpacked
from hybridmu.store.storage.parquet import open_parquet
from hybridmu.store.storage.storage import Storage
from hybridmu.types import KeySet

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
        self._storage, self._encoder, self._source = storage, encoder, features
        found = [(name, *stored_keys(storage, name)) for name in names]
        for name, _, keys in found:
            compare(name, keys.seal)
        self._files = [(name, metadata) for name, metadata, _ in found]
        self._keys = [keys for _, _, keys in found]
        whole = joined(self._keys)
        self.outline = outline(whole.slices, whole.ids, whole.groups, whole.content)

    @property
    def seals(self) -> tuple[str, ...]:
        """Return the seal of every table: equal seals, equal outlines."""
        return tuple(keys.seal for keys in self._keys)

    def carrying(self, keys: KeySet) -> npt.NDArray[np.bool_]:
        """Return which rows carry one of some keys, bool [n]; as `carries`, but without a look at every row."""
        found = np.zeros(len(self.outline), dtype=np.bool_)
        start = 0
        for part in self._keys:
            found[start + part.carrying(keys)] = True
            start += len(part.slices)
        return found

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

    def _features(self, positions: Positions) -> Iterator[tuple[Positions, pa.Table]]:
        """Yield the positions, features and labels of the row groups that hold any of some rows, a few at a time."""  # noqa: DOC501
        names = [*outcome_columns(self._encoder), *(column.name for column in self._encoder.columns)]
        columns = [stored_name(name) for name in names]
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
