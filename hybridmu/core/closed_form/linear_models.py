"""Linear models of integer sums over rows, and the weights that these define: discriminants and ridge regressions."""

from __future__ import annotations

import math
from abc import abstractmethod
from fractions import Fraction
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from hybridmu.core.closed_form.closed_form_model import ClosedForm
from hybridmu.core.closed_form.discriminant import discriminant_weights, log_odds
from hybridmu.core.closed_form.penalty_choice import chosen_penalty
from hybridmu.core.closed_form.projection import Projection
from hybridmu.core.closed_form.quantiser import quantised
from hybridmu.core.closed_form.ridge import ridge_weights
from hybridmu.core.closed_form.sums import Sums, packed, sums_of, unpacked

# Rows whose features are made at once.
_BLOCK = 4096
# Regression of one-hot targets gives what are nearly probabilities; below this they say nothing any more.
_LEAST_PROBABILITY = 0.01


class LinearForm(ClosedForm[Sums]):
    """A linear model on whole-number features.

    The weights follow from the sums, and are kept beside them, so that whatever answers need not solve anything.

    Args:
        features: Encoded width.
        targets: Numbers that are learned of a row: one per class, or one.
        levels: Features count in so many steps from 0 to 1, and to −1.
        penalty: Of standardised weights, per row; None: chosen by `penalty_choice`, from the sums alone.
        projection: What makes features of features; None: nothing.

    Attributes:
        gram: Upper triangle of G, row by row, int64 [p (p + 1) / 2]; the last of p features is the constant 1.
        cross: C, int64 [p, targets].
        weights: float32 [p − 1, targets], and a row of intercepts where there are some; zeros without a row.
    """

    intercepts: ClassVar[bool]
    target_levels: ClassVar[int] = 1

    def __init__(
        self,
        features: int,
        targets: int,
        levels: int,
        penalty: Fraction | None,
        projection: Projection | None = None,
    ) -> None:
        super().__init__()
        self._levels_in, self._penalty, self._projection = levels, penalty, projection
        made, self._levels = (projection.width, projection.levels) if projection else (features, levels)
        self._size, self._targets = made + 1, targets
        self.gram: Tensor
        self.cross: Tensor
        self.weights: Tensor
        self.register_buffer("gram", torch.zeros(self._size * (self._size + 1) // 2, dtype=torch.int64))
        self.register_buffer("cross", torch.zeros(self._size, targets, dtype=torch.int64))
        self.register_buffer("weights", torch.zeros(made + self.intercepts, targets))

    @abstractmethod
    def targets(self, outcomes: Tensor) -> Tensor:
        """Return whole-number targets of outcomes, int64 [n, targets], up to `target_levels` in magnitude."""

    @abstractmethod
    def solved(self, sums: Sums, penalty: Fraction) -> Tensor:
        """Return the weights of some sums."""

    @abstractmethod
    def answers(self, phi: Tensor) -> Tensor:
        """Return what is answered, float64 [n, …].

        Args:
            phi: Features, float64 [n, p − 1].
        """

    def features(self, x: Tensor) -> Tensor:
        """Return whole-number features of float32 [n, features]: int16 [n, width].

        Raises:
            ValueError: A number is not finite.
        """
        q = quantised(x, self._levels_in)
        return q if self._projection is None else self._projection(q)

    def sums(self, x: Tensor, outcomes: Tensor) -> Sums:
        """Return the sums over rows.

        Args:
            x: float32 [n, features].
            outcomes: Class numbers, int64 [n], or targets, float32 [n].

        Raises:
            OverflowError: The sums over so many rows may leave 62 bits.
            ValueError: A feature is not finite.
        """
        found = None
        for start in range(0, max(1, len(x)), _BLOCK):
            targets = self.targets(outcomes[start : start + _BLOCK])
            block = sums_of(self.features(x[start : start + _BLOCK]), targets, self._levels, self.target_levels)
            found = block if found is None else found + block
        assert found is not None
        largest = max(self._levels, self.target_levels) ** 2
        if found.rows * largest > 2**62:
            raise OverflowError(f"{found.rows:,} rows; {2**62 // largest:,} fit")
        return found

    @property
    def held(self) -> Sums:
        """Return the sums that the model is of."""
        return Sums(unpacked(self.gram, self._size), self.cross, self._squares)

    @property
    def _squares(self) -> Tensor:
        return self.cross[-1]  # of one-hot classes

    def hold(self, sums: Sums) -> None:
        """Become the model of some sums.

        Raises:
            IllConditionedError: The penalty is too small for them.
        """
        self.gram.copy_(packed(sums.gram))
        self.cross.copy_(sums.cross)
        self.weights.copy_(self.solved(sums, self._penalty_of(sums)) if sums.rows else torch.zeros_like(self.weights))

    def _penalty_of(self, sums: Sums) -> Fraction:
        return chosen_penalty(sums) if self._penalty is None else self._penalty

    def forward(self, x: Tensor) -> Tensor:
        """Return the answers to float32 [n, features]; all alike where there is no row."""
        # In double precision: what is alike in all rows cancels, and may be far larger than what tells them apart.
        return self.answers(self.features(x).double()).float()


class Classifier(LinearForm):
    """A model of classes. Targets are one-hot, answers logarithms of probabilities, up to a constant per row."""

    def targets(self, outcomes: Tensor) -> Tensor:
        """Return one-hot classes."""
        return functional.one_hot(outcomes, self._targets)


class RidgeClassifier(Classifier):
    """Ridge regression of one-hot classes, whose values are nearly probabilities."""

    intercepts = True

    def solved(self, sums: Sums, penalty: Fraction) -> Tensor:
        """Return the regression's weights."""
        return ridge_weights(sums, penalty)

    def answers(self, phi: Tensor) -> Tensor:
        """Return the logarithms of the values, of which those below 1 % count as 1 %."""
        weights = self.weights.double()
        return (phi @ weights[:-1] + weights[-1]).clamp(min=_LEAST_PROBABILITY).log()


class DiscriminantClassifier(Classifier):
    """Linear discriminant analysis."""

    intercepts = False

    def solved(self, sums: Sums, penalty: Fraction) -> Tensor:
        """Return the discriminants' weights."""
        return discriminant_weights(sums, penalty)

    def answers(self, phi: Tensor) -> Tensor:
        """Return the log-odds of classes; −∞ of one without rows, unless no class has any."""
        counts = self.cross[-1]
        if not bool(counts.any()):
            return phi.new_zeros(len(phi), self._targets)
        return log_odds(phi, self.weights, self.cross[:-1].double() / counts.clamp(min=1), counts)


class RidgeRegressor(LinearForm):
    """Ridge regression of a number.

    Args:
        features: Encoded width.
        targets: 1.
        levels: As of `LinearForm`.
        penalty: The same.
        projection: The same.
        scale: Times a target is a number from −1 to 1; what is beyond counts as −1 or 1.

    Attributes:
        squares: Σ t², int64 [1].
    """

    intercepts = True
    target_levels = 2**18  # steps from 0 to 1; the squares of 67 million rows can be summed

    def __init__(
        self,
        features: int,
        targets: int,
        levels: int,
        penalty: Fraction | None,
        projection: Projection | None = None,
        scale: float = 1.0,
    ) -> None:
        super().__init__(features, targets, levels, penalty, projection)
        self._scale = scale
        self.squares: Tensor
        self.register_buffer("squares", torch.zeros(targets, dtype=torch.int64))

    def targets(self, outcomes: Tensor) -> Tensor:
        """Return the nearest steps."""
        steps = outcomes.double() * self._scale * self.target_levels
        return torch.round(steps).clamp(-self.target_levels, self.target_levels).long()[:, None]

    def solved(self, sums: Sums, penalty: Fraction) -> Tensor:
        """Return the regression's weights."""
        return ridge_weights(sums, penalty)

    def hold(self, sums: Sums) -> None:
        """Become the model of some sums, as of `LinearForm`."""
        super().hold(sums)
        self.squares.copy_(sums.squares)

    @property
    def _squares(self) -> Tensor:
        return self.squares

    def answers(self, phi: Tensor) -> Tensor:
        """Return value and unit, the deviation of the targets, 1 where they are alike: float64 [n, 2]."""
        weights = self.weights.double()
        rows, steps = max(1, int(self.gram[-1])), self._scale * self.target_levels
        variance = Fraction(int(self.squares), rows) - Fraction(int(self.cross[-1]), rows) ** 2
        unit = math.sqrt(variance) / steps or 1.0
        values = (phi @ weights[:-1] + weights[-1])[:, 0] / steps
        return torch.stack([values, torch.full_like(values, unit)], dim=1)
