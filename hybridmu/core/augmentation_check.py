"""Check of a task's augmentation: a row may depend on itself and its own draws alone, and keeps its shape."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from hybridmu.core.tasks.augmentation import Augmented, Draws


@dataclass(frozen=True)
class Fault:
    """What an augmentation does, and what it should do.

    Attributes:
        what: Predicate of the task.
        expected: In its place.
        got: What was found.
    """

    what: str
    expected: str
    got: str = ""


def fault_of(task: Augmented, x: Tensor) -> Fault | None:
    """Return what is wrong with an augmentation, or None.

    Args:
        task: Its errors are passed on.
        x: float32 [n, features], n ≥ 2; copies are augmented.
    """
    words = np.arange(1, len(x) + 1, dtype=np.uint64)

    def augmented(rows: slice) -> Tensor:
        return task.augment(x[rows].clone(), Draws(words[rows]))

    whole = augmented(slice(None))
    if not isinstance(whole, Tensor) or whole.shape != x.shape or whole.dtype != x.dtype:
        got = f"{whole.dtype} {list(whole.shape)}" if isinstance(whole, Tensor) else type(whole).__name__
        return Fault("augments rows to something else", f"{x.dtype} {list(x.shape)}", got)
    if not bool(whole.isfinite().all()):
        return Fault("augments rows to numbers that are not finite", "finite ones, of finite ones")
    if not _same(augmented(slice(None)), whole):
        return Fault("augments the same rows otherwise a second time", "random numbers from `draws` alone")
    alone = torch.cat([augmented(slice(row, row + 1)) for row in range(len(x))])
    if not _same(alone, whole):
        return Fault(
            "augments a row otherwise beside other rows",
            "the same bits for a row and its draws, whichever rows are beside it",
        )
    return None


def _same(one: Tensor, two: Tensor) -> bool:
    return torch.equal(one.contiguous().view(torch.int32), two.contiguous().view(torch.int32))
