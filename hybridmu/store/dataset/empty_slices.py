"""Warnings about a dataset with too few people for its slices."""

from __future__ import annotations

import numpy as np

from hybridmu.planning.partition_sizing import empty_slices, fitting
from hybridmu.store.dataset.lake import Lake


def warnings_of(lake: Lake) -> list[str]:
    """Return a warning when slices of the first generation got no row, with the partition that would suit the data.

    Args:
        lake: Its tables are read only when there is something to warn of; the keys alone then.
    """
    first = lake.manifest.generations[0]
    rows = first.rows["train"]
    empty, slices = empty_slices(rows), len(rows) * first.slices
    if not empty:
        return []
    found = [lake.keys("train", shard) for shard in range(lake.shards)]
    everyone = np.unique(np.concatenate([keys.owners[keys.slices <= first.slices] for keys in found]), axis=0)
    if not len(everyone):  # all are forgotten by now
        return []
    shards, each = fitting(lake.partitioner, everyone, lake.shards, first.slices)
    whose = f"values of data.group ({lake.settings.data.group})" if lake.settings.data.group else "ids"
    return [
        f"{empty} of {slices} slices have no row: {len(everyone)} {whose} are too few for {lake.shards} shards of "
        f"{first.slices} slices. An empty slice is trained all the same, and makes no deletion cheaper. "
        f"sisa: {{shards: {shards}, slices: {each}}} leaves none empty (`hybridmu reshard`, or another storage_url)"
    ]
