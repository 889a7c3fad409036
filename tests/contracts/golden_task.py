"""Task whose arithmetic is exact in float32, so that its weights are the same bits on every processor.

Weights begin as small multiples of 1/8. The loss is linear in the answers and the features are small integers, so every
gradient is a sum of small multiples of one power of two: exact in any order. Learning rate and momentum are powers of
two, so no product is rounded, fused with a sum or not.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Linear(nn.Module):
    """One weight per feature and class."""

    def __init__(self, features: int, classes: int) -> None:
        super().__init__()
        start = torch.randint(-4, 5, (classes, features), dtype=torch.float32)
        self.weight = nn.Parameter(start / 8)

    def forward(self, x: Tensor) -> Tensor:
        """Return float32 [n, classes]."""
        return x @ self.weight.T


class ExactTask:
    """Pushes the answer of a row's class up, and the others down."""

    def model(self, features: int, classes: int) -> nn.Module:
        """Return an untrained model; its weights come from torch's generator."""
        return Linear(features, classes)

    def loss(self, logits: Tensor, y: Tensor) -> Tensor:
        """Return the mean over rows of half the other classes' logits less the own one's; 1/n has 12 bits."""
        signs = torch.full_like(logits, 0.5)
        signs[torch.arange(len(y)), y] = -1.0
        return (logits * signs).sum() * (4096 // len(y) / 4096)
