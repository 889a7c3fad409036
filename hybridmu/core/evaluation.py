"""Evaluation on rows: losses and answers of a sub-model, combined answers of several."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hybridmu.core.kernel.model import SubModel
from hybridmu.core.kernel.rows import Rows
from hybridmu.core.tasks.base import Task
from hybridmu.core.tasks.judgement import Judgement

F64 = npt.NDArray[np.float64]
_CHUNK = 2048


@torch.no_grad()
def losses(model: SubModel, rows: Rows, task: Task) -> F64:
    """Return the loss of every row, float64 [n], in evaluation mode.

    A task gives the mean loss of a batch, so the forward pass is batched and the loss is asked row by row.
    """
    model.eval()
    found: list[float] = []
    for x, y in zip(torch.split(rows.x, _CHUNK), torch.split(rows.y, _CHUNK), strict=True):
        logits = model(x)
        found += [float(task.loss(logits[i : i + 1], y[i : i + 1])) for i in range(len(y))]
    return np.asarray(found)


@torch.no_grad()
def mean_loss(model: SubModel, rows: Rows, task: Task) -> float:
    """Return the mean loss over rows, in evaluation mode; NaN without rows."""
    if len(rows) == 0:
        return float("nan")
    model.eval()
    chunks = zip(torch.split(rows.x, _CHUNK), torch.split(rows.y, _CHUNK), strict=True)
    return sum(float(task.loss(model(x), y)) * len(y) for x, y in chunks) / len(rows)


@torch.no_grad()
def logits_of(model: SubModel, rows: Rows, width: int) -> Tensor:
    """Return answers, float32 [n, width], in evaluation mode."""
    model.eval()
    parts = [model(x) for x in torch.split(rows.x, _CHUNK)] if len(rows) else []
    return torch.cat(parts) if parts else torch.empty(0, width)


@torch.no_grad()
def combined_of(judgement: Judgement, logits: Sequence[Tensor], how: str) -> F64:
    """Return the combined answers of some sub-models, some rows at a time.

    Args:
        judgement: How answers combine.
        logits: Of each sub-model, float [n, width]; at least one.
        how: One of the ways of `serving.aggregation`.

    Returns:
        float64, as `Judgement.combine`: of classes, probabilities.
    """
    chunks = zip(*(torch.split(one, _CHUNK) for one in logits), strict=True)
    parts = [judgement.combine(torch.stack(chunk), how).double() for chunk in chunks]
    return np.asarray(torch.cat(parts).numpy()) if parts else np.empty((0, logits[0].shape[1]))
