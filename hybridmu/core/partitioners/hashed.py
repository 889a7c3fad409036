"""Places by a keyed hash of the owner: evenly spread, and computed without a look-up (SISA, arXiv 1912.03817)."""

from __future__ import annotations

from hybridmu.core.kernel.partition import Digests, place
from hybridmu.core.partitioners.partitioner import Numbers, Partitioner


class Hashed(Partitioner):
    """The first half of an owner's digest says the shard, the second half the slice."""

    name = "hashed"

    def place(self, owners: Digests, shards: int, slices: int) -> tuple[Numbers, Numbers]:
        """Return (shard 0..S−1, slice 1..R) of each row."""
        return place(owners, shards, slices)
