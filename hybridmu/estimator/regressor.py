"""Regressor for scikit-learn that forgets rows exactly."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from hybridmu.estimator.unlearning_estimator import HybridEstimator
from hybridmu.extras import extra
from hybridmu.kinds import SEVERAL_TARGETS
from hybridmu.serving.table_answers import VALUE
from hybridmu.system.arguments import Executor

with extra("sklearn"):
    from sklearn.base import RegressorMixin


class HybridRegressor(RegressorMixin, HybridEstimator):  # type: ignore[misc]
    """A regressor that forgets rows and people, exactly.

    The default is ridge regression on integer sums: it trains in a moment, and a deletion is a subtraction
    (docs/closed-form.md). It learns several numbers at once too, where y has a column of each.

    Args:
        task: Name of a task (`ridge`, `mlp`, …), or a mapping of its name and options.
        penalty: Option of `ridge`: on squares of standardised weights; None: the task's own.
        project: The same: how many random features take the place of the features; None: none.
        path: Folder for the system, which must not exist when `fit` is called; None: a temporary one, which is removed
            with the estimator.
        settings: Other sections of the configuration, such as `{"sisa": {"shards": 4}}`.
        executor: `local` trains in this process, `ray` on a cluster.

    Example:
        >>> import numpy as np
        >>> from hybridmu.estimator import HybridRegressor
        >>> X = np.random.default_rng(0).normal(size=(60, 2))
        >>> model = HybridRegressor().fit(X, 3 * X[:, 0], groups=[f"p{n % 20}" for n in range(60)])
        >>> model.forget(groups=["p7"])["state"]
        'PURGED'
        >>> model.predict([[1.0, 0.0]]).round(1).tolist()
        [3.0]
    """

    _outcome = "target"

    def __init__(
        self,
        task: str | Mapping[str, Any] = "ridge",
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

    def predict(self, X: Any) -> npt.NDArray[np.float64]:
        """Return a number for each row, float64 [n]; the system answers with float32.

        Where y was [n, k], so is what is returned.

        Args:
            X: Features, as of `fit`.

        Raises:
            ValueError: They are not like those that were learned.
            DataError: A row can't be answered.
        """
        answers = self._answers(X)
        values = [name for name in answers.column_names if name == VALUE or name.startswith(f"{VALUE}_")]
        found = np.column_stack([answers[name].to_numpy() for name in values]).astype(np.float64)
        return found[:, 0] if self._flat else found

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        name = self.task.get("name") if isinstance(self.task, Mapping) else self.task
        tags.target_tags.multi_output = name in SEVERAL_TARGETS
        return tags

    def _learned(self, y: npt.NDArray[Any]) -> tuple[list[pa.Array], dict[str, Any]]:
        if not isinstance(y, np.ndarray):
            raise ValueError("y is sparse, and targets are numbers of all rows: use y.toarray()")
        self._flat = y.ndim == 1
        return [pa.array(column) for column in y.reshape(len(y), -1).astype(np.float64).T], {}
