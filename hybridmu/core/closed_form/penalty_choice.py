"""Choice of a penalty by generalised cross-validation, as a function of integer sums alone.

A penalty that is chosen on rows which are deleted later would remember them. Generalised cross-validation (Golub, Heath
& Wahba 1979) needs no row: with n rows, the residual sum of squares RSS and the degrees of freedom d = tr G(G + Λ)⁻¹ of
a ridge regression follow from its sums, and the score is RSS / (n − d)². Classes are scored as one-hot targets.

The choice is defined exactly: the largest penalty of `GRID` whose score is at most 1 + 2^-10 times the least one. Here
each score is an interval that is known to hold it. Where intervals leave the choice open they are made narrower by
exact arithmetic, so that no rounding, processor or library decides.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import torch
from torch import Tensor

from hybridmu.core.closed_form.exact_solver import Approximation, approximations, scaled
from hybridmu.core.closed_form.ridge import System, ridge_system
from hybridmu.core.closed_form.sums import Sums

GRID = tuple(Fraction(1, 10**power) for power in range(5))
_MARGIN = Fraction(1, 1024)
_NARROW = Fraction(1, 2**20)  # relative width of a first interval
_MOST_REFINEMENTS = 20  # what is as near to a tie as that is one
_ROUNDING = 2.0**-50  # of sums that `math.fsum` makes, and of their terms


@dataclass(frozen=True)
class Interval:
    """Two numbers that a third one is between."""

    low: Fraction
    high: Fraction


def chosen_penalty(sums: Sums) -> Fraction:
    """Return the largest penalty of `GRID` whose score is at most 1 + 2^-10 times the least one.

    Args:
        sums: Over at least one row.

    Returns:
        The same for the same sums on any machine.

    Raises:
        IllConditionedError: The system of some penalty has no usable float64 factor.
        OverflowError: With some penalty, sums leave 62 bits.

    Example:
        >>> from hybridmu.core.closed_form.sums import sums_of
        >>> x = torch.arange(-50, 50, dtype=torch.int16)[:, None]
        >>> chosen_penalty(sums_of(x, 2 * x + 1, 50, 101))
        Fraction(1, 10000)
    """
    if sums.rows < 2:
        return GRID[0]  # no degree of freedom is left
    scores = [_Score(sums, penalty) for penalty in GRID]
    for _ in range(_MOST_REFINEMENTS):
        least = min(score.interval.low for score in scores), min(score.interval.high for score in scores)
        for penalty, score in zip(GRID, scores, strict=True):
            if score.interval.high <= (1 + _MARGIN) * least[0]:
                return penalty
            if score.interval.low <= (1 + _MARGIN) * least[1]:
                break  # nobody knows yet
        for score in scores:
            if score.interval.low <= (1 + _MARGIN) * least[1]:
                score.refine()
    bound = (1 + _MARGIN) * min(score.interval.high for score in scores)
    return next(penalty for penalty, score in zip(GRID, scores, strict=True) if score.interval.low <= bound)


class _Score:
    """RSS / (n − d)² of one penalty, as an interval."""

    def __init__(self, sums: Sums, penalty: Fraction) -> None:
        self._sums = sums
        self._system = ridge_system(sums, penalty)
        self._penalties: list[int] = (self._system.a.diagonal() - sums.gram.diagonal()).tolist()
        self._weights = approximations(self._system.a, self._system.c, self._system.least)
        self._inverse: Iterator[Approximation] | None = None
        self._residual = self._next_residual()
        for _ in range(_MOST_REFINEMENTS):
            if self._residual.high - self._residual.low <= _NARROW * self._residual.high:
                break
            self._residual = self._next_residual()
        self._free = _left_free(self._system, self._penalties, sums.rows) or self._next_free()

    @property
    def interval(self) -> Interval:
        """Return what the score is between; without a bound above, far beyond all others."""
        low, high = max(self._free.low, Fraction(0)), self._free.high
        above = self._residual.high / low**2 if low else Fraction(2) ** 1000
        return Interval(self._residual.low / high**2, above)

    def refine(self) -> None:
        """Make the interval narrower."""
        self._residual = self._next_residual()
        self._free = self._next_free()

    def _next_residual(self) -> Interval:
        return _residual_squares(self._sums, self._penalties, next(self._weights))

    def _next_free(self) -> Interval:
        """Return n − d by exact arithmetic: a solution with as many right sides as columns, which takes long."""
        if self._inverse is None:
            one = torch.eye(len(self._penalties), dtype=torch.int64, device=self._system.a.device)
            self._inverse = approximations(self._system.a, one, self._system.least)
        found = next(self._inverse)
        diagonal = [int(value) for value in found.weights.diagonal()]
        trace = Fraction(
            sum(penalty * value for penalty, value in zip(self._penalties, diagonal, strict=True)), 2**found.scale
        )
        return _around(self._sums.rows - len(self._penalties) + trace, sum(self._penalties) * Fraction(found.error))


def _residual_squares(sums: Sums, penalties: list[int], found: Approximation) -> Interval:
    """Return RSS = Σ t² − tr WᵀC − tr WᵀΛW of an approximate W."""
    cross = sums.cross.cpu().numpy().astype(object)
    weights, unit, error = found.weights, 2**found.scale, Fraction(found.error)
    column = np.array(penalties, dtype=object)[:, None]
    squares, sizes = int((column * weights * weights).sum()), int((column * np.abs(weights)).sum())
    value = int(sums.squares.sum()) - Fraction(int((weights * cross).sum()), unit) - Fraction(squares, unit * unit)
    off = error * (int(np.abs(cross).sum()) + 2 * Fraction(sizes, unit) + weights.shape[1] * error * sum(penalties))
    around = _around(value, off)
    return Interval(max(around.low, Fraction(0)), max(around.high, Fraction(0)))


def _left_free(system: System, penalties: list[int], rows: int) -> Interval | None:
    """Return n − d = n − p + tr (G + Λ)⁻¹Λ by float64 arithmetic, or None where it tells nothing.

    With X near to the inverse and R = I − (G + Λ)X, whose norm is ρ < 1, X is off by at most ‖X‖ρ / (1 − ρ). Norms are
    Frobenius', and ρ has a bound of the rounding of R's products in it.
    """
    matrix, scale = scaled(system.a)
    lower, failed = torch.linalg.cholesky_ex(matrix)
    if int(failed):
        return None
    inverse = torch.cholesky_inverse(lower)
    size = len(matrix)
    rest = torch.eye(size, dtype=matrix.dtype, device=matrix.device) - matrix @ inverse
    rounding = (size + 4) * 2.0**-52
    length = _norm(inverse)
    ratio = _norm(rest) + rounding * (_norm(matrix) * length + 1)
    if not ratio < 0.5:
        return None
    weighted = torch.tensor(penalties, dtype=torch.float64) * scale[:, 0].cpu() ** 2
    terms = (weighted * inverse.diagonal().cpu()).tolist()
    off = _norm(weighted) * length * ratio / (1 - ratio) + _ROUNDING * math.fsum(abs(term) for term in terms)
    return _around(rows - size + Fraction(math.fsum(terms)), Fraction(off))


def _around(value: Fraction, off: Fraction) -> Interval:
    return Interval(value - off, value + off)


def _norm(values: Tensor) -> float:
    """Return a bound of the square root of the sum of squares."""
    return float(torch.linalg.vector_norm(values)) * (1 + 2.0**-20)
