"""Planning a removal on top of the served version: gathers what the pure planner needs; changes nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from functools import cached_property

from hybridmu.core.kernel.training import trained_epochs
from hybridmu.core.strategies import asks_canaries, asks_exact, needs_model
from hybridmu.planning import cost
from hybridmu.planning.canary_schedule import class_excess
from hybridmu.planning.planner import Pools, make_plan
from hybridmu.runtime.coordinator.canary_jobs import Canaries
from hybridmu.runtime.coordinator.planner_policy import policy_of
from hybridmu.runtime.workers.context import Site
from hybridmu.store.dataset.class_counts import class_counts
from hybridmu.store.ledger.ledger import Ledger
from hybridmu.store.ledger.measurements import Measurements
from hybridmu.store.ledger.registry import Registry
from hybridmu.types import (
    Calibration,
    KeySet,
    Plan,
    ResolvedKey,
    ShardStats,
    StrategyChoice,
    StrategyName,
    SubModelRecord,
)
from hybridmu.user_code import contained


class RemovalPlanner:
    """Counts workloads, fits costs, and asks the planner.

    Args:
        site: Lake, blobs and recipe.
        ledger: Revoked rows per shard and slice.
        measurements: Costs and calibration.
        registry: The served version.
    """

    def __init__(self, site: Site, ledger: Ledger, measurements: Measurements, registry: Registry) -> None:
        self.site, self.ledger, self.measurements, self.registry = site, ledger, measurements, registry
        self.canaries = Canaries(site, ledger, measurements, registry)

    def plan(
        self,
        shards: Collection[int],
        strategy: StrategyChoice,
        pools: Pools,
        slack: float | None,
        *,
        warnings: Sequence[str] = (),
        fresh: Sequence[tuple[ResolvedKey, int]] = (),
    ) -> Plan:
        """Plan the removal of all tombstones of some shards on top of the served version; changes nothing.

        Args:
            shards: Which shards.
            strategy: `auto` falls back to the policy's own choice.
            pools: How many jobs run at once.
            slack: Seconds left until the deadline.
            warnings: Carried into the plan.
            fresh: Keys of a request that is not committed, with the rows that nothing else revokes.

        Returns:
            The plan.
        """
        counts = self.ledger.counts(shards)
        subs = [sub for sub in self.registry.version().shards if sub.shard in set(shards)]
        extra: Counter[tuple[int, int]] = Counter()
        for key, rows in fresh:
            extra[key.shard, key.slice] += rows
        stats = [self.stats(sub, counts.get(sub.shard, {}), extra) for sub in subs]
        settings, model = self.site.settings, cost.fit(self.measurements.costs())
        calibration = self.calibration() if asks_canaries(strategy) else Calibration()
        chosen = settings.policy.strategy if strategy == "auto" else strategy

        policy = policy_of(settings)
        if needs_model(chosen):
            policy = replace(policy, unfit=self.unfit)

        def planned() -> Plan:
            return make_plan(stats, model, policy, pools, calibration, chosen, slack, warnings)

        plan = planned()
        # Labels are only read of shards that would be updated, which costs far more than that.
        updated = {one.shard for one in plan.shards if one.calibration is not None and not asks_exact(one.strategy)}
        if updated and settings.data.target is None:  # a rule of classes
            excess = self._class_excess([sub for sub in subs if sub.shard in updated], [key for key, _ in fresh])
            stats = [replace(one, class_excess=excess.get(one.shard)) for one in stats]
            plan = planned()
        return plan

    def _class_excess(self, subs: Sequence[SubModelRecord], fresh: Sequence[ResolvedKey]) -> dict[int, float]:
        """Return by how much one class loses more of its rows than all classes together, per shard."""
        stones, found = self.ledger.tombstones([sub.shard for sub in subs]), {}
        for sub in subs:
            mine = stones.get(sub.shard, [])
            out = KeySet.of(stone for stone in mine if stone.seq <= sub.exact_upto)
            later = [stone for stone in mine if stone.seq > sub.exact_upto]
            revoked = KeySet.of([*later, *(key for key in fresh if key.shard == sub.shard)])
            counts = class_counts(self.site.lake, sub.shard, sub.generations, out, revoked)
            found[sub.shard] = class_excess(*counts, len(subs))
        return found

    @cached_property
    def unfit(self) -> dict[StrategyName, str]:
        """Return which updates the task's model does not allow, and why; tried once, on no row."""
        try:
            with contained():
                return self.site.unfit_updates()
        except Exception:  # a model that can't be made here: training will tell, and no request is turned away
            return {}

    def calibration(self) -> Calibration:
        """Return what canaries say that are not revoked, and which cells nothing is known of."""
        return self.canaries.calibration()

    def stats(
        self, sub: SubModelRecord, counts: Mapping[int, tuple[int, int, int]], extra: Mapping[tuple[int, int], int]
    ) -> ShardStats:
        """Return what the planner needs to know of one shard.

        Args:
            sub: Its newest sub-model.
            counts: Slice → training rows (out of its last exact run, revoked since, of these not removed at all).
            extra: (shard, slice) → rows that would be revoked besides.
        """
        recipe = self.site.recipe_for(sub.shard)
        slices = range(1, len(recipe.epochs) + 1)
        ingested = self.site.lake.manifest.rows["train"][sub.shard][: len(slices)]
        more = [extra.get((sub.shard, i), 0) for i in slices]
        found = [counts.get(i, (0, 0, 0)) for i in slices]
        known = {record.slice: record.lineage_key for record in sub.checkpoints}
        exists = [i in known and self.site.blobs.find(sub.shard, known[i]) is not None for i in slices]
        reusable = self.site.made_alike(sub.shard, sub.head)
        trained = tuple(rows - base for rows, (base, _, _) in zip(ingested, found, strict=True))
        revoked = tuple(since + new for (_, since, _), new in zip(found, more, strict=True))
        return ShardStats(
            shard=sub.shard,
            epochs=trained_epochs(recipe, [rows - gone for rows, gone in zip(trained, revoked, strict=True)]),
            rows=trained,
            revoked=revoked,
            newly_revoked=tuple(fresh + new for (_, _, fresh), new in zip(found, more, strict=True)),
            clean=tuple(there and reusable for there in exists),
            trajectory=all(exists),
            error_spent=sub.error_spent,
        )
