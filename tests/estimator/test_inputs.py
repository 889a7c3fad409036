"""Inputs of estimators: arrays, lists and frames; classes, ids and groups of any kind; and refusals."""

from __future__ import annotations

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from hybridmu.errors import ConfigError, DataError, RequestError
from hybridmu.estimator import HybridClassifier, HybridRegressor
from hybridmu.estimator.sample_tables import class_names
from tests.estimator.scene import rows

ALL = rows()
NUMBERS = {"height": ALL.X[:, 0], "width": ALL.X[:, 1], "whole": np.arange(len(ALL.X)), "flag": ALL.X[:, 2] > 0}
MIXED = {**NUMBERS, "town": np.where(ALL.y == "low", "Oslo", "Rome"), "kind": ["a", "b", "c"] * 30}
KINDS = {
    "pandas": pd.DataFrame,
    "pandas, categories": lambda c: pd.DataFrame(c).astype({"kind": "category"} if "kind" in c else {}),
    "polars": pl.DataFrame,
    "polars, categories": lambda c: pl.DataFrame(c).cast({"kind": pl.Categorical} if "kind" in c else {}),
    "Arrow": pa.table,
}


@pytest.mark.sampled
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("columns", [NUMBERS, MIXED], ids=["numbers", "mixed"])
def test_frames_are_learned_by_their_columns(columns, kind):
    frame = KINDS[kind](columns)
    model = HybridClassifier().fit(frame, ALL.y)
    assert model.feature_names_in_.tolist() == [*columns]
    assert (model.predict_proba(frame).shape, model.n_features_in_) == ((90, 3), len(columns))
    assert np.array_equal(model.predict_proba(frame), HybridClassifier().fit(*alike(columns)).predict_proba(frame))
    assert model.forget(ids=[3])["state"] == "PURGED"


def alike(columns):
    """The same rows as pandas has them: every kind of frame is learned alike."""
    return pd.DataFrame(columns), ALL.y


def test_arrays_lists_and_frames_of_numbers_are_one():
    found = [
        HybridRegressor().fit(X, ALL.X[:, 0]).predict(X)
        for X in (ALL.X, ALL.X.tolist(), np.asfortranarray(ALL.X), pd.DataFrame(ALL.X), pl.DataFrame(ALL.X))
    ]
    assert all(np.array_equal(found[0], other) for other in found[1:])


def test_columns_with_the_names_of_roles_are_features():
    frame = pd.DataFrame(ALL.X, columns=["id", "label", "group"])
    model = HybridClassifier().fit(frame, ALL.y, ids=ALL.ids, groups=ALL.groups)
    assert (model.system_.settings.data.id, model.system_.settings.data.label) == ("id_", "label_")
    plain = HybridClassifier().fit(ALL.X, ALL.y, ids=ALL.ids, groups=ALL.groups)
    assert np.array_equal(model.predict_proba(frame), plain.predict_proba(ALL.X))


@pytest.mark.parametrize("classes", [[3, 1, 2], [False, True], [2.0, -1.0], ["b", "a"], ["", "x y\n"], [2**60, -5]])
def test_classes_are_given_back_as_they_were(classes):
    y = np.array(classes)[np.digitize(ALL.X[:, 0], [-0.5, 0.5][: len(classes) - 1])]
    model = HybridClassifier().fit(ALL.X, y)
    assert model.classes_.tolist() == sorted(classes)
    assert model.classes_.dtype == model.predict(ALL.X).dtype == y.dtype
    assert model.score(ALL.X, y) > 0.8
    objects = HybridClassifier().fit(ALL.X, y.astype(object)) if y.dtype.kind == "U" else model
    assert objects.predict(ALL.X).tolist() == model.predict(ALL.X).tolist()


def test_classes_are_known_by_their_names():
    assert class_names(np.array(["a", "b"], dtype=object)) == ("a", "b")
    assert class_names(np.array([0.5, 2.0])) == ("0.5", "2.0")
    assert class_names(np.array([1, 2], dtype=np.uint8)) == (1, 2)


@pytest.mark.parametrize("make", [list, np.array, pd.Series, pl.Series, pa.array, tuple])
@pytest.mark.parametrize("values", [list(range(90)), [f"r{n}" for n in range(90)]], ids=["numbers", "texts"])
def test_ids_and_groups_are_taken_of_any_kind(values, make):
    people = [value if place > 3 else values[4] for place, value in enumerate(values)]
    model = HybridClassifier().fit(ALL.X, ALL.y, ids=make(values), groups=make(people))
    report = model.forget(ids=make(values[80:81]), groups=make(people[:1]))
    assert sum(shard["revoked"] for shard in report["shards"]) == 6


def test_rows_without_a_group_are_alone():
    model = HybridClassifier().fit(ALL.X, ALL.y, groups=[None, None] + ["p"] * 88)
    model.forget(ids=[0])
    assert model.forget(ids=[1])["state"] == "PURGED"


def test_what_lacks_is_filled_where_it_is_said_by_what():
    X = ALL.X.copy()
    X[3, 1] = np.nan
    frame = pd.DataFrame(MIXED)
    frame.loc[5, "town"] = None
    for given in (X, frame):
        with pytest.raises(ValueError, match="NaN"):
            HybridClassifier().fit(given, ALL.y)
    numbers = HybridClassifier(settings={"data": {"fills": {"x1": 0}}}).fit(X, ALL.y)
    assert numbers.predict(X).shape == (90,)
    texts = HybridClassifier(settings={"data": {"fills": {"town": "?"}}}).fit(frame, ALL.y)
    assert texts.predict(frame).shape == (90,)
    X[0, 0] = np.inf
    with pytest.raises(ValueError, match="infinity"):
        numbers.fit(X, ALL.y)


def test_a_frame_with_texts_is_checked_as_an_array_is():
    model = HybridClassifier().fit(pd.DataFrame(MIXED), ALL.y)
    with pytest.raises(ValueError, match="feature names"):
        model.predict(pd.DataFrame(MIXED).rename(columns={"town": "city"}))
    with pytest.raises(ValueError, match="infinity"):
        model.predict(pd.DataFrame(MIXED).assign(width=np.inf))
    with pytest.raises(ValueError, match=r"NaN.*fills"):
        model.predict(pd.DataFrame(MIXED).assign(town=None))
    with pytest.raises(DataError, match="column 'width'"):
        model.predict(pd.DataFrame(MIXED).assign(width="wide"))


@pytest.mark.parametrize(
    ("given", "error", "says"),
    [
        ({"ids": [1, 2]}, ValueError, "inconsistent numbers"),
        ({"ids": [1] * 90}, DataError, "duplicate ids"),
        ({"ids": np.arange(90) + 0.5}, DataError, "can't be an id"),
        ({"ids": ["a", *range(89)]}, DataError, "ids can't be read"),
        ({"groups": np.zeros((90, 2))}, DataError, "groups can't be read"),
        ({"y": ["one"] * 90}, ValueError, "2 classes"),
        ({"y": ALL.X[:, 0]}, ValueError, "continuous"),
        ({"X": pd.DataFrame(ALL.X, columns=["a", "a", "b"])}, DataError, "two columns of the frame"),
    ],
)
def test_rows_that_do_not_fit_are_refused(given, error, says):
    with pytest.raises(error, match=says):
        HybridClassifier().fit(**{"X": ALL.X, "y": ALL.y, **given})


@pytest.mark.parametrize(
    ("parameters", "error", "says"),
    [
        ({"task": "lds"}, ConfigError, "unknown task 'lds'"),
        ({"task": {"name": "lda", "penalty": 1.0}, "penalty": 1.0}, ConfigError, "penalty is said twice"),
        ({"task": "mlp", "penalty": 1.0}, ConfigError, "does not take"),
        ({"settings": 3}, ConfigError, "settings is no configuration"),
        ({"settings": {"sisa": 3}}, ConfigError, "settings is no configuration"),
        ({"settings": {"task": {"name": "lda"}}}, ConfigError, "settings has task"),
        ({"settings": {"storage_url": "s"}}, ConfigError, "settings has storage_url"),
        ({"settings": {"sisa": {"shard": 2}}}, ConfigError, "shards"),
        ({"settings": {"data": {"classes": [1]}}}, ConfigError, r"data\.classes is said twice"),
        ({"settings": {"data": {"group": "g"}}}, RequestError, r"data\.group is said twice"),
        ({"executor": "here"}, ConfigError, "unknown executor"),
        ({"path": 3}, RequestError, "path"),
    ],
)
def test_parameters_that_do_not_fit_are_refused(parameters, error, says):
    with pytest.raises(error, match=says):
        HybridClassifier(**parameters).fit(ALL.X, ALL.y)


def test_other_sections_are_passed_on():
    settings = {"data": {"test_fraction": 0.2}, "policy": {"retention_seconds": 3600.0}, "storage_mode": "group"}
    model = HybridClassifier(settings=settings).fit(ALL.X, ALL.y)
    assert model.system_.evaluate()["splits"]["test"]["rows"] > 5
    assert model.forget(ids=[2])["state"] == "SERVED"  # the old version is kept for an hour
