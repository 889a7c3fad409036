"""Forgetting by an estimator: its answers are those of one that never saw the rows, bit for bit."""

from __future__ import annotations

import numpy as np
import pyarrow.parquet as pq
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

from hybridmu.errors import DataError, RequestError, StateError, UnknownKeysError, WouldEmptyError
from hybridmu.estimator import HybridClassifier, HybridRegressor
from tests.estimator.scene import MODELS, answers, rows


@pytest.mark.sampled
@pytest.mark.parametrize("name", MODELS)
def test_ids_and_groups_are_forgotten_as_if_they_had_never_been(name):
    model = MODELS[name]
    all_ = rows(numbers=isinstance(model, HybridRegressor))
    found = all_.fitted(clone(model))
    before = answers(found, all_.X)
    for asked in ({"ids": all_.ids[[3, 30]]}, {"groups": ["p4"]}, {"ids": [70], "groups": ["p7"]}):
        report = found.forget(**asked)
        assert (report["state"], report["owes_exact_repair"]) == ("PURGED", [])
    kept = ~np.isin(all_.ids, [*all_.ids[[3, 30]], 70]) & ~np.isin(all_.groups, ["p4", "p7"])
    assert kept.sum() < len(kept) - 5
    never = all_.where(kept).fitted(clone(model))
    assert np.array_equal(answers(found, all_.X), answers(never, all_.X))
    assert not np.array_equal(answers(found, all_.X), before)
    if name in {"lda, two shards", "network of classes"}:  # in a fresh process each, which takes its time
        assert found.system_.verify()["bitwise_equal"] is True


@pytest.mark.parametrize("model", [HybridRegressor(), HybridRegressor({"name": "ridge", "penalty": "auto"})])
def test_several_numbers_are_forgotten_at_once(model):
    all_ = rows(numbers=True)
    y = np.column_stack([all_.y, 100 * all_.X[:, 0], (all_.y > 0).astype(np.int64)])
    y[:9, 1] = 200.0
    found = clone(model).fit(all_.X, y, ids=all_.ids, groups=all_.groups)
    before = found.predict(all_.X)
    assert (before.shape, before.dtype) == (y.shape, np.float64)
    for number in range(3):
        alone = clone(model).fit(all_.X, y[:, number], ids=all_.ids, groups=all_.groups)
        np.testing.assert_allclose(before[:, number], alone.predict(all_.X), rtol=1e-5, atol=1e-5)
    assert found.forget(ids=all_.ids[[3, 30]], groups=["p4"])["state"] == "PURGED"
    kept = ~np.isin(all_.ids, all_.ids[[3, 30]]) & (all_.groups != "p4")
    never = clone(model).fit(all_.X[kept], y[kept], ids=all_.ids[kept], groups=all_.groups[kept])
    assert np.array_equal(found.predict(all_.X), never.predict(all_.X))
    assert not np.array_equal(found.predict(all_.X), before)
    assert found.score(all_.X, y) > 0.8


def test_one_column_of_numbers_is_answered_as_it_was_given():
    all_ = rows(numbers=True)
    flat = HybridRegressor().fit(all_.X, all_.y).predict(all_.X)
    column = HybridRegressor().fit(all_.X, all_.y[:, None]).predict(all_.X)
    assert np.array_equal(column, flat[:, None])


def test_a_network_learns_one_number():
    all_ = rows(numbers=True)
    with pytest.raises(ValueError, match="1d array"):
        HybridRegressor("mlp").fit(all_.X, np.column_stack([all_.y, all_.y]))


@pytest.mark.parametrize("kind", [HybridClassifier, HybridRegressor])
def test_a_row_that_alone_is_large_too_where_scales_are_declared(kind):
    all_ = rows(numbers=kind is HybridRegressor)
    all_.X[40] *= 1000
    task = {"target_scale": 1 / 8} if kind is HybridRegressor else {}
    said = {"data": {"scale": {"x0": 1 / 4096, "x1": 1 / 131072, "x2": 1 / 1024}}}
    model = kind({"name": kind().task, **task}, settings=said)
    found = all_.fitted(clone(model))
    found.forget(ids=all_.ids[[40]])
    never = all_.where(np.arange(len(all_.X)) != 40).fitted(clone(model))
    assert np.array_equal(answers(found, all_.X), answers(never, all_.X))


def test_the_order_of_rows_and_of_requests_says_nothing():
    all_ = rows()
    first, other = all_.fitted(HybridClassifier()), all_.where(np.arange(len(all_.X))[::-1]).fitted(HybridClassifier())
    for place in (4, 50):
        first.forget(ids=all_.ids[[place]])
    other.forget(ids=all_.ids[[50, 4]])
    assert np.array_equal(first.predict_proba(all_.X), other.predict_proba(all_.X))


def test_rows_without_ids_are_known_by_their_numbers():
    all_ = rows()
    model = HybridClassifier().fit(all_.X, all_.y)
    model.forget(ids=[0, 89])
    never = HybridClassifier().fit(all_.X[1:-1], all_.y[1:-1], ids=range(1, 89))
    assert np.array_equal(model.predict_proba(all_.X), never.predict_proba(all_.X))
    with pytest.raises(DataError, match="no groups"):
        model.forget(groups=["p1"])


def test_a_class_that_is_forgotten_keeps_its_column_and_is_not_answered():
    all_ = rows()
    model = all_.fitted(HybridClassifier())
    model.forget(ids=all_.ids[all_.y == "middle"])
    assert model.classes_.tolist() == ["high", "low", "middle"]
    assert model.predict_proba(all_.X)[:, 2].tolist() == [0.0] * len(all_.X)


def test_without_waiting_it_is_only_accepted_and_the_next_one_takes_it_along():
    all_ = rows()
    model = all_.fitted(HybridClassifier())
    before = model.predict_proba(all_.X)
    first = model.forget(ids=[0], wait=False)
    assert first["state"] == "RECEIVED"
    assert np.array_equal(model.predict_proba(all_.X), before)
    with pytest.raises(StateError, match="no certificate"):
        model.certificate(first)
    model.forget(ids=[7])
    assert {each["state"] for each in model.system_.requests()} == {"PURGED"}
    never = all_.where(np.arange(len(all_.X)) > 1).fitted(HybridClassifier())
    assert np.array_equal(model.predict_proba(all_.X), never.predict_proba(all_.X))


def test_a_certificate_is_had_by_report_or_id():
    model = rows().fitted(HybridClassifier())
    report = model.forget(groups=["p3"])
    certificate = model.certificate(report)
    assert certificate["request"]["id"] == report["request_id"]
    assert certificate["signature"]
    assert model.certificate(report["request_id"]) == certificate


def test_nothing_of_the_person_is_left_in_the_files(tmp_path):
    all_ = rows()
    people = [f"person-{group}-of-this-very-table" for group in all_.groups]
    asked = people[0]
    model = HybridClassifier(path=tmp_path / "s").fit(all_.X, all_.y, groups=people)

    def holding() -> list[str]:
        read = {path.name: pq.read_table(path) for path in tmp_path.rglob("*.parquet")}
        tables = [name for name, table in read.items() if any(asked in each.to_pylist() for each in table.columns)]
        files = [path for path in tmp_path.rglob("*") if path.is_file()]
        return tables + [path.name for path in files if asked.encode() in path.read_bytes()]

    assert holding()
    model.forget(groups=[asked])
    assert holding() == []


@pytest.mark.parametrize(
    ("asked", "error"),
    [
        ({}, RequestError),
        ({"ids": [1]}, UnknownKeysError),
        ({"ids": "7"}, RequestError),
        ({"ids": np.arange(0, 630, 7)}, WouldEmptyError),
    ],
)
def test_what_is_refused_changes_nothing(asked, error):
    all_ = rows()
    model = all_.fitted(HybridClassifier())
    before = model.predict_proba(all_.X)
    with pytest.raises(error):
        model.forget(**asked)
    assert np.array_equal(model.predict_proba(all_.X), before)
    assert model.forget(ids=[7])["state"] == "PURGED"


@pytest.mark.parametrize("ask", [lambda m: m.forget(ids=[1]), lambda m: m.certificate("r-1"), lambda m: m.system_])
def test_before_it_is_fitted_there_is_nothing_to_forget(ask):
    with pytest.raises(NotFittedError):
        ask(HybridClassifier())
