"""The planner's regret: what its plans cost against the best plans in hindsight, replayed from measurements. Pure.

One deletion, measured by every strategy on every shard it touches, is planned as the running system would have planned
it: by the cost model as fitted from all that the system had seen before, and by the calibration that it had. Then

* a plan's *seconds* are the makespan of its measured jobs on the workers, longest first;
* a strategy is *admissible* on a shard when its measured forget-loss gap there is within the default quality budget,
  which is a shard's too; the retrain always is;
* an update that was not admissible has to be made good by a retrain of the shard: these are a second makespan;
* the *best plan in hindsight* gives every shard the fastest admissible one of the retrain and all updates;
* *regret* is what the plan is charged over the best plan's seconds, minus 1.

All plans are judged alike, whatever policy made them. Seconds may be counted up to a speed that is *enough*: what is
faster counts as just that, since to the default policy it is worth no more (`Policy.fast_enough`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.study.records import Key
from benchmarks.study.shards import ShardRecord
from hybridmu.core.learners.workload import count
from hybridmu.planning import cost
from hybridmu.planning.cost import CostModel, schedule
from hybridmu.planning.planner import Policy, Pools, make_plan
from hybridmu.types import Calibration, CalibrationBucket, CostObservation, ShardPlan, StrategyName

RETRAIN: StrategyName = "retrain"
UPDATES: tuple[StrategyName, ...] = ("dpus", "dpus-optimised", "dpus-newton")
# The largest |gap| of an admissible update.
_BUDGET = Policy().quality_budget


@dataclass(frozen=True)
class Measured:
    """One deletion, measured.

    Attributes:
        system: Names the system.
        mix: Request mix.
        shards: Touched shard → strategy → what it cost and left there.
    """

    system: Key
    mix: str
    shards: Mapping[int, Mapping[str, ShardRecord]]

    @property
    def complete(self) -> bool:
        """Return whether every shard was measured by the retrain and every update."""
        return all({RETRAIN, *UPDATES} <= found.keys() for found in self.shards.values())


@dataclass(frozen=True)
class Decided:
    """What was decided for one deletion.

    Attributes:
        deletion: What was planned.
        chosen: Shard → strategy.
        rules: Shard → the rule that decided.
    """

    deletion: Measured
    chosen: Mapping[int, str]
    rules: Mapping[int, str]


@dataclass(frozen=True)
class Regret:
    """How one plan fared.

    Attributes:
        best: Shard → strategy of the best plan in hindsight.
        inadmissible: Shards that have to be retrained after all.
        seconds: What the plan is charged.
        best_seconds: What the best plan takes.
    """

    best: Mapping[int, str]
    inadmissible: frozenset[int]
    seconds: float
    best_seconds: float

    @property
    def regret(self) -> float:
        """Return the relative excess over the best plan; 0 is ideal."""
        return self.seconds / self.best_seconds - 1


def deletions(found: Iterable[ShardRecord]) -> list[Measured]:
    """Return the deletions that were measured by the retrain and every update, in the order of the records."""
    grouped: dict[tuple[Key, str], dict[int, dict[str, ShardRecord]]] = {}
    for record in found:
        if not record.before:
            shards = grouped.setdefault((record.system, record.mix), {})
            shards.setdefault(record.shard, {})[record.strategy] = record
    every = [Measured(system, mix, shards) for (system, mix), shards in grouped.items()]
    return [one for one in every if one.complete]


def replay(
    found: Sequence[ShardRecord],
    policy: Policy,
    fit: Callable[[Sequence[CostObservation]], CostModel] = cost.fit,
) -> list[Decided]:
    """Plan every deletion again.

    Args:
        found: Measurements; what a system had seen before comes first among its records.
        policy: Of the planner.
        fit: Makes the cost model of what was seen: the training, the first deletions, the jobs that the planner chose
            itself for the deletions before, and the exact retrains that its updates owed.

    Returns:
        One per deletion.
    """
    seen: dict[Key, list[CostObservation]] = {}
    for record in found:
        if record.before:
            seen.setdefault(record.system, []).append(record.observation())
    made = []
    for deletion in deletions(found):
        known = seen.setdefault(deletion.system, [])
        model = fit(known)
        lines = [_line(shard, model, policy) for shard in deletion.shards.values()]
        chosen = {line.shard: line.strategy for line in lines}
        rules = {line.shard: line.rule for line in lines}
        made.append(Decided(deletion, chosen, rules))
        for shard, name in chosen.items():
            known += [deletion.shards[shard][each].observation() for each in dict.fromkeys((name, RETRAIN))]
    return made


def judge(decided: Decided, enough: float = math.inf) -> Regret:
    """Return how a plan fares, as the module's text says.

    Args:
        decided: The plan.
        enough: What is more than so many times faster than the retrain counts as just that.
    """
    deletion, chosen = decided.deletion, decided.chosen

    def fits(found: Mapping[str, ShardRecord], name: str) -> bool:
        return name == RETRAIN or abs(found[name].gap) <= _BUDGET

    best = {
        shard: min(
            (name for name in (RETRAIN, *UPDATES) if fits(found, name)), key=lambda name: _cost(found, name, enough)
        )
        for shard, found in deletion.shards.items()
    }
    failed = frozenset(shard for shard, name in chosen.items() if not fits(deletion.shards[shard], name))
    charged = seconds(deletion, chosen, enough) + seconds(deletion, dict.fromkeys(failed, RETRAIN), enough)
    return Regret(best, failed, charged, seconds(deletion, best, enough))


def seconds(deletion: Measured, plan: Mapping[int, str], enough: float = math.inf) -> float:
    """Return the makespan of a plan's measured jobs, on as many workers as measured them."""
    workers = max(found[RETRAIN].workers for found in deletion.shards.values())
    return max(
        schedule([_cost(deletion.shards[shard], name, enough) for shard, name in plan.items()], workers), default=0.0
    )


def _cost(shard: Mapping[str, ShardRecord], name: str, enough: float) -> float:
    return max(shard[name].seconds, shard[RETRAIN].seconds / enough)


def _line(shard: Mapping[str, ShardRecord], model: CostModel, policy: Policy) -> ShardPlan:
    """Return the planner's decision for one shard; without a deadline shards do not depend on each other."""
    stats = shard[RETRAIN].stats()
    first, share = count(stats).first_new, sum(stats.revoked) / sum(stats.rows)
    buckets = (
        CalibrationBucket(name, first, share, shard[name].alpha, shard[name].predicted_error, 0.0)
        for name in UPDATES
        if not math.isnan(shard[name].predicted_error)
    )
    return make_plan([stats], model, policy, Pools(1, 1), Calibration(tuple(buckets))).shards[0]
