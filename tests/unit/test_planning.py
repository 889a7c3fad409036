from __future__ import annotations

import itertools
import math
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybridmu.core.training import slice_epochs
from hybridmu.errors import StrategyUnavailableError
from hybridmu.planning.cost import Coefficients, CostModel, fit, schedule
from hybridmu.planning.planner import Policy, Pools, make_plan
from hybridmu.planning.workload import count
from hybridmu.types import Calibration, CalibrationBucket, CostObservation, ShardStats

# ---------------------------------------------------------------------- workload


@st.composite
def any_stats(draw) -> ShardStats:
    slices = draw(st.integers(1, 6))
    whole = st.integers(0, 7)
    each = lambda element: tuple(draw(st.lists(element, min_size=slices, max_size=slices)))  # noqa: E731
    rows = each(whole)
    revoked = tuple(min(n, r) for n, r in zip(rows, each(whole), strict=True))
    new = tuple(min(r, n) for r, n in zip(revoked, each(whole), strict=True))
    return ShardStats(0, each(st.integers(1, 4)), rows, revoked, new, each(st.booleans()))


def visits_of_training(stats: ShardStats, first: int) -> int:
    """Count, one by one, the rows that slice training visits from slice `first` on."""
    visits = 0
    for slice_ in range(first, len(stats.epochs) + 1):
        for _ in range(stats.epochs[slice_ - 1]):
            for i in range(slice_):
                for _ in range(stats.rows[i] - stats.revoked[i]):
                    visits += 1
    return visits


@given(any_stats())
def test_workload_against_brute_force(stats):
    slices = len(stats.epochs)
    touched = next((i for i in range(1, slices + 1) if stats.revoked[i - 1]), slices + 1)
    first = 1
    for i in range(1, slices + 1):  # the checkpoint after slice i is usable when it saw no revoked row and exists
        if i < touched and stats.clean[i - 1]:
            first = i + 1
    fresh = next((i for i in range(1, slices + 1) if stats.newly_revoked[i - 1]), slices + 1)
    gradients = sum(2 * sum(stats.newly_revoked[:i]) for i in range(fresh, slices + 1))
    work = count(stats)
    assert (work.first_touched, work.first_trained, work.first_new) == (touched, first, fresh)
    assert work.retrain_visits == visits_of_training(stats, first)
    assert work.full_visits == visits_of_training(stats, 1)
    assert work.gradient_visits == gradients
    assert work.ratio == (work.retrain_visits / work.full_visits if work.full_visits else 0.0)


def touched_at(first: int, slices: int = 10, rows: int = 1_000_000) -> ShardStats:
    """One row of slice `first` is revoked; slices are equal and every checkpoint exists."""
    revoked = tuple(int(i == first) for i in range(1, slices + 1))
    return ShardStats(0, (2,) * slices, (rows,) * slices, revoked, revoked, (True,) * slices)


def test_the_table_of_ratios_for_ten_equal_slices():
    ratios = [count(touched_at(first)).ratio for first in range(1, 11)]
    assert [f"{ratio:.2f}" for ratio in ratios] == "1.00 0.98 0.95 0.89 0.82 0.73 0.62 0.49 0.35 0.18".split()
    for first, ratio in enumerate(ratios, start=1):
        assert ratio == pytest.approx(1 - first * (first - 1) / 110, abs=1e-5)


@pytest.mark.parametrize(("threshold", "expected"), [(0.25, 10), (0.5, 8), (0.75, 6)])
def test_the_workload_rule_as_a_slice_number(threshold, expected):
    formula = math.ceil((1 + math.sqrt(1 + 4 * (1 - threshold) * 10 * 11)) / 2)
    found = [
        first for first in range(1, 11)
        if decide(touched_at(first), policy=Policy(workload_threshold=threshold)).rule == "workload"
    ]  # fmt: skip
    assert formula == expected
    assert found == list(range(expected, 11))


@given(st.integers(1, 60), st.integers(1, 40))
def test_slice_epochs(epochs, slices):
    found = slice_epochs(epochs, slices)
    assert len(found) == slices
    assert min(found) >= 1
    exact = Fraction(2 * epochs, slices + 1)  # per slice
    if exact >= 1:
        assert abs(sum(found) - exact * slices) <= Fraction(1, 2)
        assert all(abs(e - exact) < 1 for e in found)
    else:
        assert set(found) == {1}
    assert found == slice_epochs(epochs, slices)


# ---------------------------------------------------------------------- cost


def observations(visit: float, checkpoint: float, noise: float = 0.0, n: int = 200, name: str = "retrain"):
    rng = np.random.default_rng(0)
    for _ in range(n):
        visits, checkpoints = int(10 ** rng.uniform(2, 6)), int(rng.integers(1, 7))
        seconds = (visit * visits + checkpoint * checkpoints) * (1 + noise * rng.standard_normal())
        yield CostObservation(name, visits, checkpoints, float(seconds))


@pytest.mark.parametrize(("visit", "checkpoint"), [(3e-6, 0.02), (1e-4, 1e-4), (5e-6, 0.0)])
def test_the_fit_recovers_the_coefficients(visit, checkpoint):
    exact = fit(observations(visit, checkpoint)).fits["retrain"]
    assert exact.per_visit == pytest.approx(visit, rel=1e-6)
    assert exact.per_checkpoint == pytest.approx(checkpoint, rel=1e-4, abs=1e-9)
    assert (exact.spread, exact.observations) == (pytest.approx(0, abs=1e-6), 200)
    noisy = fit(observations(visit, checkpoint, noise=0.1)).fits["retrain"]
    assert noisy.per_visit == pytest.approx(visit, rel=0.06)
    assert noisy.spread == pytest.approx(0.1, abs=0.02)


def test_the_interval_covers_what_comes_next():
    model = fit(observations(3e-6, 0.02, noise=0.1))
    rng = np.random.default_rng(1)
    inside = 0
    for visits, checkpoints in zip(rng.integers(100, 10**6, 400), rng.integers(1, 7, 400), strict=True):
        seconds = (3e-6 * visits + 0.02 * checkpoints) * (1 + 0.1 * rng.standard_normal())
        estimate = model.estimate("retrain", int(visits), int(checkpoints))
        inside += estimate.low <= seconds <= estimate.high
    assert 0.92 <= inside / 400 <= 0.99  # two sigma
    assert 0.15 < (estimate.high - estimate.seconds) / estimate.seconds < 0.25


def test_coefficients_are_never_negative_and_strategies_apart():
    falling = [CostObservation("retrain", v, 1, s) for v, s in ((10, 3.0), (1000, 2.0), (10_000, 1.0))]
    model = fit([*falling, *observations(1e-5, 0.1, name="dpus"), CostObservation("idle", 0, 0, 1.0)])
    assert model.fits.keys() == {"retrain", "dpus"}
    assert (model.fits["retrain"].per_visit, model.fits["retrain"].per_checkpoint > 0) == (0.0, True)
    assert model.estimate("dpus", 1000, 0).seconds == pytest.approx(0.01, rel=1e-5)


def test_what_was_never_measured_borrows():
    model = fit(observations(1e-5, 0.1))
    assert model.estimate("dpus", 77, 3) == model.estimate("retrain", 77, 3)
    prior = CostModel().estimate("dpus", 1000, 2)
    assert prior.seconds == pytest.approx(1000 * Coefficients().per_visit + 2 * Coefficients().per_checkpoint)
    assert (prior.low, prior.high) == (0.0, 3 * prior.seconds)
    few = fit([CostObservation("retrain", 100, 1, 1.0)]).estimate("retrain", 100, 1)
    assert (few.seconds, few.low, few.high) == (pytest.approx(1), 0, pytest.approx(3))  # one outcome proves no spread


DURATIONS = st.lists(st.integers(0, 12).map(float), min_size=1, max_size=7)


@given(DURATIONS, st.integers(1, 4))
def test_schedule_against_brute_force(seconds, workers):
    ends = schedule(seconds, workers)
    makespan = max(ends)
    best = min(
        max(sum(s for s, w in zip(seconds, where, strict=True) if w == worker) for worker in range(workers))
        for where in itertools.product(range(workers), repeat=len(seconds))
    )
    assert max(max(seconds), sum(seconds) / workers) <= best <= makespan
    assert makespan <= (4 / 3 - 1 / (3 * workers)) * best + 1e-9  # Graham 1969: what longest-first promises
    spans = [(end - duration, end) for duration, end in zip(seconds, ends, strict=True)]
    for start, end in spans:
        assert start >= 0
        if end > start:  # list scheduling: never more jobs than workers, and none waits while one is idle
            assert sum(a <= start < b for a, b in spans) <= workers
            for idle in {a for a, _ in spans if a < start} | {b for _, b in spans if b < start}:
                assert sum(a <= idle < b for a, b in spans) == workers
    order = sorted(range(len(seconds)), key=lambda i: -seconds[i])
    starts = [spans[i][0] for i in order]
    assert starts == sorted(starts)


def test_schedule_of_nothing():
    assert schedule([], 3) == []


# ---------------------------------------------------------------------- planner

BUCKET = CalibrationBucket("dpus-optimised", 1, 0.01, 0.45, 0.03, -0.001, 20)
FITTED = Calibration((BUCKET, replace(BUCKET, strategy="dpus", alpha=0.25, error=0.04)))
# Retraining one visit costs as much as one of the update, and checkpoints nothing: seconds are visits / 1000.
COST = CostModel({name: Coefficients(1e-3, 0.0, 0.1, 9) for name in ("retrain", "dpus", "dpus-optimised")})


def plan_of(stats, *, policy=None, cost=COST, calibration=FITTED, pools=None, **options):
    stats = stats if isinstance(stats, list) else [stats]
    return make_plan(stats, cost, policy or Policy(), pools or Pools(2, 1), calibration, **options)


def decide(stats, **options):
    (found,) = plan_of(stats, **options).shards
    return found


EARLY = touched_at(1, slices=4, rows=100)  # workload ratio 1
LATE = touched_at(4, slices=4, rows=100)  # workload ratio 0.4


@pytest.mark.parametrize(
    ("stats", "options", "strategy", "rule", "numbers"),
    [
        (EARLY, {"policy": Policy(optimizer="adamw")}, "retrain", "availability", ["adamw"]),
        (EARLY, {"calibration": Calibration()}, "retrain", "availability", ["dpus-optimised is not calibrated"]),
        (EARLY, {"calibration": Calibration((replace(BUCKET, strategy="dpus"),))}, "retrain", "availability",
         ["dpus-optimised is not calibrated"]),
        (replace(EARLY, trajectory=False), {}, "retrain", "availability", ["checkpoint", "missing"]),
        (replace(EARLY, newly_revoked=(0,) * 4), {}, "retrain", "availability", ["hold none of the rows"]),
        (replace(EARLY, revoked=(100,) * 4), {}, "retrain", "availability", ["no live row"]),
        (replace(EARLY, error_spent=0.08), {}, "retrain", "quality", ["0.080 + 0.030 > budget 0.1"]),
        (replace(EARLY, error_spent=0.07), {}, "dpus-optimised", "boundary", ["0.070 + 0.030 <= budget 0.1"]),
        (LATE, {}, "retrain", "workload", ["0.030 <= budget 0.1", "workload ratio 0.399 <= 0.5"]),
        (LATE, {"policy": Policy(workload_threshold=0.3, finetune_epochs=1)}, "dpus-optimised", "boundary",
         ["ratio 0.399 > 0.3", "retrain 0.798 s, update 0.401 s"]),
        (EARLY, {"policy": Policy(time_ratio=3)}, "retrain", "time",
         ["workload ratio 1.000 > 0.5", "retrain 1.992 s, update 0.806 s: within 3 times"]),
        (EARLY, {"policy": Policy(time_ratio=2)}, "dpus-optimised", "boundary", ["retrain 1.992 s, update 0.806 s"]),
        (EARLY, {"slack_seconds": 2.0}, "retrain", "deadline", ["after 1.992 s, 2.000 s are left"]),
        (EARLY, {"slack_seconds": 1.9}, "dpus-optimised", "boundary", ["after 1.992 s, only 1.900 s are left"]),
        (EARLY, {"slack_seconds": -5.0}, "dpus-optimised", "boundary", ["only -5.000 s are left"]),
        (EARLY, {}, "dpus-optimised", "boundary", ["alpha 0.45 from canaries (slice 1, 1.0% of rows)"]),
        (EARLY, {"policy": Policy(approximate="dpus")}, "dpus", "boundary", ["0.000 + 0.040", "alpha 0.25"]),
        (EARLY, {"strategy": "retrain"}, "retrain", "request", ["asks for retrain"]),
        (EARLY, {"strategy": "dpus"}, "dpus", "request", ["asks for dpus", "alpha 0.25"]),
        (replace(LATE, error_spent=9.0), {"strategy": "dpus-optimised"}, "dpus-optimised", "request", ["alpha 0.45"]),
        (replace(EARLY, revoked=(100,) * 4), {"strategy": "dpus"}, "retrain", "availability", ["no live row"]),
        (replace(EARLY, revoked=(100,) * 4), {"strategy": "dpus", "policy": Policy(optimizer="adamw")}, "retrain",
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


def test_every_figure_of_a_retrain_and_an_update():
    exact, update = decide(LATE), decide(LATE, strategy="dpus-optimised")
    assert (exact.first_slice, exact.revoked, exact.sample_visits) == (4, 1, 2 * 399)
    assert exact.estimated_seconds == pytest.approx(0.798)
    assert exact.interval == (pytest.approx(0.798 * 0.8), pytest.approx(0.798 * 1.2))
    assert (exact.alpha, exact.predicted_error) == (0.0, 0.0)
    assert (update.first_slice, update.sample_visits) == (4, 2 * 1 + 2 * 399)  # gradients, then two epochs of fine-tuning
    assert dict(update.alternatives) == {"retrain": pytest.approx(0.798), "dpus-optimised": pytest.approx(0.8)}
    assert (update.alpha, update.predicted_error) == (0.45, 0.03)
    assert decide(LATE, strategy="dpus").sample_visits == 2
    costly = CostModel({"retrain": Coefficients(0.0, 1.0, 0.0, 9), "dpus": Coefficients(0.0, 1.0, 0.0, 9)})
    assert decide(LATE, cost=costly).estimated_seconds == 2  # reads checkpoint 3, writes 4
    assert decide(EARLY, cost=costly, strategy="retrain").estimated_seconds == 4  # writes 1..4
    assert decide(EARLY, cost=costly, strategy="dpus").estimated_seconds == 5  # reads 0..4 or writes the result


@pytest.mark.parametrize(("policy", "stats", "says"), [(Policy(optimizer="adamw"), EARLY, "adamw"),
                                                       (Policy(), replace(EARLY, trajectory=False), "missing")])  # fmt: skip
def test_a_forced_update_that_cannot_run_is_refused(policy, stats, says):
    with pytest.raises(StrategyUnavailableError, match=f"dpus can't run on shard 0[\\s\\S]*{says}"):
        decide(stats, policy=policy, strategy="dpus")
    assert decide(stats, policy=policy, strategy="retrain").strategy == "retrain"


@pytest.mark.parametrize(("alpha", "expected"), [(0.2, 0.2), (None, 0.3), (0.0, 0.0)])
def test_a_forced_update_without_a_calibration_spends_the_whole_budget(alpha, expected):
    found = decide(EARLY, strategy="dpus", calibration=Calibration(), policy=Policy(alpha=alpha, quality_budget=0.7))
    assert (found.strategy, found.alpha, found.predicted_error) == ("dpus", expected, 0.7)
    assert any("not calibrated" in reason and f"{expected:g}" in reason for reason in found.reasons)


def test_the_nearest_bucket_is_used():
    buckets = tuple(
        CalibrationBucket("dpus-optimised", first, share, alpha, 0.01, 0.0)
        for first, share, alpha in ((1, 0.01, 0.1), (1, 0.1, 0.2), (3, 0.01, 0.3), (3, 0.1, 0.4))
    )
    for first, revoked, alpha in ((1, 1, 0.1), (1, 12, 0.1), (1, 13, 0.2), (1, 90, 0.2), (4, 1, 0.3), (4, 50, 0.4)):
        lost = tuple(revoked * (i == first) for i in range(1, 5))
        stats = replace(EARLY, revoked=lost, newly_revoked=lost)
        assert decide(stats, strategy="dpus-optimised", calibration=Calibration(buckets)).alpha == alpha, (first, revoked)


@pytest.mark.parametrize("seed", range(3))
def test_dispatch_order_and_makespan(seed):
    rng = np.random.default_rng(seed)
    stats = [replace(touched_at(int(rng.integers(1, 5)), 4, 100), shard=int(n)) for n in rng.permutation(9)]
    found = plan_of(stats, pools=Pools(3, 2), policy=Policy(workload_threshold=0.5))
    order = [(-p.estimated_seconds, p.shard) for p in found.shards]
    assert order == sorted(order)
    assert found == plan_of(list(reversed(stats)), pools=Pools(3, 2), policy=Policy(workload_threshold=0.5))
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
