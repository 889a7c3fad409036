"""Sub-models of adapters: what is trained, and nothing of the backbone that it is trained on."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hybridmu.core.adapters.frozen_backbone import Skeleton
from hybridmu.core.adapters.token_codes import digits_of, to_numbers


class AdapterModel(nn.Module):
    """An adapter and a linear head over the mean vector of a text's tokens, logits [batch, classes].

    Its parameters, and so its state, are those that are trained: some kilobytes. The last features of a row are its
    tokens (`token_codes.py`); what stands before them goes to the head as it is.

    Args:
        skeleton: The backbone, with places for the adapter; shared with other sub-models.
        features: Width of a row.
        length: Tokens of a row.
        classes: Number of classes.
    """

    def __init__(self, skeleton: Skeleton, features: int, length: int, classes: int) -> None:
        super().__init__()
        self._skeleton = skeleton
        self._digits = digits_of(skeleton.shape.vocabulary)
        self._others = features - length * self._digits
        # A dot would be a path to torch.
        self.adapter = nn.ParameterDict({_stored(name): nn.Parameter(t) for name, t in skeleton.initial().items()})
        self.head = nn.Linear(skeleton.shape.width + self._others, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits [batch, classes] from float32 [batch, features]."""
        numbers = to_numbers(x[:, self._others :], self._digits)
        adapter = {_called(name): tensor for name, tensor in self.adapter.items()}
        pooled = self._skeleton.pooled(numbers, adapter, training=self.training)
        logits: Tensor = self.head(torch.cat([x[:, : self._others], pooled], dim=1))
        return logits


def _stored(name: str) -> str:
    return name.replace(".", "/")


def _called(name: str) -> str:
    return name.replace("/", ".")
