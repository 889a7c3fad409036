from __future__ import annotations

import itertools
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.optimize import nnls

from hybridmu.core.kernel.training import slice_epochs
from hybridmu.core.learners.workload import count
from hybridmu.planning.cost import PULL, Coefficients, CostModel, fit, least_squares, schedule
from hybridmu.types import CostObservation, ShardStats
from tests.support import touched_at

TABLE = "1.00 0.98 0.95 0.89 0.82 0.73 0.62 0.49 0.35 0.18"  # 1 - r(r-1)/(R(R+1)) for R = 10

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
    # θ^(i) is asked for the rows seen in slice i or i + 1, for every i from the one before the first new slice on.
    gradients = sum(sum(stats.newly_revoked[: min(i + 1, slices)]) for i in range(fresh - 1, slices + 1))
    work = count(stats)
    assert (work.first_touched, work.first_trained, work.first_new) == (touched, first, fresh)
    assert work.retrain_visits == visits_of_training(stats, first)
    assert work.full_visits == visits_of_training(stats, 1)
    assert work.gradient_visits == gradients
    assert work.ratio == (work.retrain_visits / work.full_visits if work.full_visits else 0.0)


def test_the_table_of_ratios_for_ten_equal_slices():
    ratios = [count(touched_at(first)).ratio for first in range(1, 11)]
    assert [f"{ratio:.2f}" for ratio in ratios] == TABLE.split()
    for first, ratio in enumerate(ratios, start=1):
        assert ratio == pytest.approx(1 - first * (first - 1) / 110, abs=1e-5)


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


def observations(visit: float, checkpoint: float, row=0.0, job=0.0, *, noise=0.0, n=200, name="retrain"):
    rng = np.random.default_rng(0)
    for _ in range(n):
        visits, checkpoints = int(10 ** rng.uniform(2, 6)), int(rng.integers(1, 7))
        rows = int(10 ** rng.uniform(2, 5)) if row else 0
        seconds = visit * visits + checkpoint * checkpoints + row * rows + job
        yield CostObservation(name, visits, checkpoints, float(seconds * (1 + noise * rng.standard_normal())), rows)


@pytest.mark.parametrize(
    ("visit", "checkpoint", "row", "job"),
    [
        (3e-6, 0.02, 0, 0),
        (1e-4, 1e-4, 0, 0),
        (5e-6, 0, 0, 0),
        (1e-5, 0.01, 5e-6, 0.03),
        (1e-5, 0, 1e-5, 0),
        (0, 0, 0, 2),
    ],
)
def test_the_fit_recovers_the_coefficients(visit, checkpoint, row, job):
    exact = fit(observations(visit, checkpoint, row, job)).fits["retrain"]
    found = exact.per_visit, exact.per_checkpoint, exact.per_row, exact.per_job
    assert found == pytest.approx((visit, checkpoint, row, job), rel=0.01, abs=1e-3 * (job or 0.01))
    assert (exact.per_visit, exact.per_row) == pytest.approx((visit, row), rel=0.01, abs=1e-8)
    assert (exact.spread, exact.observations) == (pytest.approx(0, abs=0.002), 200)
    noisy = fit(observations(visit, checkpoint, row, job, noise=0.1)).fits["retrain"]
    assert noisy.per_visit == pytest.approx(visit, rel=0.06, abs=1e-7)
    assert noisy.spread == pytest.approx(0.1, abs=0.02)


@given(st.lists(st.tuples(st.integers(1, 10**6), st.integers(0, 20), st.integers(0, 10**5)), min_size=1, max_size=12),
       st.floats(0.01, 100), st.floats(0.5, 2))  # fmt: skip
def test_a_fit_is_never_negative_scales_with_the_clock_and_explains_what_it_saw(work, clock, noise):
    true = Coefficients(2e-5, 4e-3, per_row=3e-6, per_job=0.01)
    seen = [
        CostObservation("dpus", v, c, clock * true.seconds(v, c, r) * (noise if n % 2 else 1), r)
        for n, (v, c, r) in enumerate(work)
    ]
    found = fit(seen).fits["dpus"]
    assert min(found.per_visit, found.per_checkpoint, found.per_row, found.per_job, found.spread) >= 0
    for one in seen:  # within what the noise and the pull can do
        ratio = found.seconds(one.visits, one.checkpoints, one.rows) / one.seconds
        assert 0.3 < ratio < 3
    slower = fit([replace(one, seconds=10 * one.seconds) for one in seen]).fits["dpus"]
    for name in ("per_visit", "per_checkpoint", "per_row", "per_job"):
        assert getattr(slower, name) == pytest.approx(10 * getattr(found, name), rel=1e-6, abs=1e-12)
    assert fit(list(reversed(seen))).fits["dpus"].per_visit == pytest.approx(found.per_visit, rel=1e-6, abs=1e-12)


@given(
    st.integers(1, 8).flatmap(
        lambda n: st.tuples(arrays(float, (n, 4), elements=st.floats(0, 4)), arrays(float, n, elements=st.floats(0, 4)))
    ),
    arrays(bool, 4),
)
def test_least_squares_are_those_of_another_library_whatever_is_tried_first(outcomes, likely):
    work, target = np.round(outcomes[0], 2), np.round(outcomes[1], 2)
    found = least_squares(work, target, likely)
    terms = work.any(axis=0)
    assert not found[~terms].any()
    pulled = np.vstack([work[:, terms], PULL * np.eye(terms.sum())])
    theirs = nnls(pulled, np.append(target, np.full(terms.sum(), PULL)))[0] if terms.any() else np.zeros(0)
    np.testing.assert_allclose(found[terms], theirs, rtol=1e-6, atol=1e-6)


def test_a_stopped_worker_and_noise_do_not_move_the_estimate():
    usual = list(observations(1e-5, 0.01, noise=0.3, n=60))
    clean = fit(observations(1e-5, 0.01, n=60)).estimate("retrain", 10_000, 3).seconds
    noisy = fit(usual).estimate("retrain", 10_000, 3).seconds
    stalled = [replace(usual[0], seconds=100 * usual[0].seconds), *usual[1:]]
    assert noisy == pytest.approx(clean, rel=0.12), "slow jobs weigh as much as fast ones"
    assert fit(stalled).estimate("retrain", 10_000, 3).seconds == pytest.approx(noisy, rel=0.1)


def test_the_first_retrains_of_processes_count_only_where_there_are_few_others():
    first = [CostObservation("retrain", 7500, 2, 0.6, rows=130) for _ in range(16)]
    later = [CostObservation("retrain", 7500 + 100 * n, 2, 0.3 + 0.004 * n) for n in range(8)]
    few = fit([*first, *later[:7]])
    assert few.fits["retrain"].observations == 23
    many = fit([*first, *later])
    assert many.fits["retrain"].observations == 8
    assert many.estimate("retrain", 7500, 2).seconds == pytest.approx(0.3, rel=0.02)
    assert many.fits["retrain"].spread < 0.02 < few.fits["retrain"].spread
    assert fit(first).estimate("retrain", 7500, 2).seconds > 0.3, "a cluster that has only begun goes by what it has"


def test_what_few_outcomes_leave_open_is_shared_out():
    """Trainings of equal shards can't say what a checkpoint costs; a late slice is neither free nor as slow as all."""
    training = [CostObservation("retrain", 9000, 5, 0.12) for _ in range(8)]
    cost = fit(training)
    whole, late = cost.estimate("retrain", 9000, 5).seconds, cost.estimate("retrain", 2400, 2).seconds
    assert whole == pytest.approx(0.12, rel=0.01)
    assert 0.2 * whole < late < 0.5 * whole


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
    assert model.fits["retrain"].per_visit == pytest.approx(0, abs=1e-6)
    assert model.fits["retrain"].per_job > 0
    assert model.estimate("dpus", 100_000, 0).seconds == pytest.approx(1, rel=0.01)


def test_what_was_never_measured_borrows():
    model = fit(observations(1e-5, 0.1))
    assert model.estimate("dpus", 77, 3) == model.estimate("retrain", 77, 3)
    prior = CostModel().estimate("dpus", 1000, 2)
    assert 0 < prior.seconds < CostModel().estimate("dpus", 1000, 2, rows=10_000).seconds < 0.1
    assert (prior.low, prior.high) == (0.0, 3 * prior.seconds)
    few = fit([CostObservation("retrain", 100, 1, 1.0)]).estimate("retrain", 100, 1)
    assert (few.seconds, few.low, few.high) == (
        pytest.approx(1, 0.01), 0, pytest.approx(3, 0.01))  # one outcome proves no spread  # fmt: skip


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
