"""Residuals of values in aggregates: predicted against true counted in a grid, their histogram, and an interval's hits.

Counts and quantiles tell of no single row, as a confusion matrix doesn't: the ends of all bins are percentiles, and
what lies beyond is counted in the outermost bin.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

F64 = npt.NDArray[np.float64]
_BINS = 20
_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


@dataclass(frozen=True)
class Grid:
    """Predicted against true.

    Attributes:
        edges: Of the bins of both, rising.
        counts: Rows per (bin of the target, bin of the value).
    """

    edges: list[float]
    counts: list[list[int]]


@dataclass(frozen=True)
class Residuals:
    """Value minus target.

    Attributes:
        edges: Of the histogram's bins, rising, as far below 0 as above.
        counts: Rows per bin.
        quantiles: Share → the residual that so many rows are at or below.
        covered: Share of the rows whose target lies in the interval of the sub-models.
    """

    edges: list[float]
    counts: list[int]
    quantiles: dict[str, float]
    covered: float


def grid(answers: F64, targets: F64, bins: int = _BINS) -> Grid:
    """Return how many rows of each target got each value.

    Args:
        answers: float64 [n, ≥ 1], the value first; n ≥ 1.
        targets: float64 [n].
        bins: How many, of equal width between the 1st and the 99th percentile of the targets.

    Example:
        >>> grid(np.array([[1.0], [1.0], [8.0]]), np.array([0.0, 1.0, 9.0]), 2).counts
        [[2, 0], [0, 1]]
    """
    low, high = np.percentile(targets, [1, 99])
    edges = _spread(float(low), float(high), bins)
    counts = np.zeros((bins, bins), dtype=np.int64)
    np.add.at(counts, (_bin(targets, edges), _bin(answers[:, 0], edges)), 1)
    return Grid(edges.tolist(), counts.tolist())


def residuals(answers: F64, targets: F64, bins: int = _BINS + 1) -> Residuals:
    """Return the histogram and quantiles of residuals, and how often the interval of the sub-models holds the target.

    Args:
        answers: float64 [n, 4], as `Regression.combine` gives them; n ≥ 1.
        targets: float64 [n].
        bins: How many, of equal width up to the 99th percentile of the residuals' sizes.

    Example:
        >>> found = residuals(np.array([[1.0, 1.0, 0.0, 2.0], [5.0, 1.0, 4.0, 5.0]]), np.array([1.5, 3.0]))
        >>> found.covered, found.quantiles["0.5"]
        (0.5, 0.75)
    """
    found = answers[:, 0] - targets
    far = float(np.percentile(np.abs(found), 99))
    edges = _spread(-far, far, bins)
    inside = (answers[:, 2] <= targets) & (targets <= answers[:, 3])
    return Residuals(
        edges=edges.tolist(),
        counts=np.bincount(_bin(found, edges), minlength=bins).tolist(),
        quantiles={str(q): float(np.quantile(found, q)) for q in _QUANTILES},
        covered=float(inside.mean()),
    )


def _spread(low: float, high: float, bins: int) -> F64:
    """Return the edges of bins; around a single value, of some width."""
    wide = max(high - low, 1e-6 * max(abs(low), abs(high)), 1e-12)
    middle = (low + high) / 2
    return np.linspace(middle - wide / 2, middle + wide / 2, bins + 1)


def _bin(values: F64, edges: F64) -> npt.NDArray[np.int64]:
    return np.clip(np.searchsorted(edges, values, side="right") - 1, 0, len(edges) - 2)
