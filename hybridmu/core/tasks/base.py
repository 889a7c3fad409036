"""Task: the part that a user brings, a model factory and a loss."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor, nn
from torch.nn import functional


class Task(Protocol):
    """A classification problem: how to make an untrained sub-model, and what it minimises."""

    def model(self, features: int, classes: int) -> nn.Module:
        """Return a new module mapping float32 [batch, features] to logits [batch, classes].

        Initialisation draws from torch's global generator, which is seeded by (seed, shard).
        """
        ...

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the *mean* loss over the batch; `labels` is int64 [batch]."""
        ...


class CrossEntropyTask:
    """Base of the built-in tasks: mean cross entropy."""

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the mean cross entropy of logits [batch, classes] against int64 [batch]."""
        return functional.cross_entropy(logits, labels)
