"""The correctly rounded float32 solution of an integer linear system.

The weights of a closed-form model are *defined* as the float32 numbers nearest to the exact solution of A·W = C with
integer A and C. Whatever algorithm is accurate enough finds the same bits, on any processor and number of threads.

Here: a Cholesky factor in float64 proposes corrections; W is kept as integers in units of 2^-t, and the residual
C − A·W is kept *exactly*, as integers too. As A is symmetric and its smallest eigenvalue at least `least`, an entry of
W is off by at most ‖residual‖ / least: so it is known, not hoped, when an entry's rounding is decided. An entry too
near to a rounding boundary is refined further (Ziv's strategy).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hybridmu.core.closed_form.exact_products import BigIntegers, digits, multiplied

# Smaller weights are 0, so that an exact 0 is decided without end.
TINY = 2.0**-60
# What agrees with a rounding boundary to so many bits is taken to lie on it.
_TIE_BITS = 240
_LARGEST_WEIGHT = 2.0**62
_MOST_STEPS = 60
_FACTOR_BITS = 21  # of a digit of a correction, which has two
_JITTERS = (0.0, 2.0**-48, 2.0**-40, 2.0**-32)

Float64 = npt.NDArray[np.float64]
Float32 = npt.NDArray[np.float32]


class IllConditionedError(ArithmeticError):
    """A system so near to a singular one that its float64 factor says nothing of it."""


@dataclass(frozen=True, eq=False)
class Approximation:
    """Whole numbers near to a solution.

    Attributes:
        weights: Python integers [p, k], in units of 2^-scale.
        scale: At least 0.
        error: What any entry is off by, at most.
    """

    weights: BigIntegers
    scale: int
    error: float


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
    bits = 53 - _FACTOR_BITS - max(1, math.ceil(math.log2(size)))
    parts = digits(a, bits)
    factor = _Factor(a)
    residual: BigIntegers = c.cpu().numpy().astype(object)
    weights: BigIntegers = np.zeros(residual.shape, dtype=object)
    scale, last, stalled = 0, math.inf, 0
    for _ in range(_MOST_STEPS):
        correction = factor.solve(_floats(residual, scale))
        largest = float(np.abs(correction).max())
        if largest > _LARGEST_WEIGHT:
            raise OverflowError("a weight is beyond 2^62")
        finer = 2 * _FACTOR_BITS - 1 - math.frexp(largest)[1] if largest else scale
        step = max(0, finer - scale)
        scale += step
        change = np.rint(np.ldexp(correction, scale)).astype(np.int64)
        residual = residual * 2**step - multiplied(parts, bits, torch.from_numpy(change).to(a.device), _FACTOR_BITS)
        weights = weights * 2**step + change.astype(object)
        error = _error(residual, scale, least)
        yield Approximation(weights, scale, error)
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
    wide = a.double()  # a copy, scaled in place: each pass over a large matrix takes as long as a correction
    scale = torch.exp2(-torch.round(torch.log2(wide.diagonal().clamp(min=1.0)) / 2))[:, None]
    return wide.mul_(scale).mul_(scale.T), scale


class _Factor:
    """A Cholesky factor of a scaled matrix."""

    def __init__(self, a: Tensor) -> None:
        self._matrix, self._scale = scaled(a)
        self._jitter = 0
        self._lower = self._factored()

    def solve(self, right: Float64) -> Float64:
        """Return an approximate solution of A·X = right, float64 [p, k]."""
        known = torch.from_numpy(right).to(self._matrix.device) * self._scale
        found: Float64 = (torch.cholesky_solve(known, self._lower) * self._scale).cpu().numpy()
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


def _floats(values: BigIntegers, scale: int) -> Float64:
    """Return integers in units of 2^-scale as float64."""
    largest = max(abs(int(values.max())), abs(int(values.min())))
    drop = max(0, largest.bit_length() - 200)  # float64 holds no integer beyond 2^1023
    kept: Float64 = (values >> drop if drop else values).astype(np.float64)
    return np.ldexp(kept, drop - scale)


def _error(residual: BigIntegers, scale: int, least: Fraction) -> float:
    """Return a bound of what any entry of W is off by: ‖residual column‖ / least, rounded up."""
    norms = np.sqrt((np.abs(_floats(residual, scale)) ** 2).sum(axis=0))
    return float(norms.max()) / float(least) * (1 + 2.0**-20)


def _rounded(approximation: Approximation) -> Float32 | None:
    """Return the float32 numbers next to all that an approximation may be of, once each is decided."""
    weights, scale, error = approximation.weights, approximation.scale, approximation.error
    near = _floats(weights, scale)
    found = near.astype(np.float32)
    wide = found.astype(np.float64)
    margin = error + 2.0**-50 * np.abs(near)
    above, below = ((wide + np.nextafter(found, np.float32(side)).astype(np.float64)) / 2 for side in (np.inf, -np.inf))
    decided = (np.abs(near - above) > margin) & (np.abs(near - below) > margin)
    small = np.abs(near) + margin < TINY
    large = np.abs(near) - margin >= TINY
    found[small] = 0.0
    for place in zip(*np.nonzero(~(small | (decided & large))), strict=True):
        value = _decided(int(weights[place]), scale, error)
        if value is None:
            return None
        found[place] = value
    return found


def _decided(weight: int, scale: int, error: float) -> float | None:
    """Return the float32 next to every number within `error` of weight / 2^scale, or None where there are two."""
    exact, off = Fraction(weight, 2**scale), Fraction(error)
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
