"""Whole numbers in place of features, by a public scale: sums of them are exact."""

from __future__ import annotations

import torch
from torch import Tensor


def quantised(x: Tensor, levels: int) -> Tensor:
    """Return the nearest integers to x · levels, ties to even; what is beyond −1..1 counts as −1 or 1.

    The scale is no function of any row: one that were taken from rows would have to be forgotten with them.

    Args:
        x: float32 [n, d], finite.
        levels: 1 to 32,767.

    Returns:
        int16 [n, d].

    Raises:
        ValueError: A number is not finite.

    Example:
        >>> quantised(torch.tensor([[0.5, -2.0, 0.1]]), 127).tolist()
        [[64, -127, 13]]
    """
    scaled = x.double() * levels  # exact: 24 bits by 15
    if not bool(torch.isfinite(scaled).all()):
        raise ValueError("a feature is not finite")
    return torch.round(scaled).clamp(-levels, levels).to(torch.int16)
