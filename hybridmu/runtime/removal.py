"""Planning a removal on top of the served version: gathers what the pure planner needs; changes nothing."""

from __future__ import annotations

from collections.abc import Sequence

from hybridmu.config import Settings
from hybridmu.core.lineage import lineage_keys
from hybridmu.planning import cost
from hybridmu.planning.planner import Policy, Pools, make_plan
from hybridmu.runtime.site import Site
from hybridmu.store.ledger import Ledger
from hybridmu.store.registry import Registry
from hybridmu.types import Plan, ShardStats, StrategyChoice, SubModel, Tombstone


class RemovalPlanner:
    """Counts workloads, fits costs, and asks the planner.

    Args:
        site: Lake, blobs and recipe.
        ledger: Costs and calibration.
        registry: The served version.
    """

    def __init__(self, site: Site, ledger: Ledger, registry: Registry) -> None:
        self.site, self.ledger, self.registry = site, ledger, registry

    def plan(
        self,
        gone: dict[int, list[Tombstone]],
        strategy: StrategyChoice,
        pools: Pools,
        slack: float | None,
        warnings: Sequence[str] = (),
    ) -> Plan:
        """Plan the removal of tombstones on top of the served version; changes nothing.

        Args:
            gone: Shard → all its tombstones, in commit order.
            strategy: `auto` falls back to the policy's own choice.
            pools: How many jobs run at once.
            slack: Seconds left until the deadline.
            warnings: Carried into the plan.

        Returns:
            The plan.
        """
        return make_plan(
            [self.stats(sub, gone[sub.shard]) for sub in self.registry.version().shards if gone.get(sub.shard)],
            cost.fit(self.ledger.costs()),
            policy_of(self.site.settings),
            pools,
            self.ledger.calibration(),
            self.site.settings.policy.strategy if strategy == "auto" else strategy,
            slack,
            warnings,
        )

    def stats(self, sub: SubModel, gone: Sequence[Tombstone]) -> ShardStats:
        """Return what the planner needs to know of one shard."""
        base = {(str(x.kind), x.key) for x in gone if x.seq <= sub.exact_upto}
        removed = {(str(x.kind), x.key) for x in gone if x.seq <= sub.removed_upto}
        every = {(str(x.kind), x.key) for x in gone}
        rows, _ = self.site.lake.counts("train", sub.shard, base)
        live, _ = self.site.lake.counts("train", sub.shard, every)
        kept, _ = self.site.lake.counts("train", sub.shard, removed)
        known = {record.slice: record.lineage_key for record in sub.checkpoints}
        keys = self._keys(sub, base)
        slices = range(1, len(rows) + 1)
        exists = [i in known and self.site.blobs.find(known[i]) is not None for i in slices]
        # Made by other code, libraries or threads: a retrain here would not find them.
        clean = [found and (keys is None or keys[i - 1] == known[i]) for i, found in zip(slices, exists, strict=True)]
        return ShardStats(
            shard=sub.shard,
            epochs=self.site.recipe.epochs,
            rows=rows,
            revoked=tuple(a - b for a, b in zip(rows, live, strict=True)),
            newly_revoked=tuple(a - b for a, b in zip(kept, live, strict=True)),
            clean=tuple(clean),
            trajectory=all(exists),
            error_spent=sub.error_spent,
        )

    def _keys(self, sub: SubModel, base: set[tuple[str, bytes]]) -> tuple[str, ...] | None:
        """Return the lineage keys that a worker would give; None when this process is not like a worker."""
        if self.site.device != "cpu":
            return None
        outline = self.site.lake.outline(sub.shard, base)
        return lineage_keys(self.site.lineage_static(), outline, self.site.recipe, sub.shard)


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
