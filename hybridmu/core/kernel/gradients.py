"""Gradients of one batch: through autograd, or, for plain networks, by hand with the same kernels in the same order.

A small network's step is mostly bookkeeping; doing without the tape halves it. The result is bitwise what autograd
gives (tested over random shapes), so a checkpoint does not depend on which way made it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from hybridmu.core.kernel.model import Standardize
from hybridmu.core.tasks.base import CrossEntropyTask, Task

Gradients = Callable[[Tensor, Tensor], Sequence[Tensor | None]]
_MEAN, _NO_CLASS = 1, -100  # torch's codes for reduction="mean" and for "ignore no class"
_aten = torch.ops.aten


def gradients_of(model: nn.Module, task: Task, parameters: Sequence[Tensor]) -> Gradients:
    """Return a function (x, y) → gradient of the task's mean loss for every parameter.

    Args:
        model: In the mode in which it is to run.
        task: Supplies the loss.
        parameters: Those of `model` that are trained, in its order.

    Returns:
        The fastest function for this model; None stands for a parameter that the loss does not reach.
    """
    layers = plain_layers(model)
    own_loss = getattr(task.loss, "__func__", None) is not CrossEntropyTask.loss
    if layers and not own_loss and are_those_of(layers, parameters):
        return by_hand(layers)

    def through_autograd(x: Tensor, y: Tensor) -> Sequence[Tensor | None]:
        return torch.autograd.grad(task.loss(model(x), y), parameters, allow_unused=True)

    return through_autograd


def plain_layers(model: nn.Module) -> list[nn.Module] | None:
    """Return the layers of a network that is Linear, ReLU, Linear, …, Linear behind an optional scaler, or None."""
    layers: list[nn.Module] = []
    for module in model._modules.values():  # not children(), which names a module that is used twice only once
        assert module is not None
        layers += list(module) if type(module) is nn.Sequential else [module]
    if any(_hooked(module) for module in model.modules()):
        return None
    trained = layers[1:] if layers and isinstance(layers[0], Standardize) else layers
    kinds = [type(layer) for layer in trained]
    if len(kinds) % 2 == 0 or kinds != [nn.Linear, nn.ReLU] * (len(kinds) // 2) + [nn.Linear]:
        return None
    return layers if all(layer.bias is not None for layer in trained[::2]) else None


def are_those_of(layers: Sequence[nn.Module], parameters: Sequence[Tensor]) -> bool:
    """Return whether parameters are those of plain layers, each once and in order: none is frozen, none shared."""
    order = [p for layer in layers if isinstance(layer, nn.Linear) for p in (layer.weight, layer.bias)]
    return len(order) == len(parameters) and all(a is b for a, b in zip(order, parameters, strict=True))


def by_hand(layers: Sequence[nn.Module]) -> Gradients:
    """Return the gradient of the mean cross entropy of a plain network, from `plain_layers`."""
    scaler = layers[0] if isinstance(layers[0], Standardize) else None
    linear = [layer for layer in layers if isinstance(layer, nn.Linear)]
    weights = [layer.weight for layer in linear]
    biases = [layer.bias for layer in linear]
    last = len(linear) - 1
    one = torch.ones((), device=weights[0].device)

    @torch.no_grad()
    def gradients(x: Tensor, y: Tensor) -> Sequence[Tensor | None]:
        inputs = [x if scaler is None else scaler(x)]
        for weight, bias in zip(weights[:-1], biases[:-1], strict=True):
            inputs.append(torch.addmm(bias, inputs[-1], weight.t()).relu())
        logs = torch.log_softmax(torch.addmm(biases[last], inputs[last], weights[last].t()), dim=1)
        _, total = _aten.nll_loss_forward(logs, y, None, _MEAN, _NO_CLASS)
        delta = _aten.nll_loss_backward(one, logs, y, None, _MEAN, _NO_CLASS, total)
        delta = _aten._log_softmax_backward_data(delta, logs, 1, logs.dtype)
        found: list[Tensor | None] = [None] * (2 * len(linear))
        for number in range(last, -1, -1):
            found[2 * number] = delta.t().mm(inputs[number])
            found[2 * number + 1] = delta.sum(0)
            if number:
                delta = _aten.threshold_backward(delta.mm(weights[number]), inputs[number], 0)
        return found

    return gradients


def _hooked(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks or module._backward_hooks)
