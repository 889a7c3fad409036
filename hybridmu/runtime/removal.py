"""Planning a removal on top of the served version: gathers what the pure planner needs; changes nothing."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from hybridmu.config import Settings
from hybridmu.core.training import trained_epochs
from hybridmu.planning import cost
from hybridmu.planning.planner import Policy, Pools, make_plan
from hybridmu.runtime.site import Site
from hybridmu.store.sql.ledger import Ledger
from hybridmu.store.sql.measurements import Measurements
from hybridmu.store.sql.registry import Registry
from hybridmu.types import Calibration, Plan, ShardStats, StrategyChoice, SubModel


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

    def plan(
        self,
        shards: Collection[int],
        strategy: StrategyChoice,
        pools: Pools,
        slack: float | None,
        *,
        warnings: Sequence[str] = (),
        extra: Mapping[tuple[int, int], int] | None = None,
    ) -> Plan:
        """Plan the removal of all tombstones of some shards on top of the served version; changes nothing.

        Args:
            shards: Which shards.
            strategy: `auto` falls back to the policy's own choice.
            pools: How many jobs run at once.
            slack: Seconds left until the deadline.
            warnings: Carried into the plan.
            extra: (shard, slice) → rows of a request that is not committed.

        Returns:
            The plan.
        """
        counts = self.ledger.counts(shards)
        subs = [sub for sub in self.registry.version().shards if sub.shard in set(shards)]
        return make_plan(
            [self.stats(sub, counts.get(sub.shard, {}), extra or {}) for sub in subs],
            cost.fit(self.measurements.costs()),
            policy_of(self.site.settings),
            pools,
            self.calibration(),
            self.site.settings.policy.strategy if strategy == "auto" else strategy,
            slack,
            warnings,
        )

    def calibration(self) -> Calibration:
        """Return the fitted α without the buckets that a revocation spoiled."""
        fitted = self.measurements.calibration()
        return fitted.without(self.ledger.revoked(fitted.keys))

    def stats(
        self, sub: SubModel, counts: Mapping[int, tuple[int, int, int]], extra: Mapping[tuple[int, int], int]
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
        reusable = self._made_alike(sub)
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

    def _made_alike(self, sub: SubModel) -> bool:
        """Return whether a retrain would find the last exact run's checkpoints: same code, libraries and machine."""
        if self.site.device != "cpu":
            return True  # this process has no GPU and can't tell
        return sub.head == self.site.head(sub.shard)


def policy_of(settings: Settings) -> Policy:
    """Return the planner's policy from the settings."""
    policy = settings.policy
    return Policy(
        workload_threshold=policy.workload_threshold,
        time_ratio=policy.time_ratio,
        light_seconds=policy.light_seconds,
        quality_budget=policy.quality_budget,
        approximate=policy.approximate,
        alpha=policy.alpha,
        finetune_epochs=policy.finetune_epochs,
        optimizer=settings.optimizer.name,
    )
