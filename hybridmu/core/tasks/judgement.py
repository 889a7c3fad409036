"""Judgement: what the answers of sub-models mean, how right they are, and how they become one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor


class Judgement(ABC):
    """Meaning of answers, one subclass per kind of task. Stateless.

    It judges weights and shapes none, so it is apart from the task's model and loss, whose code every checkpoint names.

    Attributes:
        kind: `classification` or `regression`; a metric is for one of them (`core/metrics.py`).
        figure: Name of what `metric` gives, in reports.
        outcome: Type of what rows are learned by.
    """

    kind: ClassVar[str]
    figure: ClassVar[str]
    outcome: ClassVar[torch.dtype]

    @abstractmethod
    def outputs(self, classes: int) -> int:
        """Return how many outputs a task's network is asked for.

        Args:
            classes: Length of the class list.
        """

    @abstractmethod
    def width(self, classes: int) -> int:
        """Return how many numbers a sub-model answers with per row.

        Args:
            classes: Length of the class list.
        """

    @abstractmethod
    def combined(self, classes: int) -> int:
        """Return how many numbers `combine` gives per row.

        Args:
            classes: Length of the class list.
        """

    @abstractmethod
    def metric(self, answers: Tensor, outcomes: Tensor) -> float:
        """Return how right answers are; the larger, the better.

        Args:
            answers: float [n, width] of one sub-model, or what `combine` made of several.
            outcomes: [n], what is right.
        """

    @abstractmethod
    def margins(self, answers: Tensor, outcomes: Tensor) -> npt.NDArray[np.float64]:
        """Return one number per row whose distribution over many models tells whether they saw the row, float64 [n].

        Args:
            answers: float [n, width] of one sub-model.
            outcomes: [n], what is right.
        """

    @abstractmethod
    def sureness(self, margins: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Return how sure margins are of what is right, in their shape; the larger, the surer."""

    @abstractmethod
    def combine(self, answers: Tensor, how: str) -> Tensor:
        """Return one answer per row from those of any subset of shards.

        Args:
            answers: float [voters, n, width]; voters ≥ 1.
            how: One of the ways of `serving.aggregation`.

        Returns:
            float [n, combined].
        """

    @abstractmethod
    def predictions(self, combined: npt.NDArray[np.float32], classes: Sequence[int | str]) -> list[dict[str, Any]]:
        """Return combined answers as JSON-able predictions, one per row.

        Args:
            combined: float32 [n, combined].
            classes: Class list of the system.
        """
