"""Work of a batch shared by processes in two ways; both give the bits of one process (`core/kernel/microbatches.py`).

`ddp` holds all of the model in every process; `fsdp2` divides parameters, gradients and the optimizer's state. Both
move gradients while they are computed. What either adds up, and in which order, depends on the transport and on how
many take part; here it is replaced by the sum of the parts in their order.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.fsdp._fully_shard._fsdp_api import ReduceScatter  # named by FSDP2's public methods alone
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from hybridmu.core.kernel.microbatches import BatchGradients, Loss, ahead, following, summed, weighed
from hybridmu.core.kernel.training import Recipe, loss_of, trained
from hybridmu.core.tasks.base import Task


@contextmanager
def ddp(model: nn.Module, task: Task, recipe: Recipe) -> Iterator[tuple[Sequence[Tensor], BatchGradients]]:
    """Open a model of which every process holds all.

    Args:
        model: Changed in place, alike in every process.
        task: Supplies the loss.
        recipe: Hyper-parameters.

    Yields:
        The trained parameters, and (x, y, rate) → gradients of a batch that every process has.
    """
    parameters = trained(model)
    device = parameters[0].device
    shared = DistributedDataParallel(
        model,
        device_ids=[device] if device.type == "cuda" else None,
        forward_sync_buffers=False,
        find_unused_parameters=True,
    )
    own: dict[int, Tensor] = {}

    def in_order(_, bucket):  # type: ignore[no-untyped-def]  # torch compares annotations by identity
        if recipe.extrapolation:
            own.update({id(p): g.clone() for p, g in zip(bucket.parameters(), bucket.gradients(), strict=True)})
        mine = bucket.buffer()
        every = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
        return dist.all_gather(every, mine, async_op=True).get_future().then(lambda _: summed(every))

    shared.register_comm_hook(None, in_order)
    loss = loss_of(shared, task, recipe, device.type)

    def gradients(x: Tensor, y: Tensor, rate: float) -> Sequence[Tensor | None]:
        last = [own.get(id(parameter)) for parameter in parameters] if own else []
        with ahead(parameters, last, recipe.extrapolation * rate * dist.get_world_size()):
            _backward(loss, parameters, x, y)
        return [parameter.grad for parameter in parameters]

    yield parameters, gradients


@contextmanager
def fsdp2(model: nn.Module, task: Task, recipe: Recipe) -> Iterator[tuple[Sequence[Tensor], BatchGradients]]:
    """Open a model that is divided among the processes, layer by layer, until the block ends.

    Args:
        model: Waits in the memory of the host, and takes over what was trained.
        task: Supplies the loss.
        recipe: Hyper-parameters.

    Yields:
        This process's pieces of the trained parameters, and (x, y, rate) → their gradients.
    """
    device = next(model.parameters()).device
    divided = _divided(copy.deepcopy(model.cpu()), device)
    parameters = trained(divided)
    loss = loss_of(divided, task, recipe, device.type)

    def gradients(x: Tensor, y: Tensor, _: float) -> Sequence[Tensor | None]:
        _backward(loss, parameters, x, y)
        return [None if parameter.grad is None else _piece(parameter.grad) for parameter in parameters]

    yield [_piece(parameter) for parameter in parameters], gradients
    with torch.no_grad():
        for mine, found in zip(
            chain(model.parameters(), model.buffers()), chain(divided.parameters(), divided.buffers()), strict=True
        ):
            mine.copy_(found.full_tensor() if isinstance(found, DTensor) else found)
    model.to(device)


def _divided(model: nn.Module, device: torch.device) -> nn.Module:
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    tied = len(list(model.parameters())) < len(list(model.named_parameters(remove_duplicate=False)))
    # Gathered at once: an element of a list or sequence of layers; all of the model where two share a parameter.
    lists = [m for m in model.modules() if isinstance(m, nn.ModuleList | nn.Sequential)] if not tied else []
    own = [layer for found in lists for layer in found.children() if list(layer.parameters())]
    layers = {layer for layer in own if not isinstance(layer, nn.ModuleList)}  # a list is never called
    # What is inside of a layer is divided before it.
    for layer in [*(m for m in reversed(list(model.modules())) if m in layers), model]:
        found = fully_shard(layer, mesh=mesh)
        assert isinstance(found, FSDPModule)
        found.set_force_sum_reduction_for_comms(True)
        found.set_gradient_divide_factor(1.0)
        found.set_custom_reduce_scatter(_InOrder())
    return model


class _InOrder(ReduceScatter):
    """A reduce-scatter that adds what the processes have in their order."""

    def allocate(self, size: Sequence[int | torch.SymInt], *, dtype: torch.dtype, device: torch.device) -> Tensor:
        return torch.empty(*size, dtype=dtype, device=device)

    def __call__(
        self, output_tensor: Tensor, input_tensor: Tensor, group: dist.ProcessGroup, op: Any, async_op: bool = False
    ) -> None:
        every = torch.empty_like(input_tensor)
        dist.all_to_all_single(every, input_tensor, group=group)
        total = summed(list(every.chunk(group.size())))
        assert total is not None
        output_tensor.copy_(total)


def _piece(tensor: Tensor) -> Tensor:
    assert isinstance(tensor, DTensor)
    local: Tensor = tensor.to_local()
    return local.detach()


def _backward(loss: Loss, parameters: Sequence[Tensor], x: Tensor, y: Tensor) -> None:
    """Leave the sum of all processes' gradients at the parameters, this process computing its own part."""
    seed = torch.initial_seed()
    for parameter in parameters:
        parameter.grad = None
    weighed(loss, x, y, dist.get_rank(), dist.get_world_size()).backward()  # type: ignore[no-untyped-call]
    torch.manual_seed(following(seed))
