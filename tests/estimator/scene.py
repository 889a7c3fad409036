"""Small real tables for the estimators, and what an estimator says of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from hybridmu.estimator import HybridClassifier, HybridRegressor

ROWS = 90
NETWORK = {"name": "mlp", "hidden": [6]}
SHORT = {"sisa": {"shards": 2, "slices": 2, "epochs": 3, "batch_size": 8}}


@dataclass(frozen=True)
class Rows:
    """A learnable table in the hands of a user of scikit-learn."""

    X: npt.NDArray[np.float64]
    y: npt.NDArray[Any]
    ids: npt.NDArray[Any]
    groups: npt.NDArray[Any]

    def where(self, kept: npt.NDArray[np.bool_]) -> Rows:
        return Rows(self.X[kept], self.y[kept], self.ids[kept], self.groups[kept])

    def fitted(self, model: Any) -> Any:
        return model.fit(self.X, self.y, ids=self.ids, groups=self.groups)


def rows(*, numbers: bool = False, count: int = ROWS) -> Rows:
    """Return a table of three classes, or of numbers; no single row says how large the numbers of a column are."""
    random = np.random.default_rng(5)
    X = random.normal(size=(count, 3)).clip(-2, 2) * [1.0, 30.0, 0.2]
    X[:9] = [2.0, 60.0, 0.4]
    y = X[:, 0] - 5 * X[:, 2] + 0.3 * random.normal(size=count)
    y[:9] = 3.0
    groups = np.array([f"p{n}" for n in random.integers(0, 20, count)])
    named = np.array(["low", "middle", "high"])[np.digitize(y, [-0.5, 0.5])]
    return Rows(X, y.clip(-3, 3) if numbers else named, np.arange(count) * 7, groups)


def answers(model: Any, X: Any) -> npt.NDArray[Any]:
    """Return all that an estimator says of rows."""
    return model.predict_proba(X) if isinstance(model, HybridClassifier) else model.predict(X)


MODELS: dict[str, Any] = {
    "lda": HybridClassifier(),
    "lda, random features": HybridClassifier(project=16),
    "lda, two shards": HybridClassifier(settings={"sisa": {"shards": 2}}),
    "ridge of classes": HybridClassifier("ridge"),
    "ridge": HybridRegressor(),
    "network of classes": HybridClassifier(NETWORK, settings=SHORT),
    "network of numbers": HybridRegressor(NETWORK, settings=SHORT),
}
