"""Number of slices that the people of a table can fill. Pure.

The owner of rows (a group, or an id without one) lies in one slice of one shard, by a hash. A few dozen people leave
slices of many empty: such a slice is trained again on what the slices before it hold, and no deletion gets any cheaper
by it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hybridmu.core.kernel.partition import Digests
from hybridmu.core.partitioners import Partitioner

# A partition that leaves more slices empty than this in the mean leaves none empty once in twenty keys: not tried.
_HOPELESS = 3.0


def empty_slices(rows: Sequence[Sequence[int]]) -> int:
    """Return how many slices have no row.

    Args:
        rows: Rows per shard, per slice.

    Example:
        >>> empty_slices([[3, 0], [0, 0]])
        3
    """
    return sum(count == 0 for shard in rows for count in shard)


def fitting(partitioner: Partitioner, owners: Digests, shards: int, slices: int) -> tuple[int, int]:
    """Return the finest partition that leaves no slice empty, under the key of these digests.

    Args:
        partitioner: Places the rows.
        owners: uint8 [n, 16], the groups of the rows, or their ids without groups; at least one, each once.
        shards: S, the most shards.
        slices: R, the most slices.

    Returns:
        (S', R'), of all that have the most slices in all the one of most shards; (1, 1) always fits.
    """
    pairs = [(s, r) for s in range(1, shards + 1) for r in range(1, slices + 1)]
    finest = sorted(pairs, key=lambda pair: (pair[0] * pair[1], pair[0]), reverse=True)
    return next(
        (s, r)
        for s, r in finest
        if s * r * (1 - 1 / (s * r)) ** len(owners) <= _HOPELESS and _fills(partitioner, owners, s, r)
    )


def _fills(partitioner: Partitioner, owners: Digests, shards: int, slices: int) -> bool:
    shard, slice_ = partitioner.place(owners, shards, slices)
    return len(np.unique(shard * slices + slice_ - 1)) == shards * slices
