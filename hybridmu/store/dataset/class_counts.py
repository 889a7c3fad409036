"""Counting rows by class: reads labels and keys of a shard, no features."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from hybridmu.core.kernel.revoked_keys import carries
from hybridmu.store.dataset.lake import Lake
from hybridmu.store.dataset.layout import as_given, digest_column, stored_name
from hybridmu.store.storage.parquet import read_parquet
from hybridmu.types import KeySet

Counts = npt.NDArray[np.int64]


def class_counts(lake: Lake, shard: int, generations: int, out: KeySet, revoked: KeySet) -> tuple[Counts, Counts]:
    """Count the training rows of a shard, and how many of them are revoked.

    Args:
        lake: The tables.
        shard: Shard number.
        generations: Of the first so many generations.
        out: Keys of rows that the model does not hold any more; they are not counted.
        revoked: Keys of those that it has to lose.

    Returns:
        Two int64 [classes].
    """
    encoder = lake.manifest.encoder
    rows, gone = np.zeros((2, len(encoder.classes)), dtype=np.int64)
    for name in lake.files("train", shard, generations):
        label = stored_name(encoder.label)
        table = read_parquet(lake.storage, name, ("_id", "_group", label))
        ids, groups = digest_column(table, "_id"), digest_column(table, "_group")
        labels, there = encoder.encode_labels(as_given(table.select([label]))), ~carries(ids, groups, out)
        rows += np.bincount(labels[there], minlength=len(rows))
        gone += np.bincount(labels[there & carries(ids, groups, revoked)], minlength=len(rows))
    return rows, gone
