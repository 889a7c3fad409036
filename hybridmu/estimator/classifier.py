"""Classifier for scikit-learn that forgets rows exactly."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from hybridmu.estimator.sample_tables import class_names
from hybridmu.estimator.unlearning_estimator import HybridEstimator
from hybridmu.extras import extra
from hybridmu.system.arguments import Executor

with extra("sklearn"):
    from sklearn.base import ClassifierMixin
    from sklearn.utils.multiclass import check_classification_targets


class HybridClassifier(ClassifierMixin, HybridEstimator):  # type: ignore[misc]
    """A classifier that forgets rows and people, exactly.

    The default is linear discriminant analysis on integer sums: it trains in a moment, and a deletion is a subtraction
    (docs/closed-form.md). `decision_function` is left out: an answer is a mean of probabilities.

    Args:
        task: Name of a task (`lda`, `ridge`, `mlp`, …), or a mapping of its name and options.
        penalty: Option of `lda` and `ridge`: on squares of standardised weights; None: the task's own.
        project: The same: how many random features take the place of the features; None: none.
        path: Folder for the system, which must not exist when `fit` is called; None: a temporary one, which is removed
            with the estimator.
        settings: Other sections of the configuration, such as `{"sisa": {"shards": 4}}`.
        executor: `local` trains in this process, `ray` on a cluster.

    Attributes:
        classes_: The classes, in order [classes].

    Example:
        >>> import numpy as np
        >>> from hybridmu.estimator import HybridClassifier
        >>> X = np.random.default_rng(0).normal(size=(60, 2))
        >>> model = HybridClassifier().fit(X, X[:, 0] > 0)
        >>> model.forget(ids=[3, 17])["state"]
        'PURGED'
        >>> model.predict([[1.0, 0.0], [-1.0, 0.0]]).tolist()
        [True, False]
    """

    _outcome = "label"

    def __init__(
        self,
        task: str | Mapping[str, Any] = "lda",
        *,
        penalty: float | None = None,
        project: int | None = None,
        path: str | Path | None = None,
        settings: Mapping[str, Mapping[str, Any]] | None = None,
        executor: Executor = "local",
    ) -> None:
        self.task = task
        self.penalty = penalty
        self.project = project
        self.path = path
        self.settings = settings
        self.executor = executor

    def predict(self, X: Any) -> npt.NDArray[Any]:
        """Return the most probable class of each row [n].

        Args:
            X: Features, as of `fit`.

        Raises:
            ValueError: They are not like those that were learned.
            DataError: A row can't be answered.
        """
        places = self.predict_proba(X).argmax(axis=1)
        found: npt.NDArray[Any] = self.classes_[places]
        return found

    def predict_proba(self, X: Any) -> npt.NDArray[np.float32]:
        """Return the probabilities of the classes, float32 [n, classes], in the order of `classes_`.

        Args:
            X: Features, as of `fit`.

        Raises:
            ValueError: They are not like those that were learned.
            DataError: A row can't be answered.
        """
        answers = self._answers(X)
        return np.column_stack([column.to_numpy() for column in answers.columns[1:]])

    def _learned(self, y: npt.NDArray[Any]) -> tuple[list[pa.Array], dict[str, Any]]:
        check_classification_targets(y)
        classes, places = np.unique(y, return_inverse=True)
        if len(classes) < 2:
            raise ValueError(f"{type(self).__name__} needs samples of at least 2 classes, and y has one class alone")
        names = class_names(classes)
        self.classes_ = classes
        return [pa.array(names).take(pa.array(places))], {"classes": names}
