"""LiveRows: the live training rows of one shard, kept in memory between jobs."""

from __future__ import annotations

from hybridmu.core.kernel.revoked_keys import carries
from hybridmu.core.kernel.rows import Rows
from hybridmu.core.kernel.training import Recipe
from hybridmu.core.proof.lineage import Lineage, lineage
from hybridmu.core.proof.merkle import Leaves, make_leaves
from hybridmu.runtime.workers.context import Site
from hybridmu.types import NO_KEYS, KeySet


class LiveRows:
    """Reads a shard's rows once; what is tombstoned leaves memory for good.

    Args:
        site: The system.
        shard: Shard number.

    Attributes:
        read: Rows that were read from storage so far.
    """

    def __init__(self, site: Site, shard: int) -> None:
        self._site, self._shard = site, shard
        self.read = 0
        self._rows: Rows | None = None
        self._leaves: Leaves | None = None  # of the rows, in their order, once they were needed
        self._gone = NO_KEYS
        self._generations = 0  # how many of them the rows are of

    def without(self, tombstones: KeySet, generations: int) -> Rows:
        """Return the live rows.

        Args:
            tombstones: Keys of every deletion in the shard.
            generations: Of the first so many generations of rows.
        """
        if self._rows is None or self._generations != generations:
            self._rows = self._site.lake.rows("train", self._shard, tombstones, generations=generations)
            self.read += len(self._rows)
            # An id that was purged once may have come back: what is gone is known again.
            self._leaves, self._gone, self._generations = None, tombstones, generations
        self.drop(tombstones)
        return self._rows

    def drop(self, tombstones: KeySet) -> None:
        """Take rows out of memory."""
        fresh = KeySet(tombstones - self._gone)
        if not fresh:
            return
        self._gone = KeySet(self._gone | fresh)
        if self._rows is not None:
            kept = ~carries(self._rows.ids, self._rows.groups, fresh)
            self._rows = self._rows.where(kept)
            self._leaves = None if self._leaves is None else self._leaves[kept]

    def lineage(self, live: Rows, recipe: Recipe) -> Lineage:
        """Return the lineage of a training on the rows that `without` returned last.

        Args:
            live: These rows.
            recipe: How they are trained on.
        """
        salt = self._site.lake.manifest.salt
        if self._leaves is None:
            self._leaves = make_leaves(salt, live.ids, live.content)
        return lineage(self._site.lineage_static(), live, recipe, self._shard, salt, self._leaves)
