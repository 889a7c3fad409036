"""scikit-learn's own checks of estimators, all of them, with the exceptions that are meant."""

from __future__ import annotations

import pytest
from sklearn.utils.estimator_checks import check_estimators_pickle, parametrize_with_checks

from hybridmu.estimator import HybridClassifier, HybridRegressor

pytestmark = pytest.mark.slow
_MEANT = {
    "check_estimators_pickle": "without a path the rows are in a folder that goes with the estimator: a pickle of it"
    " would be a copy of them that no purge reaches, or name a folder that is gone; with a path, see below",
}


@parametrize_with_checks(
    [HybridClassifier(), HybridRegressor()], expected_failed_checks=lambda _: _MEANT, xfail_strict=True
)
def test_it_is_an_estimator(estimator, check):
    check(estimator)


@pytest.mark.parametrize("memmap", [False, True])
@pytest.mark.parametrize("kind", [HybridClassifier, HybridRegressor])
def test_with_a_path_it_can_be_pickled(kind, memmap, tmp_path):
    check_estimators_pickle(kind.__name__, kind(path=tmp_path / "s"), readonly_memmap=memmap)
