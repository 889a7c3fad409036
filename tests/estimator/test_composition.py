"""Estimators inside scikit-learn's pipelines, cross-validation and searches."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import set_config
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, GroupKFold, cross_val_score, cross_validate
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from hybridmu.estimator import HybridClassifier, HybridRegressor
from tests.estimator.scene import rows

pytestmark = pytest.mark.slow
ALL = rows()


@pytest.mark.parametrize("model", [HybridClassifier(), HybridRegressor()])
def test_cross_validation(model):
    all_ = rows(numbers=isinstance(model, HybridRegressor))
    found = cross_val_score(model, all_.X, all_.y, groups=all_.groups, cv=GroupKFold(3))
    assert found.shape == (3,)
    assert found.min() > 0.7


def test_ids_and_groups_follow_the_rows_into_the_folds():
    model = make_pipeline(FunctionTransformer(np.tanh), HybridClassifier())
    params = {"hybridclassifier__ids": ALL.ids, "hybridclassifier__groups": ALL.groups}
    found = cross_validate(model, ALL.X, ALL.y, cv=3, params=params, return_estimator=True, return_indices=True)
    for fitted, learned in zip(found["estimator"], found["indices"]["train"], strict=True):
        assert fitted[-1].forget(ids=ALL.ids[learned[:1]])["state"] == "PURGED"


def test_a_pipeline_forgets_by_its_last_step():
    model = make_pipeline(StandardScaler(), HybridRegressor())
    numbers = rows(numbers=True)
    model.fit(numbers.X, numbers.y, hybridregressor__ids=numbers.ids)
    before = model.predict(numbers.X)
    model[-1].forget(ids=numbers.ids[20:30])
    scaled = model[0].transform(numbers.X)
    kept = np.delete(np.arange(len(scaled)), range(20, 30))
    never = HybridRegressor().fit(scaled[kept], numbers.y[kept], ids=numbers.ids[kept])
    assert np.array_equal(model.predict(numbers.X), never.predict(scaled))
    assert not np.array_equal(model.predict(numbers.X), before)


def test_a_search_over_parameters_of_numpys_types():
    grid = {"penalty": np.array([1e-3, 1e3]), "project": np.array([0, 8])}
    found = GridSearchCV(HybridClassifier(), grid, cv=2).fit(ALL.X, ALL.y, ids=ALL.ids)
    assert found.best_params_["penalty"] == 1e-3
    assert found.best_estimator_.forget(ids=[7])["state"] == "PURGED"
    tasks = [{"name": "lda", "penalty": np.float64(1e-3)}, "ridge"]
    assert GridSearchCV(HybridClassifier(), {"task": tasks}, cv=2).fit(ALL.X, ALL.y).best_score_ > 0.7


def test_metadata_are_routed_where_they_are_asked_for():
    set_config(enable_metadata_routing=True)
    try:
        model = make_pipeline(HybridClassifier().set_fit_request(ids=True, groups=True))
        model.fit(ALL.X, ALL.y, ids=ALL.ids, groups=ALL.groups)
    finally:
        set_config(enable_metadata_routing=False)
    assert model[-1].forget(groups=["p2"])["state"] == "PURGED"


def test_a_clone_has_the_parameters_and_no_system():
    settings = {"sisa": {"shards": 2}}
    model = HybridClassifier("ridge", penalty=0.5, project=4, settings=settings).fit(ALL.X, ALL.y)
    copied = clone(model)
    assert copied.get_params() == model.get_params()
    assert not hasattr(copied, "system_")
