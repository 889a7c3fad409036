"""Targets of an audit: which shards, which live rows play the part of revoked ones, what the planner would do."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from hybridmu import core
from hybridmu.core.audit import shadow_models
from hybridmu.core.kernel.partition import derive
from hybridmu.core.kernel.rows import Rows
from hybridmu.core.kernel.training import Recipe, trained_epochs
from hybridmu.errors import StateError
from hybridmu.planning import cost
from hybridmu.planning.planner import Pools, make_plan
from hybridmu.runtime.coordinator.planner_policy import policy_of
from hybridmu.runtime.coordinator.removal_planner import RemovalPlanner
from hybridmu.runtime.workers import shadow_trainer
from hybridmu.runtime.workers.context import Site
from hybridmu.types import KeySet, ModelVersion, ShardPlan, ShardStats, StrategyChoice, SubModelRecord


@dataclass(frozen=True)
class Wanted:
    """What is audited.

    Attributes:
        strategy: As in a request; `auto` lets the planner choose per shard.
        share: Canaries over live rows of a shard.
        models: N, shadow models of each kind and shard.
        shards: How many shards at most.
    """

    strategy: StrategyChoice
    share: float
    models: int
    shards: int


@dataclass(frozen=True, eq=False)
class Target:
    """One shard under audit.

    Attributes:
        sub: Its served sub-model.
        tombstones: Keys of rows that no shadow model may see.
        canaries: Keys of live rows that are forgotten for the audit.
        watched: Keys of rows whose removal the served sub-model is asked about.
        plan: What the planner does about the canaries.
        rows: Live rows, canaries included.
        slices: How many slices each of its models is trained in.
        visits: Sample visits of training the three models of one number.
        name: Under which its scores are kept; `prefix` of it stands for its rows.
        prefix: See `name`.
    """

    sub: SubModelRecord
    tombstones: KeySet
    canaries: KeySet
    watched: KeySet
    plan: ShardPlan
    rows: int
    slices: int
    visits: int
    name: str
    prefix: str


def choose(planner: RemovalPlanner, version: ModelVersion, wanted: Wanted) -> list[Target]:
    """Return the shards to audit: those that owe an exact repair first, the others in an order drawn by the seed.

    Args:
        planner: Knows lake, ledger, costs and calibration.
        version: The served one.
        wanted: What is audited.

    Raises:
        StateError: No shard has rows to spare.
        StrategyUnavailableError: The strategy can't run here.
    """
    seed, subs = planner.site.settings.sisa.seed, [sub for sub in version.shards if sub.blob]
    subs.sort(key=lambda sub: (sub.exact, derive(f"audit-shards/{seed}/{sub.shard}")))
    found: list[Target] = []
    for sub in subs:
        if len(found) < wanted.shards and (made := target(planner, sub, wanted)):
            found.append(made)
    if not found:
        raise StateError("no shard can be audited", expected="a shard with a sub-model and at least two live rows")
    return found


def target(planner: RemovalPlanner, sub: SubModelRecord, wanted: Wanted) -> Target | None:
    """Return a shard to audit, as it is now.

    Args:
        planner: Knows lake, ledger, costs and calibration.
        sub: Its served sub-model.
        wanted: What is audited.

    Returns:
        None when it has too few rows.
    """
    site, shard = planner.site, sub.shard
    stones = planner.ledger.tombstones([shard]).get(shard, [])
    tombstones = KeySet.of(stones)
    recipe = site.recipe_for(shard, sub.generations)
    slices = len(recipe.epochs)
    live = site.lake.outline(shard, tombstones)
    live = live.where(live.slice <= slices)  # later generations are not in the served sub-model yet
    if len(live) < 2:
        return None
    mask = shadow_models.pick(live.words, wanted.share, recipe.seed, shard)
    stats = _stats(shard, recipe, live, live.where(mask))
    known, calibration = cost.fit(planner.measurements.costs()), planner.calibration()
    [plan] = make_plan([stats], known, policy_of(site.settings), Pools(1, 1), calibration, wanted.strategy).shards
    canaries = KeySet(("id", row.tobytes()) for row in live.ids[mask])
    seen = hashlib.blake2b(live.ids.tobytes() + live.content.tobytes(), digest_size=12).hexdigest()
    return Target(
        sub=sub,
        tombstones=tombstones,
        canaries=canaries,
        watched=KeySet.of(stone for stone in stones if stone.seq <= sub.removed_upto),
        plan=plan,
        rows=len(live),
        slices=slices,
        visits=_visits(recipe.epochs, stats.rows) + 2 * _visits(stats.epochs, live.where(~mask).counts(slices)),
        name=f"{seen}-{_shape(site, sub, plan, canaries, tombstones)}",
        prefix=seen,
    )


def _stats(shard: int, recipe: Recipe, live: Rows, canaries: Rows) -> ShardStats:
    """Return what the planner knows of a shard that was just trained, and whose canaries are revoked."""
    slices = len(recipe.epochs)
    rows, revoked = live.counts(slices), canaries.counts(slices)
    left = [have - gone for have, gone in zip(rows, revoked, strict=True)]
    return ShardStats(shard, trained_epochs(recipe, left), rows, revoked, revoked, clean=(True,) * slices)


def _shape(site: Site, sub: SubModelRecord, plan: ShardPlan, canaries: KeySet, tombstones: KeySet) -> str:
    """Return a name of all that shapes the scores besides the rows that are trained on."""
    policy = site.settings.policy
    shaped = [site.head(sub.shard), _code(), plan.strategy, plan.alpha, policy.finetune_epochs, policy.finetune_lr]
    shaped += [sub.blob, sub.generations, sub.removed_upto]
    shaped += [[key.hex() for _, key in sorted(keys)] for keys in (canaries, tombstones)]
    return hashlib.blake2b(json.dumps(shaped).encode(), digest_size=12).hexdigest()


@cache
def _code() -> str:
    """Return a hash of the code that removes rows and measures; the head of a lineage covers training alone."""
    files = [*sorted(Path(core.__file__).parent.rglob("*.py")), Path(shadow_trainer.__file__)]
    return hashlib.blake2b(b"".join(file.read_bytes() for file in files), digest_size=12).hexdigest()


def _visits(epochs: Sequence[int], counts: Sequence[int]) -> int:
    return int((np.asarray(epochs) * np.cumsum(counts)).sum())
