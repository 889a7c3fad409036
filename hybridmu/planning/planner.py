"""Planner: the strategy of each shard. Pure: (stats, cost, policy) -> Plan, with a reason for every line.

Boundary rules per shard (ours, after the workload boundary of arXiv 2412.14505), asked in this order: class (retrain
what canaries do not stand for), quality guard (retrain when by every update the shard would owe too much, and more than
retrains vary; the fastest of the others is weighed on, or, where several are fast enough, the one of least predicted
error), workload (retrain when light), time (retrain when it is no slower than the update, or when it still fits the
deadline). What no rule retrains gets the approximate update.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from hybridmu.core import learners
from hybridmu.core.calibration.fit import NINE_OF_TEN, estimate
from hybridmu.core.strategies import Extent, calibrated, exact_updates, get, unavailable
from hybridmu.errors import StrategyUnavailableError
from hybridmu.kinds import FALLBACK, LEARNERS
from hybridmu.planning.cost import CostModel, schedule
from hybridmu.types import (
    Calibration,
    CalibrationEstimate,
    Plan,
    ShardPlan,
    ShardStats,
    StrategyChoice,
    StrategyName,
    Workload,
)

# So many pairs of trainings are asked for, before what they differ by is believed.
_PAIRS = 4


@dataclass(frozen=True)
class Policy:
    """Policy of the operator; see `config.PolicySettings` for the meaning of each figure.

    `unfit` says which updates the model does not allow, and why.
    """

    workload_threshold: float = 0.0
    time_ratio: float = 1.0
    light_seconds: float = 0.0
    quality_budget: float = 0.1
    quality_noises: float = 0.0
    fast_enough: float = 8.0
    approximate: tuple[StrategyName, ...] = field(default_factory=calibrated)
    alpha: float | None = None
    finetune_epochs: float = 2.0
    learner: str = LEARNERS.default
    optimizer: str = "sgd"
    batch_size: int = 64
    class_excess: float = 0.02
    unfit: Mapping[StrategyName, str] = field(default_factory=dict)

    def bars(self, name: StrategyName) -> str | None:
        """Return why a strategy can't be used with this model or optimizer, or None."""
        needed = get(name).learner
        if needed not in {None, self.learner}:
            return f"it takes learner {needed}"
        return self.unfit.get(name) or unavailable(name, self.optimizer)


@dataclass(frozen=True)
class Pools:
    """Numbers of jobs at once: shard workers and central updaters."""

    workers: int
    updaters: int


def make_plan(
    stats: Sequence[ShardStats],
    cost: CostModel,
    policy: Policy,
    pools: Pools,
    calibration: Calibration,
    strategy: StrategyChoice = "auto",
    slack_seconds: float | None = None,
    warnings: Sequence[str] = (),
) -> Plan:
    """Decide for every touched shard.

    Args:
        stats: One entry per touched shard.
        cost: Fitted cost model.
        policy: Boundary figures.
        pools: Workers for retrains, updaters for updates.
        calibration: Fitted α and errors.
        strategy: `auto`, or one strategy forced on all shards.
        slack_seconds: What is left of the deadline; None: no deadline.
        warnings: Carried into the plan.

    Returns:
        The plan in dispatch order, longest first.

    Raises:
        StrategyUnavailableError: A forced update can't run on a shard.
    """
    retrains = {s.shard: _retrain(s, cost, policy) for s in stats}
    if strategy == FALLBACK:
        chosen = [_decided(retrains[s.shard], "request", f"the request asks for {strategy}") for s in stats]
    elif strategy == "auto":
        ends = schedule([retrains[s.shard].estimated_seconds for s in stats], pools.workers)
        chosen = [
            _auto(s, retrains[s.shard], end, cost, policy, calibration, slack_seconds)
            for s, end in zip(stats, ends, strict=True)
        ]
    else:
        chosen = [_forced(s, retrains[s.shard], strategy, cost, policy, calibration) for s in stats]
    chosen.sort(key=lambda plan: (-plan.estimated_seconds, plan.shard))
    at_shard = [plan.estimated_seconds for plan in chosen if get(plan.strategy).place == "shard"]
    central = [plan.estimated_seconds for plan in chosen if get(plan.strategy).place == "updater"]
    makespan = max([0.0, *schedule(at_shard, pools.workers), *schedule(central, pools.updaters)])
    return Plan(tuple(chosen), makespan, pools.workers, pools.updaters, tuple(warnings))


def _retrain(stats: ShardStats, cost: CostModel, policy: Policy) -> ShardPlan:
    extent = _extent(stats, policy)
    work, jobs = extent.workload, get(FALLBACK).work(extent)
    estimate = cost.estimate(FALLBACK, jobs.visits, jobs.checkpoints, jobs.rows)
    return ShardPlan(
        shard=stats.shard,
        strategy=FALLBACK,
        first_slice=work.first_trained,
        revoked=sum(stats.revoked),
        sample_visits=jobs.visits,
        workload_ratio=work.ratio,
        estimated_seconds=estimate.seconds,
        interval=(estimate.low, estimate.high),
        alternatives=((FALLBACK, estimate.seconds),),
        rule="",
        reasons=(),
    )


def _update(stats: ShardStats, base: ShardPlan, name: StrategyName, cost: CostModel, policy: Policy) -> ShardPlan:
    """Return the update's plan, made from the retrain's, with its own visits and seconds."""
    extent, strategy = _extent(stats, policy), get(name)
    jobs = strategy.work(extent)
    estimate = cost.estimate(name, jobs.visits, jobs.checkpoints, jobs.rows)
    return replace(
        base,
        strategy=name,
        first_slice=extent.workload.first_touched if strategy.clean else extent.workload.first_new,
        revoked=sum(stats.revoked if strategy.clean else stats.newly_revoked),
        sample_visits=jobs.visits,
        estimated_seconds=estimate.seconds,
        interval=(estimate.low, estimate.high),
        alternatives=(*base.alternatives, (name, estimate.seconds)),
    )


def _extent(stats: ShardStats, policy: Policy) -> Extent:
    return Extent(stats, _workload(stats, policy), policy.optimizer, policy.batch_size, policy.finetune_epochs)


def _workload(stats: ShardStats, policy: Policy) -> Workload:
    return learners.get(policy.learner).workload(stats)


def _blocked(stats: ShardStats, policy: Policy, name: StrategyName) -> str | None:
    if stats.live == 0:
        return "no live row is left: the shard leaves the vote"
    if sum(stats.newly_revoked) == 0:
        return "the current weights hold none of the rows"
    if reason := policy.bars(name):
        return reason
    if not (stats.clean[-1] if get(name).exact else stats.trajectory):
        return "a checkpoint of the run that saw the rows is missing"
    return None


def _auto(
    stats: ShardStats,
    retrain: ShardPlan,
    ends_after: float,
    cost: CostModel,
    policy: Policy,
    calibration: Calibration,
    slack: float | None,
) -> ShardPlan:
    exact = [_update(stats, retrain, name, cost, policy) for name in exact_updates(policy.learner)]
    exact = [plan for plan in exact if _blocked(stats, policy, plan.strategy) is None]
    if exact:
        return _exactly(retrain, exact)
    updates = _calibrated(stats, retrain, cost, policy, calibration)
    uncalibrated = None if updates else _uncalibrated(" or ".join(policy.approximate), calibration)
    usable = (name for name in policy.approximate if not policy.bars(name))
    if reason := _blocked(stats, policy, next(usable, policy.approximate[0])) or uncalibrated:
        return _decided(retrain, "availability", f"no update is available: {reason}")
    within = {update.strategy: _within(update, stats, policy, calibration) for update in updates}
    fitting = [update for update in updates if within[update.strategy][0]]
    # Where the guard stops all, the one that it stops by the least is shown.
    update = _preferred(fitting, retrain, policy) if fitting else min(updates, key=_error)
    alternatives = (*retrain.alternatives, *(one for each in updates for one in each.alternatives[1:]))
    update = replace(update, alternatives=alternatives)
    retrain = replace(retrain, alternatives=alternatives, calibration=update.calibration)
    if reason := _lopsided(stats, policy):
        return _decided(retrain, "class", reason)
    reasons = [f"quality: by {name} {says}" for name, (fits, says) in within.items() if fitting and not fits]
    fitted = _fitted(update.calibration) if update.calibration else ()
    says = within[update.strategy][1]
    if not fitting:
        return _decided(retrain, "quality", f"{says} ({update.strategy})", *fitted)
    reasons.append(f"quality: {says}")

    says = f"workload ratio {retrain.workload_ratio:.3f}"
    if retrain.workload_ratio <= policy.workload_threshold:
        return _decided(retrain, "workload", *reasons, f"{says} <= {policy.workload_threshold:g}")
    reasons.append(f"workload: {says} > {policy.workload_threshold:g}")

    times = ", ".join(f"{each.strategy} {each.estimated_seconds:.3f} s" for each in fitting)
    says = f"retrain {retrain.estimated_seconds:.3f} s, {times}"
    if retrain.estimated_seconds <= policy.time_ratio * update.estimated_seconds:
        return _decided(retrain, "time", *reasons, f"{says}: within {policy.time_ratio:g} times the update")
    if retrain.estimated_seconds <= policy.light_seconds:
        return _decided(retrain, "time", *reasons, f"{says}: light, at most {policy.light_seconds:g} s")
    reasons.append(f"time: {says}")
    if update.estimated_seconds > min(each.estimated_seconds for each in fitting):
        reasons.append(f"choice: of updates {policy.fast_enough:g} times faster, {update.strategy} is to owe the least")
    if slack is not None and ends_after <= slack:
        return _decided(retrain, "deadline", *reasons, f"would end after {ends_after:.3f} s, {slack:.3f} s are left")
    if slack is not None:
        reasons.append(f"deadline: would end after {ends_after:.3f} s, only {slack:.3f} s are left")
    # What was let through beyond the budget uses it up: the next deletion is to be exact.
    owed = min(update.predicted_error, max(policy.quality_budget - stats.error_spent, 0.0))
    return replace(update, rule="boundary", reasons=(*reasons, *fitted), predicted_error=owed)


def _exactly(retrain: ShardPlan, updates: Sequence[ShardPlan]) -> ShardPlan:
    """Return the faster of plans whose results are the same bits; an update where they take as long."""
    best = min([*updates, retrain], key=_seconds)
    alternatives = (*retrain.alternatives, *(one for each in updates for one in each.alternatives[1:]))
    says = ", ".join(f"{name} {seconds:.3f} s" for name, seconds in alternatives)
    visits = ", ".join(f"{plan.strategy} {plan.sample_visits:,}" for plan in (retrain, *updates))
    return replace(
        _decided(best, "exact", f"equal bits either way: {says}", f"rows visited: {visits}"), alternatives=alternatives
    )


def _within(update: ShardPlan, stats: ShardStats, policy: Policy, calibration: Calibration) -> tuple[bool, str]:
    """Return whether the quality guard lets an update through, and why, in words.

    A shard may owe forget-loss error up to the budget. Where two exact trainings differ by much, that asks for more
    than a retrain in another order would give; so a shard that owes nothing may be as far off as `quality_noises` times
    what nine of ten retrains stay below, if canaries ended nearer to the retrain than by doing nothing.
    """
    says = f"owed forget-loss error {stats.error_spent:.3f} + {update.predicted_error:.3f}"
    if stats.error_spent + update.predicted_error <= policy.quality_budget:
        return True, f"{says} <= budget {policy.quality_budget:g}"
    says += f" > budget {policy.quality_budget:g}"
    owes = stats.error_spent > 0 or stats.revoked != stats.newly_revoked
    noise = calibration.noise
    if not policy.quality_noises or owes or noise is None or noise.pairs < _PAIRS:
        return False, says
    if update.calibration is None or not update.calibration.helps:
        return False, f"{says}, and canaries ended no nearer to the retrain than by doing nothing"
    varies = NINE_OF_TEN * noise.of(sum(stats.newly_revoked))
    limit = policy.quality_noises * varies
    fits = update.predicted_error <= limit
    times = f"{policy.quality_noises:g} times the {varies:.3f} that nine of ten retrains in another order stay below"
    return fits, f"{says}, {'but <=' if fits else 'and >'} {limit:.3f}: {times} ({noise.pairs} pairs)"


def _calibrated(
    stats: ShardStats, retrain: ShardPlan, cost: CostModel, policy: Policy, calibration: Calibration
) -> list[ShardPlan]:
    """Return the updates that the policy allows and canaries say something of, the plain one first."""
    plans = []
    for name in policy.approximate:
        found = None if policy.bars(name) else _weigh(stats, name, policy, calibration)
        if found:
            plan = _update(stats, retrain, name, cost, policy)
            plans.append(replace(plan, alpha=found.alpha, predicted_error=found.bound, calibration=found))
    # The plain update is a part of the others and can't take longer. If it was slow once and were not chosen for that,
    # nothing would ever correct its estimate.
    least = min((plan.estimated_seconds for plan in plans), default=0.0)
    plans = [replace(plan, estimated_seconds=least) if get(plan.strategy).basic else plan for plan in plans]
    return sorted(plans, key=lambda plan: not get(plan.strategy).basic)


def _preferred(updates: Sequence[ShardPlan], retrain: ShardPlan, policy: Policy) -> ShardPlan:
    """Return the fastest update; of those that are all fast enough, the one of least predicted error."""
    enough = retrain.estimated_seconds / policy.fast_enough
    found = [update for update in updates if update.estimated_seconds <= enough]
    return min(found, key=_error) if found else min(updates, key=_seconds)


def _seconds(plan: ShardPlan) -> float:
    return plan.estimated_seconds


def _error(plan: ShardPlan) -> float:
    return plan.predicted_error


def _forced(
    stats: ShardStats,
    retrain: ShardPlan,
    name: StrategyName,
    cost: CostModel,
    policy: Policy,
    calibration: Calibration,
) -> ShardPlan:
    if stats.live == 0 or sum(stats.newly_revoked) == 0:
        return _decided(retrain, "availability", str(_blocked(stats, policy, name)))
    if reason := _blocked(stats, policy, name):
        if get(name).exact and not policy.bars(name):
            return _decided(retrain, "availability", f"{name} can't run: {reason}; {FALLBACK} gives the same bits")
        raise StrategyUnavailableError(
            f"{name} can't run on shard {stats.shard}", got=reason, remedy=f"ask for auto or {FALLBACK}"
        )
    update = _update(stats, retrain, name, cost, policy)
    strategy, found = get(name), _weigh(stats, name, policy, calibration)
    reason = f"the request asks for {name}"
    if strategy.exact:
        return _decided(update, "request", reason)
    if strategy.clean:
        # No influence is left, but the gap to a retrain is unknown: the next deletion is to be exact.
        reasons = (reason, f"{policy.finetune_epochs:g} epoch(s) from the last clean checkpoint")
        return replace(update, rule="request", reasons=reasons, predicted_error=policy.quality_budget)
    if found is None:
        alpha = policy.alpha if policy.alpha is not None else strategy.uncalibrated.get(policy.optimizer, 1.0)
        reasons = (reason, f"alpha {alpha:g}: {_uncalibrated(name, calibration)}")
        return replace(update, rule="request", reasons=reasons, alpha=alpha, predicted_error=policy.quality_budget)
    says, error = [reason, *_fitted(found)], found.bound
    if lopsided := _lopsided(stats, policy):
        says, error = [*says, lopsided], max(error, policy.quality_budget)  # the next deletion is to be exact
    return replace(
        update, rule="request", reasons=tuple(says), alpha=found.alpha, predicted_error=error, calibration=found
    )


def _weigh(
    stats: ShardStats, name: StrategyName, policy: Policy, calibration: Calibration
) -> CalibrationEstimate | None:
    """Return what canaries say of an update."""
    fresh = sum(stats.newly_revoked)
    return estimate(calibration, name, _workload(stats, policy).first_new, fresh / max(1, sum(stats.rows)), fresh)


def _fitted(found: CalibrationEstimate) -> tuple[str, ...]:
    """Return what was fitted, with its intervals, and how the deletion lies outside of it."""
    low, high = found.alpha_range
    cells = ", ".join(f"slice {cell.first_slice} at {cell.share:.1%} of rows" for cell in found.cells)
    says = (
        f"alpha {found.alpha:.3g} [{low:.3g}, {high:.3g}], error {found.error:.3f} + spread {found.spread:.3f}: "
        f"{found.canaries} canaries, at least {found.shards} shard(s) each, {cells}"
    )
    return (says, *(f"outside of what was calibrated: {how}" for how in found.outside))


def _uncalibrated(name: str, calibration: Calibration) -> str:
    """Return why there is no α."""
    wait = "; canaries are deleted when nothing else is to do" if calibration.waiting else ""
    wait = f", and needs not be: {calibration.needless}" if calibration.needless else wait
    return f"{name} is not calibrated on this system{wait}"


def _lopsided(stats: ShardStats, policy: Policy) -> str | None:
    """Return how revoked rows are of one class rather than of all, or None: canaries are of all."""
    if stats.class_excess is None or stats.class_excess <= policy.class_excess:
        return None
    return (
        f"one class loses a share of its rows that is {stats.class_excess:.1%} above that of all rows "
        f"(at most {policy.class_excess:.1%}): canaries do not stand for that"
    )


def _decided(plan: ShardPlan, rule: str, *reasons: str) -> ShardPlan:
    return replace(plan, rule=rule, reasons=tuple(reasons))
