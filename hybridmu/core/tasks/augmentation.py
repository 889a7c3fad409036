"""Augmentation: what a task says of rows that are to look otherwise at every visit of training.

A deletion must change nothing for the rows that stay. So what is drawn for a visit depends on the seed, the shard, the
slice, the epoch and the row's own id alone, never on the rows beside it, the size of batches or the order of visits.
Drawn numbers are integers, and fractions of 24 bits, from 64-bit words: the same on any machine and device.

This file shapes weights: its syntax tree is in the keys of the checkpoints of augmented systems
(`hybridmu/code_digest.py`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hybridmu.core.splitmix import STEP, Words, mixed
from hybridmu.core.tasks.base import Task
from hybridmu.core.tasks.regression_tasks import Regressor
from hybridmu.errors import ConfigError


class Draws:
    """Random numbers of one visit each of several rows; every call draws further ones.

    Args:
        words: One 64-bit word per row and visit, uint64 [n].
        device: Of the tensors.

    Example:
        >>> draws = Draws(np.arange(3, dtype=np.uint64))
        >>> draws.below(10).tolist(), draws.below(10).tolist()
        ([8, 5, 5], [4, 7, 7])
    """

    def __init__(self, words: Words, device: torch.device | str = "cpu") -> None:
        self._words = words
        self._device = device
        self._calls = 0

    def below(self, bound: int) -> Tensor:
        """Return whole numbers 0..bound − 1, int64 [n], each as likely as the others to 1 in 2^32 / bound.

        Args:
            bound: 1 to 2^31.
        """
        high = self._next() >> np.uint64(32)
        return torch.from_numpy(((high * np.uint64(bound)) >> np.uint64(32)).astype(np.int64)).to(self._device)

    def uniform(self) -> Tensor:
        """Return multiples of 2^-24 in [0, 1), float32 [n]."""
        top = (self._next() >> np.uint64(40)).astype(np.float32)
        return torch.from_numpy(top * np.float32(2.0**-24)).to(self._device)

    def _next(self) -> Words:
        self._calls += 1
        with np.errstate(over="ignore"):
            return mixed(self._words + STEP * np.uint64(self._calls))


class Augmented(ABC):
    """Base of tasks whose training rows are changed at every visit. Evaluation and answers take rows as they are."""

    @abstractmethod
    def augment(self, x: Tensor, draws: Draws) -> Tensor:
        """Return rows as training is to see them this time.

        A row may depend on itself and its own draws alone.

        Args:
            x: float32 [n, features], on the device that trains; it may be changed in place.
            draws: Where all random numbers come from.

        Returns:
            The same shape, dtype and device.
        """


class AugmentedRegressor(Augmented, Regressor):
    """A built-in augmented network that learns numbers.

    Args:
        factory: As of `Regressor`; a class derived from `Augmented`.
        options: As of `Regressor`.

    Raises:
        ConfigError: They are about classes.
    """

    def __init__(self, factory: Callable[..., Task], **options: Any) -> None:
        if "label_smoothing" in options:
            raise ConfigError(
                "task.label_smoothing belongs to classes",
                got="a task that learns numbers (data.target)",
                remedy="leave it out",
            )
        super().__init__(factory, **options)
        self._rows: Augmented = self._inner  # type: ignore[assignment]  # the registry gives it such a factory

    def augment(self, x: Tensor, draws: Draws) -> Tensor:
        """Return what the network's own task makes of the rows."""
        return self._rows.augment(x, draws)
