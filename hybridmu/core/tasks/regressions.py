"""Regressions: what the answers of sub-models that learn several numbers of a row mean.

A sub-model answers with value and unit of each number in turn, and a combined answer has value, unit, lowest and
highest value of each in turn: what is said of one number is in `core/tasks/regression.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hybridmu.core.tasks.regression import Regression


class Regressions(Regression):
    """Meaning of several values and their units.

    Args:
        targets: Their names, at least two, in the order in which they are answered.
    """

    def __init__(self, targets: Sequence[str]) -> None:
        self.targets = tuple(targets)

    def outputs(self, classes: int) -> int:
        """Return one per target."""
        return len(self.targets)

    def width(self, classes: int) -> int:
        """Return 2 per target: value and unit."""
        return super().width(classes) * len(self.targets)

    def combined(self, classes: int) -> int:
        """Return 4 per target: value, unit, and the lowest and highest value."""
        return super().combined(classes) * len(self.targets)

    def metric(self, answers: Tensor, outcomes: Tensor) -> float:
        """Return the mean of the targets' skills.

        Args:
            answers: float [n, 2 or more per target]; of one sub-model, or what `combine` made of several.
            outcomes: float32 [n, targets].

        Example:
            >>> answers = torch.tensor([[3.0, 2.0, 7.0, 1.0], [5.0, 2.0, 9.0, 1.0]])
            >>> Regressions(["price", "rent"]).metric(answers, torch.tensor([[3.0, 7.0], [4.0, 9.0]]))
            0.9375
        """
        found = zip(self._of_each(answers), outcomes.T, strict=True)
        return float(np.mean([super(Regressions, self).metric(*pair) for pair in found]))

    def margins(self, answers: Tensor, outcomes: Tensor) -> npt.NDArray[np.float64]:
        """Return the mean of the targets' signed residuals per row, each in its unit, float64 [n].

        It is as near to a Gaussian as they are; a sum of their squares would not be.

        Args:
            answers: float [n, 2 per target].
            outcomes: float32 [n, targets].
        """
        found = zip(self._of_each(answers), outcomes.T, strict=True)
        return np.asarray(np.mean([super(Regressions, self).margins(*pair) for pair in found], axis=0))

    def combine(self, answers: Tensor, how: str) -> Tensor:
        """Combine the sub-models' values of each target, as of one.

        Args:
            answers: float [voters, n, 2 per target]; voters ≥ 1.
            how: `mean` or `median`.

        Returns:
            float [n, 4 per target].

        Raises:
            ValueError: No voters, or an unknown `how`.
        """
        return torch.cat([super(Regressions, self).combine(part, how) for part in self._of_each(answers)], dim=-1)

    def predictions(self, combined: npt.NDArray[np.float32], classes: Sequence[int | str]) -> list[dict[str, Any]]:
        """Return values and intervals per row, by the names of the targets.

        Example:
            >>> answers = np.array([[3.5, 1.0, 2.5, 4.0, 7.0, 1.0, 6.5, 7.5]], dtype=np.float32)
            >>> Regressions(["price", "rent"]).predictions(answers, ())
            [{'values': {'price': 3.5, 'rent': 7.0}, 'intervals': {'price': [2.5, 4.0], 'rent': [6.5, 7.5]}}]
        """
        each = [super(Regressions, self).predictions(part, classes) for part in self._of_each(combined)]
        return [
            {
                f"{what}s": {name: one[what] for name, one in zip(self.targets, row, strict=True)}
                for what in ("value", "interval")
            }
            for row in zip(*each, strict=True)
        ]

    def _of_each(self, answers: Any) -> list[Any]:
        """Return the part of answers that is of each target, along the last dimension."""
        width = answers.shape[-1] // len(self.targets)
        return [answers[..., start : start + width] for start in range(0, answers.shape[-1], width)]
