"""Metrics of answers agree with scikit-learn's, and with their definitions at the edges."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as theirs

from hybridmu.core.metrics import METRICS, auc, calibration_curve, confusion, ece, figure, figures, shown


@st.composite
def answers(draw):
    """Return probabilities, with ties among them, and labels."""
    rows, classes = draw(st.integers(1, 40)), draw(st.integers(2, 5))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    raw = rng.integers(1, draw(st.sampled_from([3, 1000])), (rows, classes)).astype(np.float64)
    return raw / raw.sum(axis=1, keepdims=True), rng.integers(0, classes, rows)


@given(answers())
@settings(max_examples=200, deadline=None)
def test_figures_are_those_of_scikit_learn(given_):
    probabilities, labels = given_
    classes = probabilities.shape[1]
    found = figures(probabilities, labels)
    said = probabilities.argmax(axis=1)
    assert found["accuracy"] == pytest.approx(theirs.accuracy_score(labels, said))
    recalls = theirs.recall_score(labels, said, labels=np.unique(labels), average=None, zero_division=0)
    assert found["balanced_accuracy"] == pytest.approx(recalls.mean())
    assert found["log_loss"] == pytest.approx(theirs.log_loss(labels, probabilities, labels=range(classes)))
    matrix = theirs.confusion_matrix(labels, said, labels=range(classes))
    assert confusion(probabilities, labels).tolist() == matrix.tolist()
    areas = [
        theirs.roc_auc_score(labels == one, probabilities[:, one])
        for one in ([1] if classes == 2 else range(classes))
        if 0 < (labels == one).sum() < len(labels)
    ]
    assert found["auc"] == (pytest.approx(np.mean(areas)) if areas else None)


@given(answers())
@settings(max_examples=100, deadline=None)
def test_the_calibration_curve_holds_every_row_once_and_gives_the_error(given_):
    probabilities, labels = given_
    curve = calibration_curve(probabilities, labels)
    rows = np.array([one.rows for one in curve])
    assert rows.sum() == len(labels)
    assert sum(one.accuracy * one.rows for one in curve) == pytest.approx((probabilities.argmax(1) == labels).sum())
    assert sum(one.confidence * one.rows for one in curve) == pytest.approx(probabilities.max(1).sum())
    by_hand = sum(abs(one.accuracy - one.confidence) * one.rows for one in curve) / len(labels)
    assert ece(probabilities, labels) == pytest.approx(by_hand)


@given(answers(), st.randoms(use_true_random=False))
@settings(max_examples=50, deadline=None)
def test_the_order_of_rows_does_not_matter(given_, random):
    probabilities, labels = given_
    order = list(range(len(labels)))
    random.shuffle(order)
    there, here = figures(probabilities[order], labels[order]), figures(probabilities, labels)
    assert there == {name: None if one is None else pytest.approx(one) for name, one in here.items()}


def test_without_rows_everything_is_undefined():
    nothing = figures(np.empty((0, 3)), np.empty(0, dtype=np.int64))
    assert nothing == dict.fromkeys(name for name, one in METRICS.items() if one.kind == "classification")
    assert calibration_curve(np.empty((0, 3)), np.empty(0, dtype=np.int64)) == []


def test_one_class_alone_has_no_ranking():
    assert figures(np.array([[0.3, 0.7], [0.6, 0.4]]), np.array([1, 1]))["auc"] is None


def test_a_sure_mistake_has_a_finite_loss():
    found = figures(np.array([[1.0, 0.0]]), np.array([1]))
    assert found["log_loss"] == pytest.approx(-np.log(1e-15))
    assert found["accuracy"] == 0.0


def test_a_perfect_ranking_and_its_opposite():
    scores = np.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7]])
    assert auc(scores, np.array([0, 0, 1])) == 1.0
    assert auc(scores, np.array([1, 1, 0])) == 0.0


@given(st.integers(1, 40), st.integers(0, 2**32), st.sampled_from([1e-3, 1.0, 1e6]))
@settings(max_examples=150, deadline=None)
def test_figures_of_numbers_are_those_of_scikit_learn(rows, seed, scale):
    random = np.random.default_rng(seed)
    targets = scale * random.normal(size=rows).astype(np.float32)
    values = targets + scale * random.normal(size=rows).astype(np.float32)
    found = figures(np.stack([values, np.ones(rows)], axis=1), targets, "regression")
    wide = targets.astype(np.float64), values.astype(np.float64)
    assert found["rmse"] == pytest.approx(theirs.root_mean_squared_error(*wide))
    assert found["mae"] == pytest.approx(theirs.mean_absolute_error(*wide))
    if rows > 1:
        assert found["r2"] == pytest.approx(theirs.r2_score(*wide))
    assert found.keys() == {name for name, one in METRICS.items() if one.kind == "regression"}


def test_what_is_undefined_of_numbers_is_none():
    assert figures(np.empty((0, 4)), np.empty(0), "regression") == {"r2": None, "rmse": None, "mae": None}
    same = figures(np.ones((3, 4)), np.full(3, 7.0), "regression")
    assert (same["r2"], same["rmse"]) == (None, 6.0)


def test_two_metrics_are_shown_and_figures_are_said_for_people():
    assert shown(figures(np.ones((3, 4)), np.arange(3), "regression")) == ("r2", "rmse")
    assert shown(()) == ("accuracy", "log_loss")
    assert [figure("rmse", value) for value in (0.12345, 999.0, 123456.7, None)] == [
        "0.123", "999.000", "123,457", "undefined"
    ]  # fmt: skip
