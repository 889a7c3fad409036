"""Making a sub-model, and its parameters and buffers as a plain dictionary."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from hybridmu.core.kernel.partition import derive
from hybridmu.core.kernel.rows import Rows
from hybridmu.core.tasks.base import Task
from hybridmu.errors import ConfigError

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
        The module, on the CPU, in training mode, every tensor in memory of its own. The global generator is left as it
        was.

    Raises:
        ConfigError: The task made no module.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(f"init/{seed}/{shard}") >> 1)
        network = task.model(features, classes)
    if not isinstance(network, nn.Module):
        raise ConfigError(
            "the task's method `model` returned no module",
            expected="a torch.nn.Module",
            got=f"the class {network.__name__}" if isinstance(network, type) else type(network).__name__,
            remedy="end it with `return` and a module that is made there",
        )
    _spread(network)
    return SubModel(*([Standardize(features)] if standardize else []), network)


def _spread(network: nn.Module) -> None:
    """Give tensors whose elements share memory (as after `expand`) memory of their own: none could be loaded."""
    for tensor in (*network.parameters(), *network.buffers()):
        if not is_lazy(tensor) and tensor.layout == torch.strided and _overlaps(tensor):
            tensor.data = tensor.detach().contiguous().clone()


def _overlaps(tensor: Tensor) -> bool:
    """Return whether two elements of a tensor may be one in memory."""
    reach = 0
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size > 1:
            if stride <= reach:
                return True
            reach += stride * (size - 1)
    return False


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
