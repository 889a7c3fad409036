"""Regression: what the numbers that sub-models answer mean, how near they are, and how they become one.

A sub-model answers a row with two numbers: the value, and the unit in which it is measured, which is the deviation of
the targets that it was trained on first (`core/tasks/regression_tasks.py`). A combined answer has the lowest and the
highest value of the sub-models besides.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hybridmu.core.tasks.judgement import Judgement


class Regression(Judgement):
    """Meaning of values and their units. Stateless; a task's `judgement` may be a derived one."""

    kind: ClassVar[str] = "regression"
    figure: ClassVar[str] = "skill"
    outcome: ClassVar[torch.dtype] = torch.float32

    def outputs(self, classes: int) -> int:
        """Return 1."""
        return 1

    def width(self, classes: int) -> int:
        """Return 2: value and unit."""
        return 2

    def combined(self, classes: int) -> int:
        """Return 4: value, unit, and the lowest and highest value."""
        return 4

    def metric(self, answers: Tensor, outcomes: Tensor) -> float:
        """Return the skill: 1 − mean of ((value − target) / unit)².

        It is R² with the variance that training saw in the place of the rows' own: 1 where every value is right, 0
        where the mean of the training targets would do as well. So it is known of a single row too, and two sets of
        rows are measured alike.

        Args:
            answers: float [n, 2 or more]; of one sub-model, or what `combine` made of several.
            outcomes: float32 [n], targets.

        Returns:
            At most 1; NaN without rows.

        Example:
            >>> Regression().metric(torch.tensor([[3.0, 2.0], [5.0, 2.0]]), torch.tensor([3.0, 4.0]))
            0.875
        """
        return 1.0 - float(_residuals(answers, outcomes).square().mean())

    def margins(self, answers: Tensor, outcomes: Tensor) -> npt.NDArray[np.float64]:
        """Return (value − target) / unit per row: the signed residual (what KLoM and U-LiRA look at).

        Both compare distributions of one number per row over models that differ in their seeds, and U-LiRA takes them
        for Gaussian (arXiv 2403.01218). A class's log-odds are near that; so is the value of a network at a row, and
        what is added to and divides it is the same for all models. Its square or its size, a loss, would be skewed,
        and would not tell a residual of −1 from one of +1.

        Args:
            answers: float [n, 2].
            outcomes: float32 [n], targets.

        Returns:
            float64 [n].

        Example:
            >>> Regression().margins(torch.tensor([[3.0, 2.0]]), torch.tensor([4.0])).tolist()
            [-0.5]
        """
        return np.asarray(_residuals(answers, outcomes).numpy())

    def sureness(self, margins: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Return −|margin|: a model is the surer of a target, the nearer its value is."""
        return -np.abs(margins)

    def combine(self, answers: Tensor, how: str) -> Tensor:
        """Combine the sub-models' values, by any subset of shards.

        Args:
            answers: float [voters, n, 2]; voters ≥ 1.
            how: `mean` of the values, or `median`: the middle one, or the mean of the two in the middle.

        Returns:
            float [n, 4]: value, mean unit, lowest and highest value. Independent of the order of voters up to rounding.

        Raises:
            ValueError: No voters, or an unknown `how`.

        Example:
            >>> Regression().combine(torch.tensor([[[1.0, 2.0]], [[2.0, 2.0]], [[6.0, 2.0]]]), "median")
            tensor([[2., 2., 1., 6.]])
        """
        if answers.shape[0] == 0:
            raise ValueError("no shard is left to vote")
        values, units = answers[..., 0], answers[..., 1].mean(dim=0)
        if how == "mean":
            value = values.mean(dim=0)
        elif how == "median":
            ordered, middle = values.sort(dim=0).values, (len(values) - 1) // 2
            value = ordered[middle : len(values) // 2 + 1].mean(dim=0)
        else:
            raise ValueError(f"unknown aggregation {how!r}; known: mean, median")
        return torch.stack([value, units, values.amin(dim=0), values.amax(dim=0)], dim=1)

    def predictions(self, combined: npt.NDArray[np.float32], classes: Sequence[int | str]) -> list[dict[str, Any]]:
        """Return value and interval per row: the lowest and the highest value of the sub-models.

        Example:
            >>> Regression().predictions(np.array([[3.1, 1.0, 2.5, 4.0]], dtype=np.float32), ())
            [{'value': 3.1, 'interval': [2.5, 4.0]}]
        """
        # The shortest text of a float32 is what people expect to read; as a double it would have nine more digits.
        return [{"value": float(str(row[0])), "interval": [float(str(row[2])), float(str(row[3]))]} for row in combined]


def _residuals(answers: Tensor, outcomes: Tensor) -> Tensor:
    wide = answers.double()
    return (wide[:, 0] - outcomes.double()) / wide[:, 1]
