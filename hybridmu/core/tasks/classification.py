"""Classification: what the answers of sub-models mean, how right they are, and how they become one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from hybridmu.core.tasks.base import Task
from hybridmu.core.tasks.judgement import Judgement
from hybridmu.errors import ConfigError


class Classification(Judgement):
    """Meaning of logits, one per class. Stateless; a task's `judgement` may be a derived one."""

    kind: ClassVar[str] = "classification"
    figure: ClassVar[str] = "accuracy"
    outcome: ClassVar[torch.dtype] = torch.int64

    def outputs(self, classes: int) -> int:
        """Return one per class."""
        return classes

    def width(self, classes: int) -> int:
        """Return one per class."""
        return classes

    def combined(self, classes: int) -> int:
        """Return one per class."""
        return classes

    def metric(self, logits: Tensor, labels: Tensor) -> float:
        """Return the accuracy: the share of rows whose first maximum is the label; the larger, the better.

        Args:
            logits: float [n, classes]; of one sub-model, or what `combine` made of several.
            labels: int64 [n].

        Returns:
            In [0, 1]; NaN without rows.

        Example:
            >>> Classification().metric(torch.tensor([[2.0, 0.0], [1.0, 0.0]]), torch.tensor([0, 1]))
            0.5
        """
        return float((logits.argmax(dim=1) == labels).float().mean())

    def margins(self, logits: Tensor, labels: Tensor) -> npt.NDArray[np.float64]:
        """Return z_y − log Σ_{k≠y} exp z_k per row: the log-odds of the right class (what KLoM and U-LiRA look at).

        Args:
            logits: float [n, classes], at least two classes.
            labels: int64 [n].

        Returns:
            float64 [n].

        Example:
            >>> Classification().margins(torch.tensor([[2.0, 0.5]]), torch.tensor([0])).tolist()
            [1.5]
        """
        wide = logits.double()
        own = wide.gather(1, labels[:, None])[:, 0]
        others = wide.scatter(1, labels[:, None], -math.inf).logsumexp(dim=1)
        return np.asarray((own - others).numpy())

    def sureness(self, margins: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Return the margins: log-odds of the right class."""
        return margins

    def combine(self, logits: Tensor, how: str) -> Tensor:
        """Combine the sub-models' logits into class probabilities, by any subset of shards (arXiv 1912.03817, §4.3).

        Args:
            logits: float32 [voters, batch, classes]; voters ≥ 1.
            how: `mean` of the softmax vectors, or `vote`: the share of voters whose first maximum is the class.

        Returns:
            float32 [batch, classes], rows sum to 1. Independent of the order of voters up to rounding.

        Raises:
            ValueError: No voters, or an unknown `how`.

        Example:
            >>> Classification().combine(torch.tensor([[[2.0, 0.0]], [[0.0, 1.0]], [[3.0, 0.0]]]), "vote")
            tensor([[0.6667, 0.3333]])
        """
        if logits.shape[0] == 0:
            raise ValueError("no shard is left to vote")
        if how == "mean":
            return torch.softmax(logits, dim=-1).mean(dim=0)
        if how == "vote":
            return functional.one_hot(logits.argmax(dim=-1), logits.shape[-1]).float().mean(dim=0)
        raise ValueError(f"unknown aggregation {how!r}; known: mean, vote")

    def predictions(self, combined: npt.NDArray[np.float32], classes: Sequence[int | str]) -> list[dict[str, Any]]:
        """Return the most probable class and the probability of each, per row."""
        return [
            {
                "label": classes[int(row.argmax())],
                "probabilities": {str(name): float(p) for name, p in zip(classes, row, strict=True)},
            }
            for row in combined
        ]


def judgement_of(task: Task) -> Judgement:
    """Return what the answers of a task's sub-models mean.

    Args:
        task: Says so as its attribute `judgement`; where it has none they are plain logits.

    Raises:
        ConfigError: The attribute is something else.
    """
    found = getattr(task, "judgement", None)
    if found is None:
        return Classification()
    if not isinstance(found, Judgement):
        raise ConfigError(
            f"the judgement of task {type(task).__name__} is none",
            expected="an instance of a class derived from hybridmu.task.Classification or hybridmu.task.Regression",
            got=type(found).__name__,
        )
    return found
