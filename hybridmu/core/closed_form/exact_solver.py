"""The correctly rounded float32 solution of an integer linear system.

The weights of a closed-form model are *defined* as the float32 numbers nearest to the exact solution of A·W = C with
integer A and C. Whatever algorithm is accurate enough finds the same bits, on any processor and number of threads.

Here: a Cholesky factor in float64 proposes corrections; W is kept as a sum of integers in units of 2^-t, and the
residual C − A·W is kept *exactly*, as fixed-point numbers. As A is symmetric and its smallest eigenvalue at least
`least`, an entry of W is off by at most ‖residual‖ / least: so it is known, not hoped, when an entry's rounding is
decided. An entry too near to a rounding boundary is refined further (Ziv's strategy).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import reduce

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hybridmu.core.closed_form.exact_products import ExactMatrix
from hybridmu.core.closed_form.fixed_point import F64, I64, FixedPoint

# Smaller weights are 0, so that an exact 0 is decided without end.
TINY = 2.0**-60
# What agrees with a rounding boundary to so many bits is taken to lie on it.
_TIE_BITS = 240
_LARGEST_WEIGHT = 2.0**62
_MOST_STEPS = 60
_TERM_BITS = 41  # of the largest number in a term
_JITTERS = (0.0, 2.0**-48, 2.0**-40, 2.0**-32)

F32 = npt.NDArray[np.float32]


class IllConditionedError(ArithmeticError):
    """A system so near to a singular one that its float64 factor says nothing of it."""


@dataclass(frozen=True, eq=False)
class Approximation:
    """Whole numbers near to a solution, as a sum of ever smaller ones.

    Attributes:
        terms: int64 [p, k], and the power of two that they are in units of: 2^-scale. Scales do not fall.
        error: What any entry is off by, at most.
    """

    terms: tuple[tuple[I64, int], ...]
    error: float

    @property
    def scale(self) -> int:
        """Return the scale of the last term."""
        return self.terms[-1][1]

    @property
    def weights(self) -> npt.NDArray[np.object_]:
        """Return the sum as Python integers [p, k], in units of 2^-scale."""
        return reduce(np.add, (term.astype(object) * 2 ** (self.scale - scale) for term, scale in self.terms))

    def at(self, place: tuple[int, ...]) -> Fraction:
        """Return one entry."""
        return sum((Fraction(int(term[place]), 2**scale) for term, scale in self.terms), start=Fraction(0))

    def floats(self) -> tuple[F64, F64]:
        """Return the sum in float64, and a bound of what that is off by, of this approximation."""
        parts = [np.ldexp(term.astype(np.float64), -scale) for term, scale in self.terms]
        return reduce(np.add, reversed(parts)), 2.0**-50 * reduce(np.add, map(np.abs, parts))


def solve(a: Tensor, c: Tensor, least: Fraction) -> Tensor:
    """Return W with A·W = C, each entry the float32 nearest to the exact one; ties go to the even neighbour.

    Args:
        a: int64 [p, p], symmetric and positive definite.
        c: int64 [p, k].
        least: A lower bound, above 0, of the eigenvalues of A.

    Returns:
        float32 [p, k] on the CPU; entries below `TINY` in magnitude are 0.

    Raises:
        IllConditionedError: No float64 factor is good enough.
        OverflowError: An entry is beyond 2^62 in magnitude.

    Example:
        >>> solve(torch.tensor([[3, 1], [1, 2]]), torch.tensor([[1], [0]]), Fraction(1)).tolist()
        [[0.4000000059604645], [-0.20000000298023224]]
    """
    if a.shape[0] == 0 or c.shape[1] == 0:
        return torch.zeros(c.shape, dtype=torch.float32)
    known = (_rounded(found) for found in approximations(a, c, least))
    return torch.from_numpy(next(rounded for rounded in known if rounded is not None))


def approximations(a: Tensor, c: Tensor, least: Fraction) -> Iterator[Approximation]:
    """Yield W with A·W = C more and more exactly, until nobody asks any more.

    Args:
        a: int64 [p, p], symmetric and positive definite; p is at least 1.
        c: int64 [p, k]; k is at least 1.
        least: A lower bound, above 0, of the eigenvalues of A.

    Raises:
        IllConditionedError: No float64 factor is good enough.
        OverflowError: An entry is beyond 2^62 in magnitude.
    """
    size = a.shape[0]
    matrix, factor = ExactMatrix(a, int(a.diagonal().max())), _Factor(a)  # no entry exceeds the diagonal's largest
    residual = FixedPoint(tuple(c.shape))
    residual.add(c.cpu().numpy(), 0)
    residual.carry()
    rest = residual.floats()
    terms: list[tuple[I64, int]] = []
    scale, last, stalled = 0, math.inf, 0
    for _ in range(_MOST_STEPS):
        correction = factor.solve(rest)
        largest = float(np.abs(correction).max())
        if largest > _LARGEST_WEIGHT:
            raise OverflowError("a weight is beyond 2^62")
        scale = max(scale, _TERM_BITS - math.frexp(largest)[1] if largest else 0)
        term = np.rint(np.ldexp(correction, scale)).astype(np.int64)
        for product, power in matrix.times(torch.from_numpy(term).to(a.device)):
            residual.add(-product, power - scale)
        residual.carry()
        terms.append((term, scale))
        rest = residual.floats()
        error = _error(rest, least)
        yield Approximation(tuple(terms), error)
        if error > last / 4:
            stalled += 1
            if stalled > 2 and not factor.weaken():
                break
        last = min(last, error)
    raise IllConditionedError(f"no factor of a system of {size} columns is good enough: it is nearly singular")


def scaled(a: Tensor) -> tuple[Tensor, Tensor]:
    """Return D·A·D with powers of two D that make its diagonal about 1.

    Args:
        a: int64 [p, p].

    Returns:
        float64 [p, p], whose entries are rounded once, and the diagonal of D, float64 [p, 1].
    """
    scale = torch.exp2(-torch.round(torch.log2(a.diagonal().double().clamp(min=1.0)) / 2))[:, None]
    wide = a.double()  # a copy, scaled in place: each pass over a large matrix takes as long as a correction
    return wide.mul_(scale).mul_(scale.T), scale


class _Factor:
    """A Cholesky factor of a scaled matrix."""

    def __init__(self, a: Tensor) -> None:
        self._matrix, self._scale = scaled(a)
        self._jitter = 0
        self._lower = self._factored()

    def solve(self, right: F64) -> F64:
        """Return an approximate solution of A·X = right, float64 [p, k]."""
        known = torch.from_numpy(right).to(self._matrix.device) * self._scale
        found: F64 = (torch.cholesky_solve(known, self._lower) * self._scale).cpu().numpy()
        return found

    def weaken(self) -> bool:
        """Take a factor of a matrix that is further from a singular one.

        Returns:
            Whether there is one.
        """
        self._jitter += 1
        if self._jitter >= len(_JITTERS):
            return False
        self._lower = self._factored()
        return True

    def _factored(self) -> Tensor:
        while True:
            lower: Tensor
            matrix = self._matrix
            if jitter := _JITTERS[self._jitter]:
                matrix = matrix + jitter * torch.eye(len(matrix), dtype=matrix.dtype, device=matrix.device)
            lower, failed = torch.linalg.cholesky_ex(matrix)
            if not int(failed):
                return lower
            self._jitter += 1
            if self._jitter >= len(_JITTERS):
                raise IllConditionedError("the system has no Cholesky factor in float64: it is nearly singular")


def _error(residual: F64, least: Fraction) -> float:
    """Return a bound of what any entry of W is off by: ‖residual column‖ / least, rounded up."""
    norms = np.sqrt((residual**2).sum(axis=0))
    return float(norms.max()) / float(least) * (1 + 2.0**-20)


def _rounded(approximation: Approximation) -> F32 | None:
    """Return the float32 numbers next to all that an approximation may be of, once each is decided."""
    error = approximation.error
    near, rounding = approximation.floats()
    found = near.astype(np.float32)
    wide = found.astype(np.float64)
    margin = error + rounding
    above, below = ((wide + np.nextafter(found, np.float32(side)).astype(np.float64)) / 2 for side in (np.inf, -np.inf))
    decided = (np.abs(near - above) > margin) & (np.abs(near - below) > margin)
    small = np.abs(near) + margin < TINY
    large = np.abs(near) - margin >= TINY
    found[small] = 0.0
    for place in zip(*np.nonzero(~(small | (decided & large))), strict=True):
        value = _decided(approximation.at(place), error)
        if value is None:
            return None
        found[place] = value
    return found


def _decided(exact: Fraction, error: float) -> float | None:
    """Return the float32 next to every number within `error` of one, or None where there are two."""
    off = Fraction(error)
    low, high = _nearest(exact - off), _nearest(exact + off)
    if low == high:
        return low
    if error < 2.0**-_TIE_BITS:
        return _nearest(_boundary(low, high))
    return None


def _boundary(low: float, high: float) -> Fraction:
    """Return where rounding changes between two neighbours; what is below `TINY` has none but 0."""
    if low == 0 or high == 0:
        return Fraction(math.copysign(TINY, low + high))
    return (Fraction(low) + Fraction(high)) / 2


def _nearest(exact: Fraction) -> float:
    """Return the float32 nearest to a rational number, ties to even; 0 below `TINY`."""
    if abs(exact) < Fraction(TINY):
        return 0.0
    size = abs(exact)
    exponent = size.numerator.bit_length() - size.denominator.bit_length()
    if Fraction(2) ** exponent > size:
        exponent -= 1
    unit = Fraction(2) ** (exponent - 23)
    whole = round(size / unit)  # half to even
    return math.copysign(float(whole * unit), exact)
