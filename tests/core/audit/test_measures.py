"""Audits: what they say of equal, of different and of hopeless models."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from hybridmu.core import evaluation
from hybridmu.core.audit import measures
from hybridmu.core.kernel.training import Recipe
from hybridmu.core.tasks.classification import Classification
from tests.scenes.shard_in_memory import make_rows, trained

finite = st.floats(-200, 200, width=32)


def samples(models: int, rows: int):
    return arrays.arrays(np.float64, (models, rows), elements=finite)


def normal(seed: int, models: int = 40, rows: int = 30, shift: float = 0.0):
    return np.random.default_rng(seed).normal(shift, 1.0, (models, rows))


# ---------------------------------------------------------------------- margins


labels_of_six = st.lists(st.integers(0, 2), min_size=6, max_size=6)


@given(arrays.arrays(np.float32, (6, 3), elements=st.floats(-50, 50, width=32)), labels_of_six)
def test_a_margin_is_the_log_odds_of_the_right_class(logits, labels):
    found = Classification().margins(torch.from_numpy(logits), torch.tensor(labels))
    odds = np.exp(logits.astype(np.float64))
    right = np.eye(3, dtype=bool)[labels]
    others = np.where(right, 0.0, odds).sum(axis=1)
    assert np.allclose(found, np.log(odds[right] / others), atol=1e-6)


# ---------------------------------------------------------------------- KLoM


@given(samples(7, 4))
def test_klom_of_the_same_models_is_zero(margins):
    assert np.allclose(measures.klom(margins, margins), 0.0)


@given(samples(5, 3), samples(8, 3))
def test_klom_is_not_negative_and_has_a_ceiling(ours, oracles):
    found = measures.klom(ours, oracles)
    assert found.shape == (3,)
    assert (found >= 0).all()
    # Disjoint histograms: all mass against the smoothing.
    assert (found <= math.log((1 + 1e-5) / 1e-5) + 1e-9).all()


@given(samples(5, 3), samples(5, 3), st.permutations(range(5)))
def test_klom_does_not_see_the_order_of_the_models(ours, oracles, order):
    assert np.allclose(measures.klom(ours, oracles), measures.klom(ours[list(order)], oracles))


def test_klom_against_a_count_by_hand():
    # Range 0..20 in bins of width 1; the oracles sit in bins 0 and 19, ours in bin 0 alone.
    found = measures.klom(np.array([[0.5], [0.0]]), np.array([[0.0], [20.0]]))
    total = 1 + 20 * 1e-5
    p, q = (0.5 + 1e-5) / total, (1 + 1e-5) / total
    assert found[0] == pytest.approx(p * math.log(p / q) + p * math.log(p / (1e-5 / total)))


def test_klom_clips_at_one_hundred():
    far, farther = np.full((3, 1), 150.0), np.full((3, 1), 1e6)
    assert measures.klom(far, farther)[0] == 0.0


def test_klom_grows_with_the_distance():
    near, far = (
        measures.klom(normal(0, shift=0.5), normal(1)).mean(),
        measures.klom(normal(0, shift=3), normal(1)).mean(),
    )
    assert measures.klom(normal(0), normal(1)).mean() < near < far


def test_klom_needs_models_over_the_same_rows():
    with pytest.raises(ValueError, match="same rows"):
        measures.klom(np.zeros((2, 3)), np.zeros((2, 4)))
    with pytest.raises(ValueError, match="both sides"):
        measures.klom(np.zeros((0, 3)), np.zeros((2, 3)))


# ---------------------------------------------------------------------- U-LiRA


def test_the_attack_on_equal_distributions_is_a_coin():
    found = [measures.u_lira(normal(seed), normal(100 + seed)) for seed in range(5)]
    assert np.mean([attack.auc for attack in found]) == pytest.approx(0.5, abs=0.02)
    assert np.mean([attack.tpr_at_one for attack in found]) == pytest.approx(0.01, abs=0.01)
    assert all(attack.tpr_at_tenth <= attack.tpr_at_one for attack in found)


def test_the_attack_on_different_models_succeeds():
    found = measures.u_lira(normal(0, shift=8.0), normal(1))
    assert found.auc > 0.999
    assert found.tpr_at_tenth > 0.99


@given(samples(4, 3), samples(4, 3))
def test_exchanging_the_sides_exchanges_the_attack(ours, oracles):
    there, back = measures.u_lira(ours, oracles), measures.u_lira(oracles, ours)
    assert there.auc == pytest.approx(back.auc, abs=1e-6)
    assert 0 <= there.auc <= 1


def test_the_attack_sees_a_difference_of_spread_alone():
    assert measures.u_lira(normal(0) * 4, normal(1)).auc > 0.75


def test_the_attack_needs_three_models():
    with pytest.raises(ValueError, match="three models"):
        measures.u_lira(np.zeros((2, 5)), np.zeros((2, 5)))


@given(arrays.arrays(np.float64, 20, elements=finite), arrays.arrays(np.float64, 30, elements=finite), st.floats(0, 1))
def test_no_more_negatives_than_allowed_are_above_the_threshold(positives, negatives, fpr):
    found = measures.tpr_at(positives, negatives, fpr)
    for threshold in negatives:
        if (negatives > threshold).mean() <= fpr:
            assert found >= (positives > threshold).mean() - 1e-12
    assert any(
        found == (positives > threshold).mean() and (negatives > threshold).mean() <= fpr for threshold in negatives
    )


some = st.lists(st.sampled_from([0.0, 0.5, 1.0, 2.0, 3.0]), min_size=1, max_size=12).map(np.array)


@given(some, some)
def test_the_curve_is_what_every_threshold_gives(positives, negatives):
    false, true = measures.roc(positives, negatives)
    points = {(0.0, 0.0), *(((negatives >= t).mean(), (positives >= t).mean()) for t in [*positives, *negatives])}
    assert set(zip(false.tolist(), true.tolist(), strict=True)) == points
    assert false.tolist() == sorted(false)
    assert true.tolist() == sorted(true)
    area = float(np.trapezoid(true, false))
    assert area == pytest.approx(measures.attack_auc(-positives, -negatives))


def test_scores_are_those_that_the_attack_counts():
    ours, oracles = normal(0, shift=1.0), normal(1)
    positives, negatives = measures.u_lira_scores(ours, oracles)
    assert positives.shape == negatives.shape == ours.shape
    assert measures.attack_of(positives, negatives) == measures.u_lira(ours, oracles)


# ---------------------------------------------------------------------- ToW, gap, relearning

shares = st.floats(0, 1)


@given(shares, shares, shares)
def test_tow_is_one_exactly_at_the_oracle(forget, retain, test):
    assert measures.tow((forget, forget), (retain, retain), (test, test)) == 1.0


@given(shares, shares, shares, shares)
def test_tow_punishes_both_directions_alike(ours, oracle, retain, test):
    there = measures.tow((ours, oracle), (retain, retain), (test, test))
    assert there == measures.tow((oracle, ours), (retain, retain), (test, test))
    assert there == pytest.approx(1 - abs(ours - oracle))


def test_the_gap_has_a_sign():
    shard = trained(rows=60)
    assert measures.forget_loss_gap(shard.model(), shard.model(), shard.rows, shard.task) == 0.0
    fresh = shard.fresh_model()
    assert measures.forget_loss_gap(fresh, shard.model(), shard.rows, shard.task) > 0
    assert measures.forget_loss_gap(shard.model(), fresh, shard.rows, shard.task) < 0


def test_a_model_that_knows_the_rows_learns_them_again_faster():
    shard, rows = trained(rows=120), make_rows(120, seed=0)
    target = evaluation.mean_loss(shard.model(), rows, shard.task)
    recipe = Recipe((1,), batch_size=16, seed=0, lr=0.1)
    knows = measures.relearn_epochs(shard.model(), rows, target, recipe, shard.task, 60)
    other = trained(rows=120, seed=7).model()
    assert knows == 0
    assert measures.relearn_epochs(other, rows, target, recipe, shard.task, 60) > 0
    assert measures.relearn_epochs(shard.fresh_model(), rows, -1.0, recipe, shard.task, 2) == 3, "never reached"


def test_attacks_agree_with_pairs_by_hand():
    random = np.random.default_rng(0)
    members, others = random.integers(0, 5, 9).astype(float), random.integers(0, 5, 7).astype(float)
    pairs = [(a < b) + 0.5 * (a == b) for a in members for b in others]
    assert measures.attack_auc(members, others) == pytest.approx(np.mean(pairs))
