"""Metrics of answers: how right classes are and how far their confidence can be believed, and how near numbers are.

Those of classes are computed in float64 from probabilities [n, classes] and labels int64 [n], those of numbers from
combined answers [n, ≥ 1] with the value first and targets [n]; none depends on the order of rows beyond rounding. What
is undefined (no rows, one class alone, equal targets) is NaN.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]
Kind = Literal["classification", "regression"]
_BINS = 15  # of a calibration curve, as in Guo et al. 2017 (arXiv 1706.04599)
_SHARES = {"accuracy", "balanced_accuracy"}
_LARGE = 1000.0  # from here on decimals tell people nothing
_OF = " of "  # between a metric and one target among several; no metric has it in its name
_LEAST = 1e-15  # probability that a logarithm is taken of at least, or one confident mistake would be infinite


@dataclass(frozen=True)
class Metric:
    """One figure of quality.

    Attributes:
        name: In JSON, the registry and Prometheus labels.
        words: For people.
        higher_is_better: Whether a larger value is the better one.
        value: (probabilities [n, classes], labels [n]) → figure; of numbers, (answers [n, ≥ 1], targets [n]).
        kind: Of the tasks that it is for.
    """

    name: str
    words: str
    higher_is_better: bool
    value: Callable[[F64, Any], float]
    kind: Kind = "classification"


@dataclass(frozen=True)
class CalibrationBin:
    """Answers of similar confidence.

    Attributes:
        confidence: Mean of their largest probability.
        accuracy: Share of them that is right.
        rows: How many they are.
    """

    confidence: float
    accuracy: float
    rows: int


def accuracy(probabilities: F64, labels: I64) -> float:
    """Return the share of rows whose first most probable class is the label.

    Example:
        >>> accuracy(np.array([[0.9, 0.1], [0.6, 0.4]]), np.array([0, 1]))
        0.5
    """
    return float((probabilities.argmax(axis=1) == labels).mean()) if len(labels) else math.nan


def balanced_accuracy(probabilities: F64, labels: I64) -> float:
    """Return the mean, over the classes that rows have, of the share of a class that is recognised.

    Example:
        >>> balanced_accuracy(np.array([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3]]), np.array([0, 0, 1]))
        0.5
    """
    if not len(labels):
        return math.nan
    matrix = confusion(probabilities, labels)
    rows = matrix.sum(axis=1)
    return float((matrix.diagonal()[rows > 0] / rows[rows > 0]).mean())


def log_loss(probabilities: F64, labels: I64) -> float:
    """Return the mean of −log p of the right class, natural logarithm; p is at least 1e-15.

    Example:
        >>> round(log_loss(np.array([[0.5, 0.5]]), np.array([1])), 4)
        0.6931
    """
    if not len(labels):
        return math.nan
    return float(-np.log(np.maximum(probabilities[np.arange(len(labels)), labels], _LEAST)).mean())


def auc(probabilities: F64, labels: I64) -> float:
    """Return the area under the ROC curve: one class against the rest, averaged over classes; of two, the second's.

    Ties count half (Mann–Whitney). Classes without rows, or with all of them, are left out.

    Example:
        >>> auc(np.array([[0.9, 0.1], [0.4, 0.6], [0.2, 0.8]]), np.array([0, 1, 1]))
        1.0
    """
    classes = probabilities.shape[1]
    areas = [_area(probabilities[:, one], labels == one) for one in ([1] if classes == 2 else range(classes))]
    known = [area for area in areas if not math.isnan(area)]
    return float(np.mean(known)) if known else math.nan


def ece(probabilities: F64, labels: I64) -> float:
    """Return the expected calibration error: the mean distance of confidence and accuracy over 15 equal bins.

    Source: Guo et al. 2017 (arXiv 1706.04599), equation 3.

    Example:
        >>> round(ece(np.array([[0.8, 0.2], [0.8, 0.2]]), np.array([0, 1])), 4)
        0.3
    """
    found = calibration_curve(probabilities, labels)
    rows = sum(one.rows for one in found)
    return sum(one.rows * abs(one.accuracy - one.confidence) for one in found) / rows if rows else math.nan


def rmse(answers: F64, targets: F64) -> float:
    """Return the root of the mean squared error, in the unit of the target.

    Example:
        >>> rmse(np.array([[1.0], [5.0]]), np.array([1.0, 2.0]))
        2.1213203435596424
    """
    return float(np.sqrt(np.square(answers[:, 0] - targets).mean())) if len(targets) else math.nan


def mae(answers: F64, targets: F64) -> float:
    """Return the mean absolute error, in the unit of the target.

    Example:
        >>> mae(np.array([[1.0], [5.0]]), np.array([1.0, 2.0]))
        1.5
    """
    return float(np.abs(answers[:, 0] - targets).mean()) if len(targets) else math.nan


def r2(answers: F64, targets: F64) -> float:
    """Return R²: 1 minus the squared errors over those of the rows' own mean; NaN where all targets are equal.

    Example:
        >>> r2(np.array([[1.0], [2.0], [4.0]]), np.array([1.0, 2.0, 3.0]))
        0.5
    """
    spread = float(np.square(targets - targets.mean()).sum()) if len(targets) else 0.0
    return 1.0 - float(np.square(answers[:, 0] - targets).sum()) / spread if spread else math.nan


def calibration_curve(probabilities: F64, labels: I64, bins: int = _BINS) -> list[CalibrationBin]:
    """Return confidence against accuracy in equal bins of the largest probability; empty bins are left out.

    Args:
        probabilities: float64 [n, classes].
        labels: int64 [n].
        bins: How many.

    Example:
        >>> calibration_curve(np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([0, 0]))
        [CalibrationBin(confidence=1.0, accuracy=0.5, rows=2)]
    """
    if not len(labels):
        return []
    confidence = probabilities.max(axis=1)
    right = (probabilities.argmax(axis=1) == labels).astype(np.float64)
    number = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)  # (0, 1/bins] is the first
    rows = np.bincount(number, minlength=bins)
    sums = [np.bincount(number, weights=values, minlength=bins) for values in (confidence, right)]
    return [
        CalibrationBin(float(sums[0][one] / rows[one]), float(sums[1][one] / rows[one]), int(rows[one]))
        for one in np.flatnonzero(rows)
    ]


def confusion(probabilities: F64, labels: I64) -> I64:
    """Return how often each class was answered for each label, int64 [label, answer].

    Example:
        >>> confusion(np.array([[0.9, 0.1], [0.6, 0.4]]), np.array([0, 1])).tolist()
        [[1, 0], [1, 0]]
    """
    classes = probabilities.shape[1]
    pairs = labels * classes + probabilities.argmax(axis=1)
    return np.bincount(pairs, minlength=classes * classes).astype(np.int64).reshape(classes, classes)


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("accuracy", "accuracy", True, accuracy),
        Metric("balanced_accuracy", "balanced accuracy", True, balanced_accuracy),
        Metric("log_loss", "log loss", False, log_loss),
        Metric("auc", "AUC", True, auc),
        Metric("ece", "calibration error", False, ece),
        Metric("r2", "R²", True, r2, "regression"),
        Metric("rmse", "RMSE", False, rmse, "regression"),
        Metric("mae", "MAE", False, mae, "regression"),
    )
}


# What is shown where there is room for two figures, the first of them where there is room for one.
SHOWN = (("accuracy", "log_loss"), ("r2", "rmse"))


def shown(known: Collection[str]) -> tuple[str, ...]:
    """Return the names of the two metrics that are shown of these.

    Args:
        known: Names of the metrics that there are figures of; of one kind.

    Example:
        >>> shown(["r2", "rmse", "mae"])
        ('r2', 'rmse')
    """
    return next((names for names in SHOWN if names[0] in known), SHOWN[0])


def figure(metric: str, value: float | None) -> str:
    """Return a metric's figure: shares in percent, others with three decimals, or none where they are large.

    Example:
        >>> figure("accuracy", 0.931), figure("log_loss", 0.2314), figure("auc", None), figure("rmse", 70123.4)
        ('93.1 %', '0.231', 'undefined', '70,123')
    """
    if value is None:
        return "undefined"
    if metric in _SHARES:
        return f"{100 * value:.1f} %"
    return f"{value:.3f}" if abs(value) < _LARGE else f"{value:,.0f}"


def name_of(metric: str, target: str) -> str:
    """Return the name of a metric of one target among several.

    Example:
        >>> name_of("r2", "price")
        'r2 of price'
    """
    return f"{metric}{_OF}{target}"


def targets_of(known: Collection[str]) -> list[str]:
    """Return the targets that there are figures of by name: those of several.

    Args:
        known: Names of metrics, as in what `figures` returns.

    Example:
        >>> targets_of(["r2", "rmse", "r2 of price", "rmse of price", "r2 of rent"])
        ['price', 'rent']
    """
    return list(dict.fromkeys(target for _, of, target in (name.partition(_OF) for name in known) if of))


def of_each(answers: F64, outcomes: Any, targets: Sequence[str]) -> dict[str, tuple[F64, Any]]:
    """Return target → answers and outcomes of it alone, where there are several.

    Args:
        answers: float [n, as many of each target in turn].
        outcomes: float [n, targets].
        targets: Their names.
    """
    parts = np.split(answers, len(targets), axis=1)
    return {name: (part, outcomes[:, at]) for at, (name, part) in enumerate(zip(targets, parts, strict=True))}


def figures(
    answers: F64, outcomes: Any, kind: str = "classification", targets: Sequence[str] = ()
) -> dict[str, float | None]:
    """Return metric → figure; None where it is undefined.

    Args:
        answers: float [n, ≥ 1]; of classes probabilities, whose rows sum to 1; of several targets, as of `of_each`.
        outcomes: Labels, int64 [n], or targets, float [n]; of several, float [n, targets].
        kind: Of the task.
        targets: Names of the targets. Of several, a metric is the mean of theirs, None where one is; and each target
            has its own, under `name_of`.

    Example:
        >>> answers = np.array([[1.0, 5.0], [2.0, 5.0]])
        >>> found = figures(answers, np.array([[1.0, 4.0], [2.0, 8.0]]), "regression", ["a", "b"])
        >>> found["mae"], found["mae of a"], found["mae of b"]
        (1.0, 0.0, 2.0)
    """
    if len(targets) > 1:
        parts = of_each(np.asarray(answers), outcomes, targets)
        each = {name: figures(*part, kind) for name, part in parts.items()}
        return {
            **{metric: _mean([one[metric] for one in each.values()]) for metric in next(iter(each.values()))},
            **{name_of(metric, name): value for name, one in each.items() for metric, value in one.items()},
        }
    wide = np.asarray(answers, dtype=np.float64)
    right = outcomes if kind == "classification" else np.asarray(outcomes, dtype=np.float64)
    found = {name: metric.value(wide, right) for name, metric in METRICS.items() if metric.kind == kind}
    return {name: value if math.isfinite(value) else None for name, value in found.items()}


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if len(known) == len(values) else None


def _area(scores: F64, mine: npt.NDArray[np.bool_]) -> float:
    positives, negatives = scores[mine], np.sort(scores[~mine])
    if not len(positives) or not len(negatives):
        return math.nan
    below = np.searchsorted(negatives, positives, side="left") + np.searchsorted(negatives, positives, side="right")
    return float(below.mean() / (2 * len(negatives)))
