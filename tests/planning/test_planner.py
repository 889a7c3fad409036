from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybridmu.core.strategies import newton, second_moments
from hybridmu.errors import StrategyUnavailableError
from hybridmu.planning.cost import Coefficients, CostModel, schedule
from hybridmu.planning.planner import Policy, Pools, make_plan
from hybridmu.types import Calibration, CalibrationBucket, CalibrationCell, RetrainNoise, ShardStats
from tests.support import touched_at

BUCKET = CalibrationBucket("dpus-optimised", 1, 0.01, 0.45, 0.02, -0.001, 20, spread=0.01, alpha_range=(0.4, 0.5))
FITTED = Calibration((BUCKET, replace(BUCKET, strategy="dpus", alpha=0.25, error=0.03)))
# Retraining one visit costs as much as one of the update, and checkpoints nothing: seconds are visits / 1000.
COST = CostModel({name: Coefficients(1e-3, 0.0, 0.1, 9) for name in ("retrain", "dpus", "dpus-optimised")})


def policy_with(**changes):
    """Return a policy with one update and a workload rule, whatever the defaults are."""
    return Policy(**{"approximate": ("dpus-optimised",), "workload_threshold": 0.5, **changes})


def plan_of(stats, *, policy=None, cost=COST, calibration=FITTED, pools=None, **options):
    stats = stats if isinstance(stats, list) else [stats]
    return make_plan(stats, cost, policy or policy_with(), pools or Pools(2, 1), calibration, **options)


def decide(stats, **options):
    (found,) = plan_of(stats, **options).shards
    return found


EARLY = touched_at(1, slices=4, rows=100)  # workload ratio 1
LATE = touched_at(4, slices=4, rows=100)  # workload ratio 0.4


@pytest.mark.parametrize(("threshold", "expected"), [(0.25, 10), (0.5, 8), (0.75, 6)])
def test_the_workload_rule_as_a_slice_number(threshold, expected):
    formula = math.ceil((1 + math.sqrt(1 + 4 * (1 - threshold) * 10 * 11)) / 2)
    found = [
        first for first in range(1, 11)
        if decide(touched_at(first), policy=policy_with(workload_threshold=threshold)).rule == "workload"
    ]  # fmt: skip
    assert formula == expected
    assert found == list(range(expected, 11))


@pytest.mark.parametrize(
    ("stats", "options", "strategy", "rule", "numbers"),
    [
        (EARLY, {"policy": policy_with(optimizer="adamw", approximate=("dpus-newton",))}, "retrain", "availability",
         ["adamw"]),
        (EARLY, {"policy": policy_with(optimizer="adamw", batch_size=4, time_ratio=0.1)}, "dpus-optimised", "boundary",
         ["alpha 0.45"]),
        (EARLY, {"calibration": Calibration()}, "retrain", "availability", ["dpus-optimised is not calibrated"]),
        (EARLY, {"calibration": Calibration((), (CalibrationCell(1, 0.1),))}, "retrain", "availability",
         ["dpus-optimised is not calibrated on this system; canaries are deleted when nothing else is to do"]),
        (replace(EARLY, class_excess=0.051), {}, "retrain", "class", ["5.1% above that of all rows (at most 2.0%)"]),
        (replace(EARLY, class_excess=0.02), {}, "dpus-optimised", "boundary", ["retrain 1.992 s"]),
        (replace(EARLY, class_excess=0.4), {"policy": policy_with(class_excess=0.4)}, "dpus-optimised", "boundary", []),
        (replace(EARLY, class_excess=0.4), {"strategy": "dpus"}, "dpus", "request", ["40.0% above that of all rows"]),
        (EARLY, {"calibration": Calibration((replace(BUCKET, strategy="dpus"),))}, "retrain", "availability",
         ["dpus-optimised is not calibrated"]),
        (replace(EARLY, trajectory=False), {}, "retrain", "availability", ["checkpoint", "missing"]),
        (replace(EARLY, newly_revoked=(0,) * 4), {}, "retrain", "availability", ["hold none of the rows"]),
        (replace(EARLY, revoked=(100,) * 4), {}, "retrain", "availability", ["no live row"]),
        (replace(EARLY, error_spent=0.08), {}, "retrain", "quality", ["0.080 + 0.030 > budget 0.1"]),
        (replace(EARLY, error_spent=0.07), {}, "dpus-optimised", "boundary", ["0.070 + 0.030 <= budget 0.1"]),
        (LATE, {}, "retrain", "workload", ["0.030 <= budget 0.1", "workload ratio 0.399 <= 0.5"]),
        (LATE, {"policy": policy_with(workload_threshold=0.3, finetune_epochs=1)}, "dpus-optimised", "boundary",
         ["ratio 0.399 > 0.3", "retrain 0.798 s, dpus-optimised 0.401 s"]),
        (EARLY, {"policy": policy_with(time_ratio=3)}, "retrain", "time",
         ["workload ratio 1.000 > 0.5", "retrain 1.992 s, dpus-optimised 0.803 s: within 3 times"]),
        (EARLY, {"policy": policy_with(time_ratio=2)}, "dpus-optimised", "boundary",
         ["retrain 1.992 s, dpus-optimised 0.803 s"]),
        (EARLY, {"slack_seconds": 2.0}, "retrain", "deadline", ["after 1.992 s, 2.000 s are left"]),
        (EARLY, {"slack_seconds": 1.9}, "dpus-optimised", "boundary", ["after 1.992 s, only 1.900 s are left"]),
        (EARLY, {"slack_seconds": -5.0}, "dpus-optimised", "boundary", ["only -5.000 s are left"]),
        (EARLY, {}, "dpus-optimised", "boundary",
         ["alpha 0.45 [0.4, 0.5], error 0.020 + spread 0.010: 20 canaries, at least 1 shard(s) each, slice 1 at 1.0%",
          "outside of what was calibrated: 0.25% of rows, calibrated from 1.00% on"]),
        (EARLY, {"policy": policy_with(approximate=("dpus",))}, "dpus", "boundary", ["0.000 + 0.040", "alpha 0.25"]),
        (EARLY, {"strategy": "retrain"}, "retrain", "request", ["asks for retrain"]),
        (EARLY, {"strategy": "dpus"}, "dpus", "request", ["asks for dpus", "alpha 0.25"]),
        (replace(LATE, error_spent=9.0), {"strategy": "dpus-optimised"}, "dpus-optimised", "request", ["alpha 0.45"]),
        (replace(EARLY, revoked=(100,) * 4), {"strategy": "dpus"}, "retrain", "availability", ["no live row"]),
        (replace(EARLY, revoked=(100,) * 4), {"strategy": "dpus", "policy": policy_with(optimizer="adamw")}, "retrain",
         "availability", ["no live row"]),
        (replace(EARLY, newly_revoked=(0,) * 4), {"strategy": "dpus"}, "retrain", "availability", ["none of the rows"]),
    ],
)  # fmt: skip
def test_each_rule_fires_and_says_why(stats, options, strategy, rule, numbers):
    found = decide(stats, **options)
    assert (found.strategy, found.rule) == (strategy, rule)
    text = "\n".join(found.reasons)
    for number in numbers:
        assert number in text
    assert all(f"\n  - {reason}" in plan_of(stats, **options).explain() for reason in found.reasons)


NOISY = replace(FITTED, buckets=(replace(BUCKET, error=0.2, nothing=0.3),), noise=RetrainNoise(0.07, 0.0, 8, 1))


@pytest.mark.parametrize(
    ("noises", "changes", "strategy", "says"),
    [
        (2.0, {}, "dpus-optimised", "0.210 > budget 0.1, but <= 0.230: 2 times the 0.115 that nine of ten retrains"),
        (1.0, {}, "retrain", "0.210 > budget 0.1, and > 0.115: 1 times"),
        (0.0, {}, "retrain", "0.210 > budget 0.1 (dpus-optimised)"),
        (2.0, {"error_spent": 0.001}, "retrain", "0.001 + 0.210 > budget 0.1 (dpus-optimised)"),
        (2.0, {"revoked": (2, 0, 0, 0)}, "retrain", "0.210 > budget 0.1 (dpus-optimised)"),  # one is out by an update
    ],
)
def test_no_update_is_asked_for_less_than_retrains_differ_by(noises, changes, strategy, says):
    policy = policy_with(quality_noises=noises)
    found = decide(replace(EARLY, **changes), calibration=NOISY, policy=policy)
    assert found.strategy == strategy
    assert says in "\n".join(found.reasons)
    if strategy != "retrain":
        assert found.predicted_error == policy.quality_budget, "the next deletion is to be exact"
        again = decide(replace(EARLY, error_spent=found.predicted_error), calibration=NOISY, policy=policy)
        assert again.strategy == "retrain"


@pytest.mark.parametrize(
    ("calibration", "says"),
    [
        (replace(NOISY, noise=replace(NOISY.noise, pairs=3)), "0.210 > budget 0.1 (dpus-optimised)"),
        (replace(NOISY, noise=None), "0.210 > budget 0.1 (dpus-optimised)"),
        (replace(NOISY, buckets=(replace(NOISY.buckets[0], nothing=0.2),)), "no nearer to the retrain than by doing"),
        (replace(NOISY, buckets=(replace(NOISY.buckets[0], nothing=None),)), "no nearer to the retrain than by doing"),
    ],
)
def test_what_retrains_differ_by_counts_only_where_enough_is_known(calibration, says):
    found = decide(EARLY, calibration=calibration, policy=policy_with(quality_noises=2.0))
    assert found.strategy == "retrain"
    assert says in "\n".join(found.reasons)


def test_a_budget_of_nothing_is_spent_by_the_first_update():
    policy = policy_with(quality_noises=2.0, quality_budget=0.0)
    first = decide(EARLY, calibration=NOISY, policy=policy)
    assert (first.strategy, first.predicted_error) == ("dpus-optimised", 0.0)
    after = replace(EARLY, revoked=(2, 0, 0, 0), error_spent=0.0)
    assert decide(after, calibration=NOISY, policy=policy).strategy == "retrain"


def test_fewer_rows_vary_more_in_updates_and_in_retrains():
    """The same update and the same noise: 4 rows may be farther off than 36, but not one alone."""
    bucket = replace(BUCKET, error=0.12, spread=0.1, deviation=0.22, canaries=4, nothing=0.3)
    calibration = Calibration((bucket,), noise=RetrainNoise(0.0, 0.24, 8, fewest=4))
    shards = []
    for shard, rows in enumerate((1, 4, 36)):
        gone = (rows, 0, 0, 0)
        shards.append(replace(EARLY, shard=shard, revoked=gone, newly_revoked=gone))
    found = plan_of(shards, calibration=calibration, policy=policy_with(quality_noises=2.0)).shards
    assert {line.shard: line.strategy for line in found} == {0: "retrain", 1: "dpus-optimised", 2: "retrain"}


def test_every_figure_of_a_retrain_and_an_update():
    exact, update = decide(LATE), decide(LATE, strategy="dpus-optimised")
    assert (exact.first_slice, exact.revoked, exact.sample_visits) == (4, 1, 2 * 399)
    assert exact.estimated_seconds == pytest.approx(0.798)
    assert exact.interval == (pytest.approx(0.798 * 0.8), pytest.approx(0.798 * 1.2))
    assert (exact.alpha, exact.predicted_error) == (0.0, 0.0)
    assert (update.first_slice, update.sample_visits) == (
        4,
        2 * 1 + 2 * 399,
    )  # gradients, then two epochs of fine-tuning
    assert dict(update.alternatives) == {"retrain": pytest.approx(0.798), "dpus-optimised": pytest.approx(0.8)}
    assert (update.alpha, update.predicted_error) == (0.45, pytest.approx(0.03))
    assert update.calibration is not None
    assert (update.calibration.error, update.calibration.spread) == (0.02, pytest.approx(0.01))
    assert decide(LATE, strategy="dpus").sample_visits == 2
    costly = CostModel({"retrain": Coefficients(0.0, 1.0, 0.0, 9), "dpus": Coefficients(0.0, 1.0, 0.0, 9)})
    assert decide(LATE, cost=costly).estimated_seconds == 2  # reads checkpoint 3, writes 4
    assert decide(EARLY, cost=costly, strategy="retrain").estimated_seconds == 4  # writes 1..4
    assert decide(EARLY, cost=costly, strategy="dpus").estimated_seconds == 5  # reads 0..4 or writes the result


@pytest.mark.parametrize(
    ("policy", "stats", "says"),
    [(policy_with(optimizer="adamw"), EARLY, "adamw"), (policy_with(), replace(EARLY, trajectory=False), "missing")],
)
def test_a_forced_update_that_cannot_run_is_refused(policy, stats, says):
    with pytest.raises(StrategyUnavailableError, match=f"dpus-newton can't run on shard 0[\\s\\S]*{says}"):
        decide(stats, policy=policy, strategy="dpus-newton")
    assert decide(stats, policy=policy, strategy="retrain").strategy == "retrain"


@pytest.mark.parametrize(("alpha", "expected"), [(0.2, 0.2), (None, 0.3), (0.0, 0.0)])
def test_a_forced_update_without_a_calibration_spends_the_whole_budget(alpha, expected):
    found = decide(
        EARLY, strategy="dpus", calibration=Calibration(), policy=policy_with(alpha=alpha, quality_budget=0.7)
    )
    assert (found.strategy, found.alpha, found.predicted_error) == ("dpus", expected, 0.7)
    assert any("not calibrated" in reason and f"{expected:g}" in reason for reason in found.reasons)


def test_steps_and_errors_come_from_the_buckets_around_a_deletion():
    buckets = tuple(
        CalibrationBucket("dpus-optimised", first, share, alpha, error, 0.0)
        for first, share, alpha, error in (
            (1, 0.01, 0.1, 0.01),
            (1, 0.1, 0.2, 0.02),
            (3, 0.01, 0.3, 0.03),
            (3, 0.1, 0.4, 0.04),
        )
    )
    for first, revoked, alpha, error in (
        (1, 4, 0.1, 0.01),
        (1, 40, 0.2, 0.02),
        (2, 40, 0.3, 0.04),
        (4, 4, 0.3, 0.03),
        (4, 80, 0.4, 0.08),
    ):
        lost = tuple(revoked * (i == first) for i in range(1, 5))
        stats = replace(EARLY, revoked=lost, newly_revoked=lost)
        found = decide(stats, strategy="dpus-optimised", calibration=Calibration(buckets))
        assert (found.alpha, found.predicted_error) == (pytest.approx(alpha), pytest.approx(error)), (first, revoked)


def test_a_lopsided_removal_that_was_asked_for_spends_the_whole_budget():
    found = decide(replace(EARLY, class_excess=0.9), strategy="dpus", policy=policy_with(quality_budget=0.7))
    assert (found.strategy, found.predicted_error) == ("dpus", 0.7)
    small = decide(replace(EARLY, class_excess=0.9), strategy="dpus", policy=policy_with(quality_budget=0.0))
    assert small.predicted_error == pytest.approx(0.04), "never less than what canaries say"


@pytest.mark.parametrize("seed", range(3))
def test_dispatch_order_and_makespan(seed):
    rng = np.random.default_rng(seed)
    stats = [replace(touched_at(int(rng.integers(1, 5)), 4, 100), shard=int(n)) for n in rng.permutation(9)]
    found = plan_of(stats, pools=Pools(3, 2), policy=policy_with(workload_threshold=0.5))
    order = [(-p.estimated_seconds, p.shard) for p in found.shards]
    assert order == sorted(order)
    assert found == plan_of(list(reversed(stats)), pools=Pools(3, 2), policy=policy_with(workload_threshold=0.5))
    exact = [p.estimated_seconds for p in found.shards if p.strategy == "retrain"]
    updates = [p.estimated_seconds for p in found.shards if p.strategy != "retrain"]
    assert exact
    assert updates
    assert found.makespan_seconds == max(schedule(exact, 3) + schedule(updates, 2))  # two pools work side by side
    assert (found.workers, found.updaters) == (3, 2)


def test_the_deadline_counts_the_queue():
    """Three equal retrains on one worker end after 2, 4 and 6 seconds: with 4.5 left, the third is not in time."""
    stats = [replace(EARLY, shard=n) for n in range(3)]
    found = {p.shard: p for p in plan_of(stats, pools=Pools(1, 1), slack_seconds=4.5).shards}
    assert [found[n].strategy for n in range(3)] == ["retrain", "retrain", "dpus-optimised"]
    assert "after 5.976 s, only 4.500 s are left" in "\n".join(found[2].reasons)


def test_an_empty_plan_and_warnings():
    found = plan_of([], warnings=["2 twins"])
    assert (found.shards, found.makespan_seconds, found.warnings) == ((), 0.0, ("2 twins",))
    assert "warning: 2 twins" in found.explain()


# ---------------------------------------------------------------------- rewind, damped update


def test_a_rewind_is_priced_by_its_budget_and_covers_every_open_deletion():
    stats = replace(LATE, revoked=(0, 3, 0, 1), newly_revoked=(0, 0, 0, 1), trajectory=True)
    found = decide(stats, strategy="rewind", policy=policy_with(finetune_epochs=1.5))
    assert (found.strategy, found.rule, found.first_slice, found.revoked) == ("rewind", "request", 2, 4)
    assert found.sample_visits == round(1.5 * (400 - 4))
    assert found.predicted_error == policy_with().quality_budget, "the next deletion is to be exact"
    assert "1.5 epoch(s)" in found.reasons[1]


def test_a_rewind_needs_no_particular_optimizer_but_the_checkpoints():
    assert decide(EARLY, strategy="rewind", policy=policy_with(optimizer="adamw")).strategy == "rewind"
    with pytest.raises(StrategyUnavailableError, match="checkpoint"):
        decide(replace(EARLY, trajectory=False), strategy="rewind")
    with pytest.raises(StrategyUnavailableError, match="adamw"):
        decide(EARLY, strategy="dpus-newton", policy=policy_with(optimizer="adamw"))


def test_the_damped_update_is_priced_by_its_solution_and_may_be_chosen():
    gradients = decide(EARLY, strategy="dpus").sample_visits
    assert decide(EARLY, strategy="dpus-newton").sample_visits == gradients + newton.cost(399)
    fitted = Calibration((replace(BUCKET, strategy="dpus-newton", alpha=1.0, error=0.02),))
    found = decide(EARLY, policy=policy_with(approximate=("dpus-newton",), time_ratio=0.1), calibration=fitted)
    assert (found.strategy, found.rule, found.alpha) == ("dpus-newton", "boundary", 1.0)
    assert found.predicted_error == pytest.approx(0.03)


# ---------------------------------------------------------------------- several updates

EVERY = ("dpus", "dpus-newton", "dpus-optimised")


def calibrated(**errors):
    names = {name.replace("-", "_"): name for name in EVERY}
    return Calibration(tuple(replace(BUCKET, strategy=names[name], error=e, spread=0.0) for name, e in errors.items()))


@pytest.mark.parametrize(
    ("errors", "spent", "chosen", "says"),
    [
        ({"dpus": 0.05, "dpus_optimised": 0.01}, 0.0, "dpus", ["0.050 <= budget 0.1", "dpus-optimised 0.803 s"]),
        (
            {"dpus": 0.2, "dpus_optimised": 0.01},
            0.0,
            "dpus-optimised",
            ["by dpus owed forget-loss error 0.000 + 0.200 > budget"],
        ),
        (
            {"dpus": 0.05, "dpus_optimised": 0.01},
            0.06,
            "dpus-optimised",
            ["by dpus owed forget-loss error 0.060 + 0.050 > budget"],
        ),
        ({"dpus": 0.2, "dpus_optimised": 0.15}, 0.0, "retrain", ["0.150 > budget 0.1 (dpus-optimised)"]),
        ({"dpus_optimised": 0.05}, 0.0, "dpus-optimised", ["0.050 <= budget 0.1"]),
    ],
)
def test_the_fastest_update_that_the_guard_lets_pass_is_chosen(errors, spent, chosen, says):
    options = {"policy": policy_with(approximate=EVERY), "calibration": calibrated(**errors)}
    found = decide(replace(EARLY, error_spent=spent), **options)
    assert found.strategy == chosen
    assert {name for name, _ in found.alternatives} == {"retrain", *(name.replace("_", "-") for name in errors)}
    text = "\n".join(found.reasons)
    assert all(each in text for each in says), text


@pytest.mark.parametrize(
    ("fast_enough", "errors", "chosen"),
    [
        (8.0, {"dpus": 0.05, "dpus_newton": 0.01}, "dpus-newton"),  # both are: the better one
        (8.0, {"dpus": 0.01, "dpus_newton": 0.05}, "dpus"),
        (8.0, {"dpus": 0.05, "dpus_newton": 0.01, "dpus_optimised": 0.001}, "dpus-newton"),  # the third is too slow
        (8.0, {"dpus": 0.05, "dpus_newton": 0.2}, "dpus"),  # the guard comes first
        (30.0, {"dpus": 0.05, "dpus_newton": 0.01}, "dpus"),
        (1e9, {"dpus": 0.05, "dpus_newton": 0.01}, "dpus"),  # none is: the fastest
    ],
)
def test_of_updates_that_are_fast_enough_the_one_that_owes_least_is_chosen(fast_enough, errors, chosen):
    visits = {name: decide(EARLY, strategy=name).sample_visits for name in ("retrain", *EVERY)}
    takes = {"retrain": 8.0, "dpus": 0.2, "dpus-newton": 0.4, "dpus-optimised": 2.0}
    times = CostModel({name: Coefficients(takes[name] / visits[name], 0.0, 0.1, 9) for name in visits})
    options = {"cost": times, "calibration": calibrated(**errors)}
    found = decide(EARLY, policy=policy_with(approximate=EVERY, fast_enough=fast_enough), **options)
    assert found.strategy == chosen
    assert any(f"{fast_enough:g} times faster" in each for each in found.reasons) == (chosen == "dpus-newton")


def test_the_plain_update_is_never_taken_for_slower_than_those_that_it_is_a_part_of():
    slow = CostModel({**COST.fits, "dpus": Coefficients(1.0, 1.0, 0.1, 2), "dpus-newton": Coefficients(1e-6, 0.01)})
    known = calibrated(dpus=0.05, dpus_newton=0.01, dpus_optimised=0.01)
    found = decide(EARLY, policy=policy_with(approximate=EVERY[::-1], fast_enough=1e9), cost=slow, calibration=known)
    newton_seconds = decide(EARLY, strategy="dpus-newton", cost=slow, calibration=known).estimated_seconds
    assert (found.strategy, found.estimated_seconds) == ("dpus", newton_seconds)
    alone = decide(EARLY, policy=policy_with(approximate=("dpus",)), cost=slow, calibration=known)
    assert alone.rule == "time"


def test_an_update_that_the_optimizer_rules_out_is_no_choice():
    known = calibrated(dpus_optimised=0.05, dpus_newton=0.01)
    options = {"calibration": known, "cost": CostModel({"dpus-newton": Coefficients(0.0, 1e-6), **COST.fits})}
    assert decide(EARLY, policy=policy_with(approximate=EVERY), **options).strategy == "dpus-newton"
    found = decide(EARLY, policy=policy_with(approximate=EVERY, optimizer="adamw", time_ratio=1e-9), **options)
    assert found.strategy == "dpus-optimised"
    assert "dpus-newton" not in dict(found.alternatives)


@given(
    st.dictionaries(st.sampled_from(["dpus", "dpus_newton", "dpus_optimised"]), st.floats(0, 0.3), min_size=1),
    st.floats(0, 0.2),
    st.permutations(EVERY),
    st.integers(1, 4),
)
def test_a_choice_of_updates_is_never_worse_than_one_of_them(errors, spent, order, first):
    """By the planner's own figures; and the order in which the policy names them does not matter."""
    stats = replace(touched_at(first, slices=4, rows=100), error_spent=spent)
    known = calibrated(**errors)
    fits = {name: Coefficients(1e-3, 1e-3 * n, 0.1, 9) for n, name in enumerate(["retrain", *EVERY])}
    options = {"cost": CostModel(fits), "calibration": known}
    chosen = decide(stats, policy=Policy(approximate=tuple(order)), **options)
    alone = [decide(stats, policy=Policy(approximate=(name,)), **options) for name in EVERY]
    least = min(each.estimated_seconds for each in alone)
    enough = dict(chosen.alternatives)["retrain"] / Policy().fast_enough
    assert chosen.estimated_seconds == least or least < chosen.estimated_seconds <= enough
    assert chosen.strategy == "retrain" or stats.error_spent + chosen.predicted_error <= Policy().quality_budget
    assert chosen.strategy == decide(stats, policy=Policy(approximate=EVERY), **options).strategy


def test_after_adamw_the_squares_of_batch_gradients_are_priced():
    adamw = policy_with(optimizer="adamw", batch_size=4)
    plain, squared = decide(EARLY, strategy="dpus"), decide(EARLY, strategy="dpus", policy=adamw)
    points = 5  # the begin, and after each of four slices
    assert squared.sample_visits == 2 * plain.sample_visits + second_moments.visits(points, 399, 4)
    assert decide(EARLY, strategy="dpus", policy=adamw, calibration=Calibration()).alpha == 0.25
    assert (
        decide(EARLY, strategy="rewind", policy=adamw).sample_visits == decide(EARLY, strategy="rewind").sample_visits
    )


@pytest.mark.parametrize(
    ("revoked", "chosen"), [(1, "subtract"), (400, "subtract"), (600, "retrain"), (990, "retrain")]
)
def test_of_exact_ways_the_faster_one_is_taken(revoked, chosen):
    """Subtraction visits what goes, a recount what stays."""
    stats = ShardStats(0, (1,), (1000,), (revoked,), (revoked,), (True,))
    fit = Coefficients(0.001, 0.0, 0.1, 9)
    policy = Policy(learner="additive")
    [plan] = make_plan([stats], CostModel({"retrain": fit, "subtract": fit}), policy, Pools(1, 1), Calibration()).shards
    assert (plan.strategy, plan.rule) == (chosen, "exact")
    assert plan.sample_visits == min(revoked, 1000 - revoked)
    assert dict(plan.alternatives).keys() == {"retrain", "subtract"}
    assert f"rows visited: retrain {1000 - revoked:,}, subtract {revoked:,}" in plan.reasons


def test_subtraction_is_for_sums_alone():
    stats = ShardStats(0, (1,), (1000,), (1,), (1,), (True,))
    with pytest.raises(StrategyUnavailableError, match="it takes learner additive"):
        make_plan([stats], CostModel(), Policy(), Pools(1, 1), Calibration(), "subtract")
    [plan] = make_plan([stats], CostModel(), Policy(), Pools(1, 1), Calibration()).shards
    assert "subtract" not in dict(plan.alternatives)


def test_what_cannot_be_subtracted_is_counted_again():
    stats = ShardStats(0, (1, 1), (500, 500), (1, 0), (1, 0), (True, False), trajectory=False)
    for asked in ("subtract", "auto"):
        policy = Policy(learner="additive")
        [plan] = make_plan([stats], CostModel(), policy, Pools(1, 1), Calibration(), asked).shards
        assert (plan.strategy, plan.rule) == ("retrain", "availability")
