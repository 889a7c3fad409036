"""Measuring forgetting, two-sided, against an oracle trained without the rows."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hybridmu.core.model import SubModel
from hybridmu.core.rows import Rows
from hybridmu.task import Task

_CHUNK = 2048


def differing_tensors(ours: Mapping[str, Tensor] | None, oracle: Mapping[str, Tensor] | None) -> tuple[str, ...]:
    """Return the names of parameters and buffers that are not bitwise equal; empty means exact.

    Shape, dtype and every byte count: −0.0 differs from 0.0, and a NaN equals the same NaN.

    Args:
        ours: State of a sub-model, or None when its shard is empty.
        oracle: State of the from-scratch run, or None.

    Returns:
        Sorted names; a name missing on one side is included.
    """
    ours, oracle = ours or {}, oracle or {}
    return tuple(sorted(name for name in {*ours, *oracle} if not _same_bits(ours.get(name), oracle.get(name))))


def _same_bits(a: Tensor | None, b: Tensor | None) -> bool:
    if a is None or b is None or a.dtype != b.dtype or a.shape != b.shape:
        return False
    return a.contiguous().numpy().tobytes() == b.contiguous().numpy().tobytes()


@torch.no_grad()
def losses(model: SubModel, rows: Rows, task: Task) -> npt.NDArray[np.float64]:
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
def logits_of(model: SubModel, rows: Rows, classes: int) -> Tensor:
    """Return logits, float32 [n, classes], in evaluation mode."""
    model.eval()
    parts = [model(x) for x in torch.split(rows.x, _CHUNK)] if len(rows) else []
    return torch.cat(parts) if parts else torch.empty(0, classes)


def forget_loss_gap(ours: SubModel, oracle: SubModel, revoked: Rows, task: Task) -> float:
    """Return the mean loss on the revoked rows minus the oracle's.

    Zero is ideal; negative: still remembered; positive: over-forgotten. NaN when nothing was revoked.
    """
    return mean_loss(ours, revoked, task) - mean_loss(oracle, revoked, task)


def attack_auc(member_losses: npt.NDArray[np.float64], other_losses: npt.NDArray[np.float64]) -> float:
    """Return the AUC of a loss-threshold membership attack (Yeom et al. 2018).

    A sanity figure: 0.5 means that revoked rows look like rows never seen.

    Args:
        member_losses: Losses of the rows that were members, [n].
        other_losses: Losses of rows never trained on, [m].

    Returns:
        Probability that a member's loss is below another row's, ties counted half; NaN if either is empty.

    Example:
        >>> attack_auc(np.array([0.1, 0.2]), np.array([0.3, 0.4]))
        1.0
    """
    if len(member_losses) == 0 or len(other_losses) == 0:
        return float("nan")
    ordered = np.sort(member_losses)
    above = np.searchsorted(ordered, other_losses, side="left") + np.searchsorted(ordered, other_losses, side="right")
    return float(above.mean() / (2 * len(ordered)))
