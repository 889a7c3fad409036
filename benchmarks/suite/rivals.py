"""Models of scikit-learn as people use them without tuning: columns standardised, texts one-hot."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

# Rows × columns × classes beyond which boosting takes an hour and more.
_MOST_FOR_BOOSTING = 10**8
# Rows that a network sees in all: a hundred epochs of small tables, twenty of large ones.
_VISITS = 2_000_000


@dataclass(frozen=True)
class Score:
    """How good one model is.

    Attributes:
        value: Accuracy in per cent; RMSE where numbers are learned.
        seconds: Of its training.
    """

    value: float
    seconds: float


def rivals(train: pa.Table, test: pa.Table, outcome: str, roles: set[str], *, numbers: bool) -> dict[str, Score]:
    """Return name → score of logistic (or ridge) regression, a network and histogram boosting.

    Args:
        train: Training rows.
        test: Test rows.
        outcome: Column that is learned.
        roles: Columns that are no features.
        numbers: Whether numbers are learned.
    """
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.neural_network import MLPClassifier, MLPRegressor
    from sklearn.preprocessing import StandardScaler

    features = [name for name in train.column_names if name not in roles]
    dense = _dense(train, test, features)
    codes, categorical = _codes(train, test, features)
    scaler = StandardScaler().fit(dense[0])
    scaled = scaler.transform(dense[0]), scaler.transform(dense[1])
    epochs = min(100, max(20, _VISITS // len(train)))
    y, y_test = (np.asarray(table[outcome].to_pylist()) for table in (train, test))
    boosting = HistGradientBoostingRegressor if numbers else HistGradientBoostingClassifier
    models: dict[str, tuple[Any, tuple[Any, Any]]] = {
        "linear": (Ridge() if numbers else LogisticRegression(max_iter=1000), scaled),
        "mlp": ((MLPRegressor if numbers else MLPClassifier)(max_iter=epochs, random_state=0), scaled),
    }
    if codes[0].size * (1 if numbers else len(set(y.tolist()))) <= _MOST_FOR_BOOSTING:
        models["boosting"] = (boosting(categorical_features=categorical, random_state=0), codes)
    found = {}
    for name, (model, (x, x_test)) in models.items():
        started = time.perf_counter()
        model.fit(x, y)
        seconds = time.perf_counter() - started
        answers = model.predict(x_test)
        value = np.sqrt(np.mean((answers - y_test) ** 2)) if numbers else 100 * np.mean(answers == y_test)
        found[name] = Score(float(value), seconds)
    return found


Matrix = npt.NDArray[np.float64]


def _dense(train: pa.Table, test: pa.Table, features: list[str]) -> tuple[Matrix, Matrix]:
    """Return all features as numbers, a column per value of a text."""
    parts: tuple[list[Matrix], list[Matrix]] = [], []
    for name in features:
        if _is_text(train, name):
            values = sorted(set(train[name].to_pylist()), key=str)
            for part, table in zip(parts, (train, test), strict=True):
                column = np.array(table[name].to_pylist(), dtype=object)
                part.append(np.stack([column == value for value in values], axis=1).astype(np.float64))
        else:
            for part, table in zip(parts, (train, test), strict=True):
                part.append(_numbers(table, name))
    return np.concatenate(parts[0], axis=1), np.concatenate(parts[1], axis=1)


def _codes(train: pa.Table, test: pa.Table, features: list[str]) -> tuple[tuple[Matrix, Matrix], list[int]]:
    """Return features with texts as numbers of their values, and which columns those are.

    Boosting takes 255 values at most; a column with more is a number to it.
    """
    parts: tuple[list[Matrix], list[Matrix]] = [], []
    categorical, width = [], 0
    for name in features:
        if _is_text(train, name):
            values = sorted(set(train[name].to_pylist()), key=str)
            if len(values) <= 255:
                categorical.append(width)
            codes = {value: code for code, value in enumerate(values)}
            for part, table in zip(parts, (train, test), strict=True):
                column = [codes.get(value, np.nan) for value in table[name].to_pylist()]
                part.append(np.array(column, dtype=np.float64)[:, None])
        else:
            for part, table in zip(parts, (train, test), strict=True):
                part.append(_numbers(table, name))
        width += parts[0][-1].shape[1]
    return (np.concatenate(parts[0], axis=1), np.concatenate(parts[1], axis=1)), categorical


def _is_text(table: pa.Table, name: str) -> bool:
    type_ = table.schema.field(name).type
    return bool(pa.types.is_string(type_) or pa.types.is_large_string(type_))


def _numbers(table: pa.Table, name: str) -> Matrix:
    found = np.asarray(table[name].to_pylist(), dtype=np.float64)
    return found if found.ndim == 2 else found[:, None]
