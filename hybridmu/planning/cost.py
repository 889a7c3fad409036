"""Cost model: seconds of work with an interval, fitted from measured outcomes; and makespan over workers.

seconds = per_visit · visits + per_checkpoint · checkpoints + per_row · rows read + per_job, all ≥ 0, per strategy:
least squares on *relative* error, outliers weighing less. Few outcomes can't tell the terms apart (every shard's
training has about the same visits and checkpoints), so the fit is drawn a little towards the proportions that small
models have: where the outcomes say nothing else, a job that takes twice what was expected takes twice in every term.

A process's first retrain reads its rows and warms up; it tells nothing of the next one. Such outcomes count only where
there are few others.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass, field
from itertools import chain, combinations

import numpy as np
import numpy.typing as npt

from hybridmu.kinds import FALLBACK
from hybridmu.types import CostObservation

# Before anything was measured: a small model on one core, seconds per visit, checkpoint, row read, and job. Replaced by
# the first outcome; its proportions weigh on the fit like an outcome's relative error times `PULL`.
_PRIOR = np.array([1e-5, 5e-3, 1e-6, 5e-3])
_PRIOR_SPREAD = 1.0
PULL = 0.005
# So many retrains of processes that have their rows make the others' unneeded.
_ENOUGH = 8
# Rounds of fitting, each with weights from the one before. Beyond this relative error an outcome pulls no harder (Huber
# 1964): a worker that something else has stopped for a minute says nothing of the next job.
_ROUNDS = 8
_FAR = 0.3

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Coefficients:
    """One strategy's fit.

    Attributes:
        per_visit: Seconds per sample visit.
        per_checkpoint: Seconds per checkpoint read or written.
        spread: Root mean square of the relative error.
        observations: How many outcomes it rests on.
        per_row: Seconds per row that is read.
        per_job: Seconds that a job takes whatever it does.
    """

    per_visit: float
    per_checkpoint: float
    spread: float = _PRIOR_SPREAD
    observations: int = 0
    per_row: float = 0.0
    per_job: float = 0.0

    def seconds(self, visits: int, checkpoints: int, rows: int = 0) -> float:
        """Return the predicted seconds of one job."""
        return self.per_visit * visits + self.per_checkpoint * checkpoints + self.per_row * rows + self.per_job


_UNMEASURED = Coefficients(float(_PRIOR[0]), float(_PRIOR[1]), per_row=float(_PRIOR[2]), per_job=float(_PRIOR[3]))


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

    def estimate(self, strategy: str, visits: int, checkpoints: int, rows: int = 0) -> Estimate:
        """Predict the seconds of one job on one worker.

        Args:
            strategy: Name; one never measured borrows the retrain's coefficients.
            visits: Sample visits.
            checkpoints: Checkpoints read and written.
            rows: Rows that it reads from storage: all live ones for an update, none for a retrain.

        Returns:
            Seconds with a two-sigma interval of the relative error, never below 0.
        """
        fit = self.fits.get(strategy) or self.fits.get(FALLBACK) or _UNMEASURED
        seconds = fit.seconds(visits, checkpoints, rows)
        return Estimate(seconds, seconds * max(0.0, 1 - 2 * fit.spread), seconds * (1 + 2 * fit.spread))


def fit(observations: Iterable[CostObservation]) -> CostModel:
    """Fit all strategies.

    Args:
        observations: Measured outcomes, in any order.

    Returns:
        A model; strategies without observations, or whose times allow no fit, are left out.
    """
    grouped: dict[str, list[CostObservation]] = {}
    for observation in observations:
        measured = math.isfinite(observation.seconds) and observation.seconds > 0
        if measured and (observation.visits > 0 or observation.checkpoints > 0):
            grouped.setdefault(observation.strategy, []).append(observation)
    fits = {name: _fitted(_usual(group)) for name, group in grouped.items()}
    return CostModel({name: found for name, found in fits.items() if found is not None})


def _usual(group: Sequence[CostObservation]) -> Sequence[CostObservation]:
    """Return jobs of processes that had their rows, where there are enough; the first one of a process is slower."""
    ready = [observation for observation in group if not observation.rows]
    return ready if len(ready) >= _ENOUGH else group


def _fitted(group: Sequence[CostObservation]) -> Coefficients | None:
    """Return the fit of one strategy; None where its times are so far apart that there is none."""
    try:
        with np.errstate(all="ignore"):
            found = _fit_one(group)
    except np.linalg.LinAlgError:
        return None
    return found if all(map(math.isfinite, astuple(found))) else None


def _fit_one(group: Sequence[CostObservation]) -> Coefficients:
    seconds = np.array([o.seconds for o in group])
    work = np.array([[o.visits, o.checkpoints, o.rows, 1] for o in group], dtype=float)
    # The unknowns are multiples of the prior's coefficients, times what these jobs took of what the prior expected.
    unit = _PRIOR * np.median(seconds / (work @ _PRIOR))
    # Errors are relative to what is expected of a job, so that short and long ones weigh alike. Relative to what it
    # took (as in the first round) a slow job would weigh less than a fast one, and every estimate come out too low.
    expected, best = seconds, np.ones(len(_PRIOR))
    for _ in range(_ROUNDS):
        error = np.abs(seconds / expected - 1)
        weight = np.sqrt(_FAR / np.maximum(error, _FAR)) / expected
        best = least_squares(work * unit * weight[:, None], seconds * weight, best > 0)
        expected = work @ (best * unit)
    freedom = len(group) - int(np.count_nonzero(best))
    spread = float(np.sqrt(np.sum((seconds / expected - 1) ** 2) / freedom)) if freedom > 1 else _PRIOR_SPREAD
    visit, checkpoint, row, job = (float(value) for value in best * unit)
    return Coefficients(visit, checkpoint, spread, len(group), row, job)


def least_squares(work: Floats, target: Floats, likely: npt.NDArray[np.bool_]) -> Floats:
    """Return the coefficients, none below 0, that leave the least squares, drawn towards 1 by `PULL`.

    Args:
        work: Outcomes by terms, float64.
        target: What the outcomes took, float64.
        likely: Which coefficients are probably not 0; they are tried first. The result is the same.

    Returns:
        One coefficient per term; 0 for a term that no outcome has.
    """
    pull = np.where(work.any(axis=0), PULL**2, 0.0)
    bend, slope = work.T @ work + np.diag(pull), work.T @ target + pull
    known = np.flatnonzero(pull).tolist()
    first = [column for column in known if likely[column]]
    others = (list(each) for size in range(len(known), 0, -1) for each in combinations(known, size))
    best, best_error = np.zeros(work.shape[1]), np.inf
    for columns in chain([first] if first else [], others):
        solution = np.linalg.solve(bend[np.ix_(columns, columns)], slope[columns])
        error = -float(slope[columns] @ solution)
        if (solution >= 0).all() and error < best_error:
            best, best_error = np.zeros(work.shape[1]), error
            best[columns] = solution
            # The error is convex: where no coefficient that is 0 would lower it by growing, this is the least.
            if (np.delete(bend @ best - slope, columns) >= 0).all():
                break
    return best


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
