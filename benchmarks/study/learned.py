"""Can a learned model tell better than the analytic one where the boundary lies? Pure, numpy alone.

For one update, a *pair* is a shard of a deletion with the measured seconds of the retrain and of the update. The
question is whether the retrain takes longer than κ times the update. On the same number of pairs

* *analytic*: the cost model as it was before the first deletion (its training and a few deletions);
* *refitted*: the same after it has learned from the pairs, where they are of the same system;
* *regressed*: ridge regression of what is left of the logarithm of the ratio, added to the analytic estimate;
* *classified*: logistic regression of the answer itself, the analytic estimate among its features.

Whether to classify or to regress at an equal budget is the question of Target Variable Engineering (arXiv 2310.09440).
Pairs are of the system that is asked (`same`), or of all systems of another shape (`others`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from benchmarks.study.records import Key
from benchmarks.study.regret import RETRAIN, deletions
from benchmarks.study.shards import ShardRecord
from hybridmu.core.learners.workload import count
from hybridmu.planning import cost
from hybridmu.planning.cost import CostModel
from hybridmu.types import CostObservation

BUDGETS = (5, 10, 20, 50, 100)
METHODS = ("analytic", "refitted", "regressed", "classified")
_REPEATS = 2
# Pairs that must be left to test on, the penalty of standardised weights, and Newton steps of the logistic fit.
_LEAST_TESTED, _PENALTY, _STEPS = 8, 1.0, 12

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Pairs:
    """Pairs of one update.

    Attributes:
        systems: What each is of.
        features: float64 [n, 7]: logarithms of both visits, of checkpoints, rows, parameters; ρ; the first slice / R.
        analytic: Logarithm of the estimated ratio of seconds, retrain over update.
        measured: The same, measured.
        seen: System → what its cost model knew before.
        observed: What a cost model learns from the two.
    """

    systems: tuple[Key, ...]
    features: Array
    analytic: Array
    measured: Array
    seen: dict[Key, list[CostObservation]]
    observed: tuple[tuple[CostObservation, CostObservation], ...]


@dataclass(frozen=True)
class Score:
    """How the methods did with a budget of pairs.

    Attributes:
        budget: Pairs that were learned from.
        wrong: Method → share of wrong answers.
        spread: Method → root mean square error of the logarithm of the ratio; `classified` has none.
    """

    budget: int
    wrong: dict[str, float]
    spread: dict[str, float]


def pairs(found: Sequence[ShardRecord], update: str) -> Pairs:
    """Return the pairs of an update."""
    seen: dict[Key, list[CostObservation]] = {}
    for record in found:
        if record.before:
            seen.setdefault(record.system, []).append(record.observation())
    known = {system: cost.fit(observed) for system, observed in seen.items()}
    systems, features, analytic, measured, observed = [], [], [], [], []
    for deletion in deletions(found):
        for shard in deletion.shards.values():
            exact, other = shard[RETRAIN], shard[update]
            work, slices = count(exact.stats()), len(exact.rows)
            logs = (exact.visits, other.visits, 1 + other.checkpoints, sum(exact.rows), exact.parameters)
            both = exact.observation(), other.observation()
            systems.append(deletion.system)
            features.append([*np.log(np.maximum(1, logs)), work.ratio, work.first_touched / slices])
            analytic.append(_ratio(known[deletion.system], both))
            measured.append(float(np.log(exact.seconds / other.seconds)))
            observed.append(both)
    return Pairs(
        tuple(systems),
        np.array(features, dtype=np.float64).reshape(len(systems), 7),
        np.array(analytic),
        np.array(measured),
        seen,
        tuple(observed),
    )


def compare(given: Pairs, kappa: float, *, same: bool) -> list[Score]:
    """Return how the methods do, per budget.

    Args:
        given: Of one update.
        kappa: κ.
        same: Learn from the system that is asked, rather than from the systems of other shapes.

    Returns:
        Means over systems and draws; a budget that no system can spend is left out.
    """
    line, scores = float(np.log(kappa)), []
    for budget in BUDGETS:
        wrong: dict[str, list[float]] = {method: [] for method in METHODS}
        squares: dict[str, list[float]] = {method: [] for method in METHODS[:3]}
        for learn, test in _draws(given, budget, same=same):
            left = _ridge(given.features[learn], given.measured[learn] - given.analytic[learn])
            answers = {
                "analytic": given.analytic[test],
                "refitted": _refitted(given, learn, test) if same else given.analytic[test],
                "regressed": given.analytic[test] + left(given.features[test]),
            }
            for method, answer in answers.items():
                squares[method].append(float(np.mean((answer - given.measured[test]) ** 2)))
            inputs = np.column_stack([given.features, given.analytic])
            over = given.measured > line
            answers = {method: answer - line for method, answer in answers.items()}
            answers["classified"] = _logistic(inputs[learn], over[learn])(inputs[test])
            for method, answer in answers.items():
                wrong[method].append(float(np.mean((answer > 0) != over[test])))
        if wrong["analytic"]:
            means = {method: float(np.mean(each)) for method, each in wrong.items()}
            scores.append(Score(budget, means, {m: float(np.sqrt(np.mean(each))) for m, each in squares.items()}))
    return scores


def _draws(given: Pairs, budget: int, *, same: bool) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]]:
    """Yield (what to learn from, what to test on) for every system, several times, seeded."""
    random = np.random.default_rng(budget)
    for system in dict.fromkeys(given.systems):
        shape = system[:-1]  # the seed apart
        mine = np.array([other == system for other in given.systems])
        apart = np.array([other[:-1] != shape for other in given.systems])
        for _ in range(_REPEATS):
            order = random.permutation(np.flatnonzero(mine if same else apart))
            learn = order[:budget]
            test = order[budget:] if same else np.flatnonzero(mine)
            if len(learn) == budget and len(test) >= _LEAST_TESTED:
                yield learn, test


def _refitted(given: Pairs, learn: npt.NDArray[np.int64], test: npt.NDArray[np.int64]) -> Array:
    observed = [one for at in learn for one in given.observed[at]]
    model = cost.fit([*given.seen[given.systems[learn[0]]], *observed])
    return np.array([_ratio(model, given.observed[at]) for at in test])


def _ratio(model: CostModel, both: tuple[CostObservation, CostObservation]) -> float:
    """Return the logarithm of the estimated ratio; of an update the visits made are taken for those planned."""
    exact, other = (model.estimate(o.strategy, o.visits, o.checkpoints, o.rows).seconds for o in both)
    return float(np.log(exact / other))


class _Linear:
    """A linear function of standardised features."""

    def __init__(self, inputs: Array) -> None:
        self.mean, self.deviation = inputs.mean(axis=0), np.maximum(inputs.std(axis=0), 1e-9)
        self.weights = np.zeros(inputs.shape[1] + 1)

    def design(self, inputs: Array) -> Array:
        """Return the standardised features behind a column of ones."""
        return np.column_stack([np.ones(len(inputs)), (inputs - self.mean) / self.deviation])

    def __call__(self, inputs: Array) -> Array:
        return np.asarray(self.design(inputs) @ self.weights)


def _ridge(inputs: Array, target: Array) -> _Linear:
    made = _Linear(inputs)
    design, penalty = made.design(inputs), _penalty(inputs.shape[1])
    made.weights = np.linalg.solve(design.T @ design + penalty, design.T @ target)
    return made


def _logistic(inputs: Array, over: npt.NDArray[np.bool_]) -> _Linear:
    made = _Linear(inputs)
    design, penalty = made.design(inputs), _penalty(inputs.shape[1])
    for _ in range(_STEPS):
        share = 1 / (1 + np.exp(-np.clip(design @ made.weights, -30, 30)))
        slope = design.T @ (share - over) + penalty @ made.weights
        bend = (design.T * (share * (1 - share))) @ design + penalty
        made.weights = made.weights - np.linalg.solve(bend, slope)
    return made


def _penalty(width: int) -> Array:
    return np.diag([1e-3, *[_PENALTY] * width])
