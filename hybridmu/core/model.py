"""Making a sub-model, and its parameters and buffers as a plain dictionary."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from hybridmu.core.partition import derive
from hybridmu.core.rows import Rows
from hybridmu.task import Task

State = dict[str, Tensor]


class Standardize(nn.Module):
    """(x − mean) / deviation per feature, fitted once on the live rows of a shard's slice 1.

    Args:
        features: Number of features.
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        self.mean: Tensor
        self.deviation: Tensor
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("deviation", torch.ones(features))

    def fit(self, x: Tensor) -> None:
        """Set the buffers from float32 [n, features]; identity when n is 0; constant features keep deviation 1."""
        if len(x):
            wide = x.double()
            deviation = wide.std(dim=0, correction=0)
            self.mean.copy_(wide.mean(dim=0))
            self.deviation.copy_(torch.where(deviation > 0, deviation, 1.0))

    def forward(self, x: Tensor) -> Tensor:
        """Return the standardized batch, same shape."""
        return (x - self.mean) / self.deviation


class SubModel(nn.Sequential):
    """A task's network, behind `Standardize` if asked for; logits [batch, classes] from float32 [batch, features]."""


def initial_model(task: Task, *, features: int, classes: int, standardize: bool, seed: int, shard: int) -> SubModel:
    """Return the untrained sub-model of a shard; its weights depend on (seed, shard) only.

    Args:
        task: Model factory.
        features: Encoded width.
        classes: Number of classes.
        standardize: Put a `Standardize` in front.
        seed: Seed of the system.
        shard: Shard number.

    Returns:
        The module, on the CPU, in training mode. The global generator is left as it was.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(f"init/{seed}/{shard}") >> 1)
        network = task.model(features, classes)
    return SubModel(*([Standardize(features)] if standardize else []), network)


def fit_standardize(model: SubModel, rows: Rows) -> None:
    """Fit the scaler, if there is one, on the rows of slice 1."""
    first = model[0] if len(model) else None
    if isinstance(first, Standardize):
        first.fit(rows.x[: rows.upto(1)])


def finite(state: Mapping[str, Tensor]) -> bool:
    """Return whether every parameter and buffer holds numbers only."""
    return all(bool(torch.isfinite(tensor).all()) for tensor in state.values())


def state_of(model: nn.Module) -> State:
    """Return a detached CPU copy of every parameter and buffer."""
    return {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}
