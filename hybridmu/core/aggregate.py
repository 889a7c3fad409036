"""Sub-models to one prediction, by any subset of shards (arXiv 1912.03817, §4.3)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def aggregate(logits: Tensor, how: str) -> Tensor:
    """Combine the sub-models' logits into class probabilities.

    Args:
        logits: float32 [voters, batch, classes]; voters ≥ 1.
        how: `mean` of the softmax vectors, or `vote`: the share of voters whose first maximum is the class.

    Returns:
        float32 [batch, classes], rows sum to 1. Independent of the order of voters up to rounding.

    Raises:
        ValueError: No voters, or an unknown `how`.

    Example:
        >>> aggregate(torch.tensor([[[2.0, 0.0]], [[0.0, 1.0]], [[3.0, 0.0]]]), "vote")
        tensor([[0.6667, 0.3333]])
    """
    if logits.shape[0] == 0:
        raise ValueError("no shard is left to vote")
    if how == "mean":
        return torch.softmax(logits, dim=-1).mean(dim=0)
    if how == "vote":
        return functional.one_hot(logits.argmax(dim=-1), logits.shape[-1]).float().mean(dim=0)
    raise ValueError(f"unknown aggregation {how!r}; known: mean, vote")
