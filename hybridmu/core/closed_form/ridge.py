"""Ridge regression as a function of integer sums, with features standardised and an intercept that costs nothing.

With features in units of their deviation, a penalty on every weight's square, and none on the intercept, the weights W
of the features as they are solve (G + Λ)·W = C: Λ is diagonal, its entries the penalty times Σ (φ − mean)², and 0 for
the constant. Means and deviations are sums too, so nothing has to be remembered of rows, or forgotten (Hoerl & Kennard
1970; the summation form is Cao & Yang's, 2015). Λ is rounded to whole numbers, so that A = G + Λ is an integer matrix,
and W is what `exact_solver` defines. An entry is at least 2^-36 of Σ φ²: a column that is nearly constant can't be told
from the constant, and without that no arithmetic of 53 bits would find the way to the solution.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor

from hybridmu.core.closed_form.exact_solver import solve
from hybridmu.core.closed_form.sums import Sums

_LEAST_SHARE = 36  # bits by which an entry of Λ is smaller than Σ φ², at most


@dataclass(frozen=True, eq=False)
class System:
    """A·W = C.

    Attributes:
        a: int64 [p, p], symmetric and positive definite.
        c: int64 [p, k].
        least: A lower bound, above 0, of the eigenvalues of A.
    """

    a: Tensor
    c: Tensor
    least: Fraction


def ridge_system(sums: Sums, penalty: Fraction) -> System:
    """Return the linear system of a ridge regression.

    Args:
        sums: Over at least one row.
        penalty: Above 0, per row: the same penalty on weights of standardised features whatever the number of rows.

    Raises:
        ValueError: There is no row, or no penalty.
    """
    penalties = penalties_of(sums, penalty)
    a = sums.gram.clone()
    a.diagonal().add_(torch.tensor([*penalties, 0], dtype=torch.int64, device=a.device))
    return System(a, sums.cross, _least(sums, penalties))


def ridge_weights(sums: Sums, penalty: Fraction) -> Tensor:
    """Return the weights of a ridge regression, float32 [p, k]; the last row is the intercepts.

    Args:
        sums: As for `ridge_system`.
        penalty: As for `ridge_system`.

    Returns:
        The same bits for the same sums and penalty on any machine.

    Example:
        >>> from hybridmu.core.closed_form.sums import sums_of
        >>> x = torch.tensor([[0], [1], [2], [3]], dtype=torch.int16)
        >>> ridge_weights(sums_of(x, 2 * x + 1, 3, 7), Fraction(1, 1000)).tolist()
        [[1.6666666269302368], [1.5]]
    """
    system = ridge_system(sums, penalty)
    return solve(system.a, system.c, system.least)


def penalties_of(sums: Sums, penalty: Fraction) -> list[int]:
    """Return the diagonal of Λ without the constant: the penalty times Σ (φ − mean)², or 2^-36 of Σ φ², at least 1.

    Raises:
        ValueError: There is no row, or no penalty.
        OverflowError: An entry of G + Λ leaves 62 bits.
    """
    rows = sums.rows
    if rows < 1 or penalty <= 0:
        raise ValueError("a closed-form model needs a row and a penalty above 0")
    squares: list[int] = sums.gram.diagonal()[:-1].tolist()
    # Σ (φ − mean)² = Σ φ² − (Σ φ)² / n, times the penalty, in whole numbers of any length: nothing is rounded but at
    # the end.
    above, below = penalty.numerator, penalty.denominator * rows
    pairs = zip(squares, _totals(sums), strict=True)
    found = [
        max(1, above * (rows * square - total * total) // below, square >> _LEAST_SHARE) for square, total in pairs
    ]
    if any(square + entry > 2**62 for square, entry in zip(squares, found, strict=True)):
        raise OverflowError("the penalty is too large: with it, sums leave 62 bits")
    return found


def _totals(sums: Sums) -> list[int]:
    totals: list[int] = sums.gram[-1, :-1].tolist()
    return totals


def _least(sums: Sums, penalties: list[int]) -> Fraction:
    """Return a lower bound of the eigenvalues of G + Λ.

    With μ = Σ φ / n and S = G' − n μμᵀ + Λ' (without the constant), S is at least min Λ', since G' − n μμᵀ is a sum of
    squares. The inverse of the whole is [I; −μᵀ] S⁻¹ [I, −μ] + diag(0, 1/n), whose norm is at most
    (1 + |μ|²) / min Λ' + 1/n.
    """
    rows, totals = sums.rows, _totals(sums)
    if not penalties:
        return Fraction(rows)
    spread = 1 + Fraction(sum(total * total for total in totals), rows * rows)
    return 1 / (spread / min(penalties) + Fraction(1, rows))
