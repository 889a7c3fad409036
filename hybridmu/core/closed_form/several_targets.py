"""Ridge regressions of several numbers at once: one matrix of sums, one factor of it, and a right side per number."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

import torch
from torch import Tensor

from hybridmu.core.closed_form.linear_models import RidgeRegressor
from hybridmu.core.closed_form.penalty_choice import chosen_penalty
from hybridmu.core.closed_form.projection import Projection
from hybridmu.core.closed_form.ridge import ridge_weights
from hybridmu.core.closed_form.sums import Sums, packed


class RidgeOfSeveral(RidgeRegressor):
    """Ridge regression of several numbers.

    The weights of each are, bit for bit, those of a regression of it alone, since every entry is the correctly rounded
    one. A penalty that is chosen is chosen for each number by itself, which their units have no say in.

    Args:
        features: Encoded width.
        targets: How many numbers, at least 2.
        levels: As of `LinearForm`.
        penalty: The same.
        projection: The same.
        scales: Of each number: times it, a number is one from −1 to 1; what is beyond counts as −1 or 1.

    Attributes:
        squares: Σ t² of each, int64 [targets].
    """

    def __init__(
        self,
        features: int,
        targets: int,
        levels: int,
        penalty: Fraction | None,
        projection: Projection | None = None,
        scales: Sequence[float] = (),
    ) -> None:
        super().__init__(features, targets, levels, penalty, projection)
        if len(scales) != targets:
            raise ValueError(f"{targets} targets have {len(scales)} scales")
        self._scales = tuple(float(scale) for scale in scales)

    def targets(self, outcomes: Tensor) -> Tensor:
        """Return the nearest steps of float32 [n, targets]: int64 [n, targets]."""
        scales = torch.tensor(self._scales, dtype=torch.float64, device=outcomes.device)
        steps = outcomes.double() * scales * self.target_levels
        return torch.round(steps).clamp(-self.target_levels, self.target_levels).long()

    def hold(self, sums: Sums) -> None:
        """Become the model of some sums, as of `LinearForm`."""
        self.gram.copy_(packed(sums.gram))
        self.cross.copy_(sums.cross)
        self.squares.copy_(sums.squares)
        self.weights.copy_(self._solved_each(sums) if sums.rows else torch.zeros_like(self.weights))

    def _solved_each(self, sums: Sums) -> Tensor:
        """Return the weights: of all numbers with the same penalty at once."""
        if self._penalty is not None:
            return ridge_weights(sums, self._penalty)
        chosen = [chosen_penalty(_of(sums, [number])) for number in range(self._targets)]
        found = torch.zeros(len(sums.gram), self._targets)
        for penalty in {*chosen}:
            numbers = [number for number, one in enumerate(chosen) if one == penalty]
            found[:, numbers] = ridge_weights(_of(sums, numbers), penalty)
        return found

    def answers(self, phi: Tensor) -> Tensor:
        """Return value and unit of each number in turn, the units as of one number: float64 [n, 2 · targets]."""
        weights = self.weights.double()
        values = phi @ weights[:-1] + weights[-1]
        rows = max(1, int(self.gram[-1]))
        totals: list[int] = self.cross[-1].tolist()
        found = []
        for number, (total, square) in enumerate(zip(totals, self.squares.tolist(), strict=True)):
            steps = self._scales[number] * self.target_levels
            unit = math.sqrt(Fraction(square, rows) - Fraction(total, rows) ** 2) / steps or 1.0
            found += [values[:, number] / steps, torch.full_like(values[:, number], unit)]
        return torch.stack(found, dim=1)


def _of(sums: Sums, numbers: Sequence[int]) -> Sums:
    """Return the sums that some of the numbers need."""
    chosen = torch.tensor(numbers, device=sums.cross.device)
    return Sums(sums.gram, sums.cross[:, chosen], sums.squares[chosen])
