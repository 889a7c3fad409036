"""Visits to seconds, with an interval, fitted from measured outcomes; and makespan over workers.

seconds = per_visit · visits + per_checkpoint · checkpoints, both ≥ 0, least squares on *relative* error, per strategy.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from hybridmu.types import CostObservation

# Before anything was measured: a small model on one core. Replaced by the first outcome.
_PRIOR_PER_VISIT = 1e-5
_PRIOR_PER_CHECKPOINT = 5e-3
_PRIOR_SPREAD = 1.0


@dataclass(frozen=True)
class Coefficients:
    """One strategy's fit.

    Attributes:
        per_visit: Seconds per sample visit.
        per_checkpoint: Seconds per checkpoint read or written.
        spread: Root mean square of the relative error.
        observations: How many outcomes it rests on.
    """

    per_visit: float = _PRIOR_PER_VISIT
    per_checkpoint: float = _PRIOR_PER_CHECKPOINT
    spread: float = _PRIOR_SPREAD
    observations: int = 0


@dataclass(frozen=True)
class Estimate:
    """Predicted seconds with a two-sigma interval."""

    seconds: float
    low: float
    high: float


@dataclass(frozen=True)
class CostModel:
    """Fitted coefficients by strategy name."""

    fits: dict[str, Coefficients] = field(default_factory=dict)

    def estimate(self, strategy: str, visits: int, checkpoints: int) -> Estimate:
        """Predict the seconds of one job on one worker.

        Args:
            strategy: Name; one never measured borrows the retrain's coefficients.
            visits: Sample visits.
            checkpoints: Checkpoints read and written.

        Returns:
            Seconds with a two-sigma interval of the relative error, never below 0.
        """
        fit = self.fits.get(strategy) or self.fits.get("retrain") or Coefficients()
        seconds = fit.per_visit * visits + fit.per_checkpoint * checkpoints
        return Estimate(seconds, seconds * max(0.0, 1 - 2 * fit.spread), seconds * (1 + 2 * fit.spread))


def fit(observations: Iterable[CostObservation]) -> CostModel:
    """Fit all strategies.

    Args:
        observations: Measured outcomes, in any order.

    Returns:
        A model; strategies without observations are left out.
    """
    grouped: dict[str, list[CostObservation]] = {}
    for observation in observations:
        if observation.seconds > 0 and (observation.visits or observation.checkpoints):
            grouped.setdefault(observation.strategy, []).append(observation)
    return CostModel({name: _fit_one(group) for name, group in grouped.items()})


def _fit_one(group: Sequence[CostObservation]) -> Coefficients:
    seconds = np.array([o.seconds for o in group])
    # Dividing each row by its seconds makes the squared error relative: short and long jobs weigh alike.
    scaled = np.array([[o.visits, o.checkpoints] for o in group], dtype=float) / seconds[:, None]
    ones = np.ones(len(group))
    best = np.zeros(2)
    best_error = np.inf
    for columns in ([0, 1], [0], [1]):
        part = scaled[:, columns]
        if not part.any():
            continue
        solution = np.linalg.lstsq(part, ones, rcond=None)[0]
        error = float(np.sum((part @ solution - ones) ** 2))
        if (solution >= 0).all() and error < best_error:
            best, best_error = np.zeros(2), error
            best[columns] = solution
    spread = float(np.sqrt(best_error / len(group))) if len(group) > 2 else _PRIOR_SPREAD
    return Coefficients(float(best[0]), float(best[1]), spread, len(group))


def schedule(seconds: Sequence[float], workers: int) -> list[float]:
    """Return when each job ends under longest-first list scheduling.

    Args:
        seconds: Duration of each job.
        workers: Identical workers, at least 1.

    Returns:
        End times in the order of `seconds`; their maximum is the makespan.

    Example:
        >>> schedule([1.0, 3.0, 2.0], workers=2)
        [3.0, 3.0, 2.0]
    """
    free = [0.0] * max(1, workers)
    ends = [0.0] * len(seconds)
    for index in sorted(range(len(seconds)), key=lambda i: (-seconds[i], i)):
        ends[index] = heapq.heappop(free) + seconds[index]
        heapq.heappush(free, ends[index])
    return ends
