"""CheckpointKeeper: keeps checkpoints within their budget. Planner and retrains look at what is really there."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection

from hybridmu.core.kernel.training import trained_epochs
from hybridmu.errors import StorageError
from hybridmu.faults import reach
from hybridmu.planning.checkpoint_retention import EvictionPlan, ShardCheckpoints, evict
from hybridmu.runtime.workers.context import Site
from hybridmu.store.ledger.ledger import Ledger
from hybridmu.store.ledger.registry import Registry
from hybridmu.types import SliceRecord, SubModelRecord

_log = logging.getLogger(__name__)


class CheckpointKeeper:
    """Plans evictions for the served version and carries them out.

    Args:
        site: Blobs, recipe and the budget.
        ledger: Revoked rows per shard and slice.
        registry: The served version.
    """

    def __init__(self, site: Site, ledger: Ledger, registry: Registry) -> None:
        self.site, self.ledger, self.registry = site, ledger, registry
        # Shard → what its last exact run left, which slices of it are there, bytes of one: looked up once per run.
        self._seen: dict[int, tuple[tuple[SliceRecord, ...], tuple[bool, ...], int]] = {}

    def evict_surplus(self, busy_shards: Collection[int]) -> EvictionPlan | None:
        """Evict what is over the budget.

        Args:
            busy_shards: Shards with a job; their checkpoints stay for now.

        Returns:
            What was done; None without a budget, or when storage failed and the next run has to try again.
        """
        if self.site.settings.checkpoints.budget_bytes is None:
            return None
        try:
            plan = self.plan(busy_shards)
            self.apply(plan)
        except StorageError as error:  # too many checkpoints do no harm; what is in flight must go on
            self._seen.clear()
            _log.warning("checkpoints could not be evicted: %s", error)
            return None
        return plan

    def plan(self, busy_shards: Collection[int] = ()) -> EvictionPlan:
        """Return what would be evicted; changes nothing."""
        facts = self.facts(lambda sub: self.site.made_alike(sub.shard, sub.head), busy_shards)
        return evict(facts, self.site.settings.checkpoints.budget_bytes)

    def facts(
        self, usable: Callable[[SubModelRecord], bool], busy_shards: Collection[int] = ()
    ) -> tuple[ShardCheckpoints, ...]:
        """Return what the pure planners need to know of every shard that has checkpoints.

        Args:
            usable: Whether a retrain would start from the checkpoints of this sub-model: same code and libraries.
            busy_shards: Shards with a job.
        """
        counts = self.ledger.counts()
        return tuple(
            self._facts(sub, counts.get(sub.shard, {}), usable(sub), sub.shard in set(busy_shards))
            for sub in self.registry.version().shards
            if sub.checkpoints
        )

    def apply(self, plan: EvictionPlan) -> None:
        """Delete what a plan evicts; an interrupted call is finished by the next plan."""
        by_shard: dict[int, set[int]] = {}
        for shard, slice_ in plan.evicted:
            by_shard.setdefault(shard, set()).add(slice_)
        for sub in self.registry.version().shards:
            if slices := by_shard.get(sub.shard):
                gone = [record for record in sub.checkpoints if record.slice in slices]
                # Equal weights share their bytes: those of a checkpoint that stays, or of the live sub-model.
                kept = {record.blob for record in sub.checkpoints if record.slice not in slices} | {sub.blob}
                self._seen.pop(sub.shard, None)
                self.site.blobs.drop(
                    sub.shard, {record.blob for record in gone} - kept, {record.lineage_key for record in gone}
                )
                reach("evict.dropped")

    def _facts(
        self, sub: SubModelRecord, counts: dict[int, tuple[int, int, int]], usable: bool, busy: bool
    ) -> ShardCheckpoints:
        # counts: slice → training rows (out of the last exact run, revoked since, of these not removed at all)
        recipe = self.site.recipe_for(sub.shard, sub.generations)
        slices = len(recipe.epochs)
        existing, size = self._existing(sub, slices)
        ingested = self.site.lake.manifest.rows["train"][sub.shard][:slices]
        revoked = [counts.get(i, (0, 0, 0)) for i in range(1, slices + 1)]
        owed = next((i for i, (_, since, _) in enumerate(revoked) if since), slices)
        live = tuple(rows - base - since for rows, (base, since, _) in zip(ingested, revoked, strict=True))
        return ShardCheckpoints(
            shard=sub.shard,
            epochs=trained_epochs(recipe, live),
            rows=live,
            existing=existing,
            bytes_each=size,
            clean=owed if usable else 0,
            busy=busy,
        )

    def _existing(self, sub: SubModelRecord, slices: int) -> tuple[tuple[bool, ...], int]:
        """Return whether each slice's checkpoint is there, and the bytes of one."""
        seen = self._seen.get(sub.shard)
        if seen is None or seen[0] != sub.checkpoints:
            _, keys = self.site.blobs.listed(sub.shard)
            sizes = self.site.blobs.sizes(sub.shard)
            there = {r.slice: sizes[r.blob] for r in sub.checkpoints if r.lineage_key in keys and r.blob in sizes}
            existing = tuple(i in there for i in range(1, slices + 1))
            seen = self._seen[sub.shard] = (sub.checkpoints, existing, max(there.values(), default=0))
        return seen[1], seen[2]
