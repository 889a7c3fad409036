"""Rows that a task changes at every visit of training (`core/tasks/augmentation.py` says by what).

The kernel's loop gathers every row of a slice's prefix once per epoch. The features of `AugmentedRows` know which slice
is being learned and how often each row was gathered since it began, and with it the epoch: so the loop, and with it the
checkpoints of all systems that augment nothing, are what they were (ADR 0015).

This file shapes weights, as `core/tasks/augmentation.py` does.
"""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import numpy as np
import torch
from torch import Tensor

from hybridmu.core.kernel.model import State
from hybridmu.core.kernel.partition import derive
from hybridmu.core.kernel.rows import Rows
from hybridmu.core.learners.learner import Fit
from hybridmu.core.splitmix import mixed
from hybridmu.core.tasks.augmentation import Augmented, Draws


class AugmentedFeatures:
    """The features of rows, float32 [n, features]; asked for by their positions, as training does, they are augmented.

    Args:
        rows: The rows as they are.
        task: What changes them.
        seed: Seed of the system.
        shard: Shard number.
    """

    def __init__(self, rows: Rows, task: Augmented, seed: int, shard: int) -> None:
        self._x, self._words, self._task = rows.x, rows.words, task
        self._label = f"augment/{seed}/{shard}"
        self.begin(0)

    def begin(self, slice_: int) -> None:
        """Let training of a slice begin.

        Args:
            slice_: 1..R; 0 for what is trained outside of all slices.
        """
        self._slice = slice_
        self._visits = np.zeros(len(self._words), np.int64)

    @property
    def device(self) -> torch.device:
        """Return where the features are."""
        return self._x.device

    @property
    def is_cuda(self) -> bool:
        """Return whether that is a GPU."""
        return self._x.is_cuda

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self._x)

    def __getitem__(self, asked: slice | Tensor) -> Tensor:
        """Return rows as they are (a slice: a scaler is fitted on them), or one visit of each (int64 positions)."""
        if isinstance(asked, slice):
            return self._x[asked]
        positions = asked.cpu().numpy()
        epochs = self._visits[positions]
        self._visits[positions] += 1
        different, which = np.unique(epochs, return_inverse=True)
        salts = np.array([derive(f"{self._label}/{self._slice}/{epoch}") for epoch in different], np.uint64)
        draws = Draws(mixed(self._words[positions] ^ salts[which]), self._x.device)
        return self._task.augment(self._x[asked], draws)


def augmented_rows(rows: Rows, task: object, seed: int, shard: int) -> Rows:
    """Return rows that change at every visit, outside of all slices.

    Args:
        rows: Live rows of a shard.
        task: The rows stay as they are unless it is `Augmented`.
        seed: Seed of the system.
        shard: Shard number.
    """
    if not isinstance(task, Augmented):
        return rows
    return replace(rows, x=cast(Tensor, AugmentedFeatures(rows, task, seed, shard)))


def augmented(job: Fit) -> Fit:
    """Return a job whose rows change at every visit, from whichever checkpoint it goes on.

    Args:
        job: Of any task; with one that is not `Augmented`, nothing is changed.
    """
    if not isinstance(job.task, Augmented):
        return job
    features = AugmentedFeatures(job.rows, job.task, job.recipe.seed, job.shard)
    features.begin(1)

    def checkpoint(slice_: int) -> State | None:
        state = job.checkpoint(slice_)
        if state is not None:
            features.begin(slice_ + 1)
        return state

    def save(slice_: int, state: State, visits: int) -> None:
        job.save(slice_, state, visits)
        features.begin(slice_ + 1)

    return replace(job, rows=replace(job.rows, x=cast(Tensor, features)), checkpoint=checkpoint, save=save)
