"""Fits from canaries, what they say of other deletions, and whether really measured gaps agree."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybridmu.core import evaluation
from hybridmu.core.calibration.canary_deletions import measure, other_order, pick
from hybridmu.core.calibration.fit import estimate, fit
from hybridmu.core.strategies import get
from hybridmu.types import ALPHAS, Calibration, CalibrationBucket, CalibrationCell, CanaryControls, RetrainNoise
from tests.scenes.shard_in_memory import make_rows, trained
from tests.support import curve

# ---------------------------------------------------------------------- fitting


@given(st.lists(st.tuples(st.floats(0.15, 0.95), st.integers(1, 50)), min_size=1, max_size=5))
def test_the_step_is_where_the_mean_gap_crosses_zero(shards):
    curves = [curve(shard=n, zero=zero, canaries=count) for n, (zero, count) in enumerate(shards)]
    (bucket,) = fit(curves).buckets
    mean = np.average([zero for zero, _ in shards], weights=[count for _, count in shards])
    assert bucket.alpha == pytest.approx(mean, abs=1e-9)
    low, high = bucket.alpha_range
    assert low <= bucket.alpha + 1e-9
    assert bucket.alpha <= high + 1e-9
    assert (bucket.shards, bucket.canaries) == (len(shards), sum(count for _, count in shards))
    assert bucket.error >= math.sqrt(np.mean([(bucket.alpha - zero) ** 2 for zero, _ in shards])) - 1e-9


def test_gaps_that_never_cross_zero_give_the_step_nearest_to_it():
    assert fit([curve(off=5.0)]).buckets[0].alpha == ALPHAS[0]
    assert fit([curve(off=-5.0)]).buckets[0].alpha == ALPHAS[-1]


def test_the_error_is_the_spread_of_all_cells_of_an_update():
    """Four gaps of ±0.1 around two fitted steps leave two degrees of freedom: 0.1 · √(4/2)."""
    pair = [curve(shard=0, zero=0.4), curve(shard=1, zero=0.6)]
    curves = [*pair, *(replace(c, cell=CalibrationCell(3, 0.1)) for c in pair)]
    assert [bucket.error for bucket in fit(curves).buckets] == [pytest.approx(0.1 * math.sqrt(2))] * 2
    bound = 0.1 * math.sqrt(2) * 2.920 * math.sqrt(1.5)  # Student's t with 2 degrees, of a new draw beside two
    assert fit(curves).buckets[0].error + fit(curves).buckets[0].spread == pytest.approx(bound)
    other = curve("dpus", zero=0.3, gaps=tuple(9 * (a - 0.3) for a in ALPHAS))
    assert fit([*curves, other]).buckets[1:] == fit(curves).buckets, "an update is judged by its own curves"


def test_without_one_of_two_shards_the_interval_is_wider():
    curves = [curve(shard=shard, first=first, zero=zero) for first in (1, 3) for shard, zero in ((0, 0.45), (1, 0.55))]
    both, one = fit(curves).buckets, fit(curves[1:]).buckets
    assert [(b.first_slice, b.shards) for b in one] == [(1, 1), (3, 2)]
    for a, b in zip(both, one, strict=True):
        assert b.error + b.spread > a.error + a.spread
    assert one[0].spread > one[1].spread


def test_a_single_curve_is_judged_by_its_canaries():
    few = fit([curve(deviations=(0.3,) * len(ALPHAS), canaries=4)]).buckets[0]
    many = fit([curve(deviations=(0.3,) * len(ALPHAS), canaries=400)]).buckets[0]
    assert few.error == pytest.approx(0.15)
    assert few.spread / few.error > 7, "one degree of freedom"
    assert many.error == pytest.approx(0.015)
    assert few.alpha_range[1] - few.alpha_range[0] > many.alpha_range[1] - many.alpha_range[0] > 0


def test_the_damped_update_has_no_step_and_its_mean_gap_counts():
    (bucket,) = fit([curve("dpus-newton", shard=n, gaps=(0.05,) * len(ALPHAS)) for n in range(2)]).buckets
    assert (bucket.alpha, bucket.alpha_range) == (1.0, (1.0, 1.0))
    assert bucket.error == pytest.approx(0.05), "nothing was fitted that could take it away"


def test_lost_accuracy_counts_as_error_and_gained_does_not():
    worse, better = (
        fit([curve(shard=n, accuracy_changes=(change,) * len(ALPHAS)) for n in range(2)]).buckets[0]
        for change in (-0.02, 0.02)
    )
    assert worse.error - better.error == pytest.approx(0.02)
    assert (worse.accuracy_change, better.accuracy_change) == (pytest.approx(-0.02), pytest.approx(0.02))


def test_nothing_is_fitted_from_nothing():
    assert fit([]) == Calibration()
    assert estimate(Calibration(), "dpus", 1, 0.1, 5) is None
    assert estimate(fit([curve("dpus")]), "dpus-newton", 1, 0.1, 5) is None


# ---------------------------------------------------------------------- other deletions

GRID = Calibration(
    tuple(
        CalibrationBucket("dpus", first, share, alpha, error, 0.0, 40, 2 * error, (alpha - 0.1, alpha))
        for first, share, alpha, error in [
            (1, 0.01, 0.2, 0.01), (1, 0.1, 0.4, 0.02), (3, 0.01, 0.6, 0.03), (3, 0.1, 0.8, 0.04)
        ]
    )
)  # fmt: skip


@pytest.mark.parametrize(
    ("first", "share", "alpha", "bound", "cells", "outside"),
    [
        (1, 0.01, 0.2, 0.03, 1, ""),
        (3, 0.1, 0.8, 0.12, 1, ""),
        (1, math.sqrt(0.001), 0.3, 0.06, 2, ""),  # half-way between the logarithms
        (2, 0.1, 0.6, 0.12, 2, ""),
        (2, math.sqrt(0.001), 0.5, 0.12, 4, ""),
        (5, 0.01, 0.6, 0.09, 1, "slice 5, calibrated up to 3"),
        (1, 0.3, 0.4, 0.18, 1, "30.0% of rows, calibrated up to 10.0%: the error grows in proportion"),
        (1, 0.001, 0.2, 0.03, 1, "0.10% of rows, calibrated from 1.00% on"),
        (1, 0.0115, 0.2121, 0.06, 2, ""),
    ],
)
def test_between_buckets_it_is_interpolated_and_outside_it_is_said(first, share, alpha, bound, cells, outside):
    found = estimate(GRID, "dpus", first, share, 10_000)
    assert found.alpha == pytest.approx(alpha, abs=1e-3)
    assert found.alpha_range == (pytest.approx(alpha - 0.1, abs=1e-3), pytest.approx(alpha, abs=1e-3))
    assert found.bound == pytest.approx(bound)
    assert found.error == pytest.approx(bound / 3)
    assert len(found.cells) == cells
    assert found.canaries == 40 * cells
    assert outside in "; ".join(found.outside)
    assert bool(found.outside) == bool(outside)


@given(st.integers(1, 9), st.floats(1e-6, 1.0), st.integers(1, 10_000))
def test_a_bound_never_falls_when_less_is_known(first, share, rows):
    calibration = Calibration(tuple(replace(b, deviation=0.2) for b in GRID.buckets))
    found = estimate(calibration, "dpus", first, share, rows)
    used = [b for b in calibration.buckets if CalibrationCell(b.first_slice, b.share) in found.cells]
    if rows <= 20:  # as many as there were canaries in a shard
        assert found.bound >= max(b.error + b.spread for b in used) - 1e-12
    assert min(b.alpha for b in used) - 1e-12 <= found.alpha <= max(b.alpha for b in used) + 1e-12
    fewer = estimate(calibration, "dpus", first, share, max(1, rows // 2))
    assert fewer.bound >= found.bound - 1e-12


def test_fewer_rows_than_canaries_spread_more_and_more_rows_less():
    bucket = CalibrationBucket("dpus", 1, 0.1, 0.5, 0.05, 0.0, 200, spread=0.03, shards=2, deviation=0.3)

    def bound(rows):
        return estimate(Calibration((bucket,)), "dpus", 1, 0.1, rows).bound

    assert bound(1) == pytest.approx(math.hypot(0.08, 2 * 0.3 * math.sqrt(1 - 1 / 100)))
    assert bound(1) > bound(4) > bound(100) == pytest.approx(0.08)
    assert bound(10**9) == pytest.approx(math.sqrt(0.08**2 - 1.645**2 * 0.03**2), rel=1e-6)
    assert bound(100) > bound(400) > bound(10**9)
    quiet = replace(bucket, deviation=0.5, spread=0.06)  # nothing but the canaries' own: what they left unsure stays
    found = estimate(Calibration((quiet,)), "dpus", 1, 0.1, 400)
    assert found.error == pytest.approx(0.025)
    assert found.bound == pytest.approx(math.sqrt(0.11**2 - 1.645**2 * (0.05**2 - 0.025**2)))


def test_deletions_larger_than_canaries_stay_below_the_bound():
    """Simulated: gaps have a part that all rows of a deletion share, and one of each row; canaries are 13 rows."""
    random, below = np.random.default_rng(1), []
    for common in (0.0, 0.02, 0.05):
        for _ in range(300):
            curves = []
            for cell in (CalibrationCell(1, 0.01), CalibrationCell(3, 0.01)):
                for shard in range(2):
                    gaps = random.normal(0, common) + random.normal(0, 0.25, 13)
                    flat = {"gaps": (float(gaps.mean()),) * len(ALPHAS), "canaries": 13, "shard": shard}
                    deviation = (float(gaps.std(ddof=1)),) * len(ALPHAS)
                    curves.append(replace(curve("dpus-newton", deviations=deviation, **flat), cell=cell))
            found = estimate(fit(curves), "dpus-newton", 1, 0.01, 135)
            truth = random.normal(0, common) + random.normal(0, 0.25 / math.sqrt(135), 50)
            below.append(np.mean(np.abs(truth) <= found.bound))
    assert np.mean(below) >= 0.9


# ---------------------------------------------------------------------- picking

_ROWS = make_rows(120, slices=4, seed=1)
_PEOPLE = np.zeros((120, 16), np.uint8)
_PEOPLE[:, 0] = np.random.default_rng(0).integers(1, 25, 120)
_PEOPLE[:20] = 0  # some belong to nobody
# One person's rows lie in one slice.
_GROUPED = replace(_ROWS, groups=_PEOPLE, slice=np.where(_PEOPLE[:, 0] > 0, 1 + _PEOPLE[:, 0] % 4, _ROWS.slice))


@given(
    st.sampled_from([_ROWS, _GROUPED]), st.integers(1, 5), st.floats(0.001, 1.0), st.integers(0, 9), st.integers(0, 119)
)
def test_canaries_are_of_the_cell_and_depend_on_nobody_else(rows, first, share, seed, gone):
    cell = CalibrationCell(first, share)
    mask = pick(rows, cell, seed, 0)
    inside = rows.slice >= first
    if not (rows.slice == first).any():
        assert not mask.any()
        return
    assert mask.sum() == min(max(1, round(share * len(rows))), inside.sum())
    assert not mask[~inside].any()
    assert mask[rows.slice == first].any()
    if not mask[gone]:  # nobody else takes a canary's place
        kept = np.arange(len(rows)) != gone
        less = pick(rows.where(kept), cell, seed, 0)
        assert not (less & ~mask[kept]).any()


def test_a_canary_is_one_of_one_cell_and_a_person_too():
    for rows in (_ROWS, _GROUPED):
        taken, owners = set(), []
        for first, share in ((1, 0.05), (1, 0.1), (3, 0.05), (3, 0.1)):
            mask = pick(rows, CalibrationCell(first, share), 0, 0, taken)
            of = {bytes(g) if g.any() else bytes(i) for i, g in zip(rows.ids[mask], rows.groups[mask], strict=True)}
            owners.append(of)
            taken |= {bytes(key) for column in (rows.ids, rows.groups) for key in column[mask] if key.any()}
        assert sum(map(len, owners)) == len(set().union(*owners))


def test_people_are_taken_whole_as_far_as_they_fit():
    mask = pick(_GROUPED, CalibrationCell(1, 0.2), 0, 0)
    people = [tuple(g) for g in _GROUPED.groups[mask] if g.any()]
    broken = [p for p in set(people) if people.count(p) < sum(tuple(g) == p for g in _GROUPED.groups)]
    assert len(broken) <= 1
    assert len(set(people)) < len(people)


def test_where_too_few_are_left_canaries_are_shared():
    everyone = {bytes(key) for key in _ROWS.ids}
    assert pick(_ROWS, CalibrationCell(1, 0.1), 0, 0, everyone).sum() == 12


# ---------------------------------------------------------------------- what two retrains differ by


def test_the_noise_of_retrains_is_split_into_what_rows_share_and_what_each_has():
    """Simulated: a shift of all rows of 0.05, and 0.3 for each row."""
    random, curves = np.random.default_rng(0), []
    for shard in range(400):
        canaries = int(random.integers(5, 50))
        gaps = random.normal(0, 0.05) + random.normal(0, 0.3, canaries)
        controls = CanaryControls(-0.2, float(gaps.mean()), float(gaps.std(ddof=1)))
        curves += [
            curve(name, shard=shard, canaries=canaries, controls=controls) for name in ("dpus", "dpus-optimised")
        ]
    noise = fit(curves).noise
    assert (noise.pairs, noise.fewest) == (400, 5), "the updates on the same canaries share one"
    assert noise.common == pytest.approx(0.05, rel=0.15)
    assert noise.single == pytest.approx(0.3, rel=0.05)
    assert noise.of(9) == pytest.approx(math.hypot(noise.common, noise.single / 3))
    assert noise.of(1) == noise.of(5), "of fewer rows nothing was measured"


def test_large_sets_of_canaries_tell_more_of_what_rows_share():
    """As canaries are: half of the sets have 13 rows, half 130; weighted by rows, the common part is surer."""

    def off(weights: bool, seed: int) -> float:
        random, curves = np.random.default_rng(seed), []
        for shard in range(12):
            canaries = 130 if shard % 2 else 13
            gaps = random.normal(0, 0.03) + random.normal(0, 0.3, canaries)
            controls = CanaryControls(0.0, float(gaps.mean()), float(gaps.std(ddof=1)))
            told = canaries if weights else 40  # 40 for all: as if they were alike
            curves.append(curve(shard=shard, canaries=told, controls=controls))
        return abs(fit(curves).noise.common - 0.03)

    ours, alike = (np.mean([off(weights, seed) for seed in range(200)]) for weights in (True, False))
    assert ours < 0.75 * alike


def test_without_controls_nothing_is_said_of_noise():
    assert fit([]).noise is None
    plain = [curve(shard=0), curve(shard=1)]
    assert fit(plain).noise is None
    assert fit(plain).buckets[0].nothing is None
    told = [plain[0], replace(plain[1], controls=CanaryControls(-0.4, 0.2, 0.0))]
    assert fit(told).noise == RetrainNoise(0.2, 0.0, 1, 10)
    assert fit(told).buckets[0].nothing == 0.4
    small = replace(plain[0], controls=CanaryControls(0.0, 0.01, 0.5))
    assert fit([small]).noise.common == 0.0, "never below 0"


@pytest.mark.parametrize(("nothing", "helps"), [(None, False), (0.02, False), (0.021, True)])
def test_an_update_helps_where_canaries_ended_nearer_than_by_doing_nothing(nothing, helps):
    buckets = tuple(replace(bucket, error=0.02, nothing=0.5) for bucket in GRID.buckets)
    worst = replace(buckets[3], nothing=nothing)
    found = estimate(Calibration((*buckets[:3], worst)), "dpus", 2, math.sqrt(0.001), 100)
    assert len(found.cells) == 4
    assert found.helps == helps
    assert estimate(Calibration((*buckets[:3], worst)), "dpus", 1, 0.01, 100).helps, "that bucket is not used"


# ---------------------------------------------------------------------- measuring

SHARD = trained(rows=120, slices=3, epochs=4)
NOBODY = np.zeros(len(SHARD.rows), np.bool_)
UNSEEN = make_rows(200, seed=77)


def test_a_measurement_is_what_the_update_and_the_retrain_give():
    cell = CalibrationCell(2, 0.1)
    context = SHARD.context(NOBODY, finetune_epochs=1.0)
    found = {c.strategy: c for c in measure(context, cell, ("dpus", "dpus-optimised", "dpus-newton"), UNSEEN)}
    mask = pick(SHARD.rows, cell, SHARD.recipe.seed, 0)
    revoked, oracle = SHARD.rows.where(mask), SHARD.oracle(mask)
    target = evaluation.losses(oracle, revoked, SHARD.task)
    for strategy in ("dpus", "dpus-optimised", "dpus-newton"):
        one = found[strategy]
        assert (one.shard, one.cell, one.slices, one.canaries) == (0, cell, 3, 12)
        assert one.keys == tuple(sorted(bytes(key) for key in revoked.ids))
        for step in (0, 3, 5, 7):
            made = get(strategy).run(SHARD.context(mask, alpha=ALPHAS[step], finetune_epochs=1.0))
            each = evaluation.losses(SHARD.model(made.state), revoked, SHARD.task) - target
            assert one.gaps[step] == pytest.approx(each.mean(), abs=1e-6)
            assert one.deviations[step] == pytest.approx(each.std(ddof=1), abs=1e-6)
    assert len(set(found["dpus-newton"].gaps)) == 1
    one = found["dpus-optimised"]
    assert one.gaps[4] == pytest.approx(one.gaps[3] + (one.gaps[5] - one.gaps[3]) * 0.1 / 0.25), "not tried: between"
    assert found["dpus"].gaps[0] < found["dpus"].gaps[-1]


def test_the_noise_is_that_of_a_training_from_scratch_in_another_order():
    cell, updates = CalibrationCell(2, 0.1), ("dpus", "dpus-newton")
    found = measure(SHARD.context(NOBODY), cell, updates, UNSEEN, controlled=True)
    mask = pick(SHARD.rows, cell, SHARD.recipe.seed, 0)
    revoked, live = SHARD.rows.where(mask), SHARD.rows.where(~mask)
    context = replace(SHARD.context(mask), recipe=other_order(SHARD.recipe), checkpoint=lambda _: None)
    again = get("retrain").run(replace(context, live=live, save=lambda *_: None))
    target = evaluation.losses(SHARD.oracle(mask), revoked, SHARD.task)
    each = evaluation.losses(SHARD.model(again.state), revoked, SHARD.task) - target
    assert abs(each).max() > 0
    for one in found:
        assert one.controls.again == pytest.approx(each.mean())
        assert one.controls.again_deviation == pytest.approx(each.std(ddof=1))
        assert one.controls.nothing == pytest.approx(
            (evaluation.losses(SHARD.model(), revoked, SHARD.task) - target).mean()
        )
    once = measure(SHARD.context(NOBODY), cell, updates, UNSEEN)
    assert [replace(one, controls=None) for one in found] == list(once)


def test_nothing_is_measured_where_no_row_or_every_row_would_be_a_canary():
    context = SHARD.context(NOBODY)
    assert measure(context, CalibrationCell(1, 1.0), ("dpus",), UNSEEN) == ()
    assert (
        measure(
            replace(context, live=SHARD.rows.where(SHARD.rows.slice > 1)), CalibrationCell(1, 0.1), ("dpus",), UNSEEN
        )
        == ()
    )


def test_a_lone_canary_knows_its_own_gap_only():
    (one,) = measure(SHARD.context(NOBODY), CalibrationCell(1, 1e-9), ("dpus",), UNSEEN)
    assert one.canaries == 1
    assert one.deviations == tuple(map(abs, one.gaps))


# ---------------------------------------------------------------------- does it hold?


@pytest.mark.parametrize(
    ("optimizer", "momentum", "updates"),
    [("sgd", 0.0, ("dpus", "dpus-newton")), ("sgd", 0.9, ("dpus", "dpus-newton")), ("adamw", 0.0, ("dpus",))],
)
@pytest.mark.sampled
def test_really_measured_gaps_stay_below_what_is_predicted(optimizer, momentum, updates):
    """Shards that were no part of the calibration: about nine of ten deletions must lie below error + spread.

    The bound must say something, too: on many deletions it is below the gap of doing nothing.
    """
    recipe = {"epochs": 12, "lr": 0.01 if optimizer == "adamw" else 0.1 * (1 - momentum)}
    shards = [trained(rows=150, seed=seed, momentum=momentum, optimizer=optimizer, **recipe) for seed in range(8)]
    curves, below, useful = [], [], []
    for n, first, share in ((n, first, share) for n in range(4) for first in (1, 2) for share in (0.05, 0.2)):
        context = shards[n].context(np.zeros(150, np.bool_))
        found = measure(context, CalibrationCell(first, share), updates, UNSEEN)
        curves += [replace(one, shard=n) for one in found]
    calibration = fit(curves)
    random = np.random.default_rng(5)
    for shard in shards[4:]:
        for count in (8, 15, 30):
            mask = np.zeros(150, np.bool_)
            mask[random.choice(150, count, replace=False)] = True
            revoked, oracle = shard.rows.where(mask), shard.oracle(mask)
            target = evaluation.losses(oracle, revoked, shard.task).mean()
            nothing = evaluation.losses(shard.model(), revoked, shard.task).mean() - target
            for strategy in updates:
                found = estimate(calibration, strategy, int(revoked.slice[0]), count / 150, count)
                made = get(strategy).run(shard.context(mask, alpha=found.alpha))
                gap = evaluation.losses(shard.model(made.state), revoked, shard.task).mean() - target
                below.append(abs(gap) <= found.bound)
                useful.append(found.bound < abs(nothing))
    assert np.mean(below) >= 0.8
    assert np.mean(useful) >= 0.2
