"""The live rows of one shard as tensors, in canonical order: by slice, then id digest.

The second half of this file is `revoked_keys.py`, which needs no tensor: in checkpoints' names both count as one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hybridmu.core.kernel.partition import Digests, order_words

Positions = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Rows:
    """Rows of one shard. An *outline* has keys alone: `x` and `y` are empty.

    Attributes:
        x: float32 [n, features].
        y: int64 [n], class numbers.
        slice: int32 [n], 1..R, not decreasing.
        ids: uint8 [n, 16], id digests.
        groups: uint8 [n, 16], group digests; zeros where a row has no group.
        content: uint8 [n, 16], digests of features and label.
    """

    x: Tensor
    y: Tensor
    slice: npt.NDArray[np.int32]
    ids: Digests
    groups: Digests
    content: Digests

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.slice)

    @property
    def words(self) -> npt.NDArray[np.uint64]:
        """Return the ordering word per row, uint64 [n]."""
        return order_words(self.ids)

    def upto(self, slice_: int) -> int:
        """Return how many rows lie in slices 1..slice_ (a prefix)."""
        return int(np.searchsorted(self.slice, slice_, side="right"))

    def counts(self, slices: int) -> tuple[int, ...]:
        """Return the rows per slice 1..slices."""
        return tuple(int(c) for c in np.bincount(self.slice, minlength=slices + 1)[1 : slices + 1])

    def where(self, mask: npt.NDArray[np.bool_]) -> Rows:
        """Return the rows where `mask` is true, order kept."""
        return self if mask.all() else self.take(np.flatnonzero(mask))

    def take(self, positions: Positions) -> Rows:
        """Return the rows at some positions, in that order."""
        outline, chosen = len(self.x) == 0, torch.from_numpy(positions)
        return Rows(
            self.x if outline else self.x[chosen],
            self.y if outline else self.y[chosen],
            self.slice[positions],
            self.ids[positions],
            self.groups[positions],
            self.content[positions],
        )

    def to(self, device: str) -> Rows:
        """Return the same rows with tensors on a device."""
        return Rows(self.x.to(device), self.y.to(device), self.slice, self.ids, self.groups, self.content)


def concatenate(parts: Sequence[Rows]) -> Rows:
    """Return the rows of several shards one after the other (slices are then no longer in order)."""
    return Rows(
        torch.cat([part.x for part in parts]),
        torch.cat([part.y for part in parts]),
        np.concatenate([part.slice for part in parts]),
        np.concatenate([part.ids for part in parts]),
        np.concatenate([part.groups for part in parts]),
        np.concatenate([part.content for part in parts]),
    )
