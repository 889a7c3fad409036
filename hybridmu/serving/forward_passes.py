"""Three ways to run all sub-models on one batch, and the choice of the fastest by measuring.

Answers agree up to rounding; exactness is a property of weights, not of this path.
"""

from __future__ import annotations

import copy
import threading
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from hybridmu.core.kernel.gradients import plain_layers
from hybridmu.core.kernel.model import Standardize, SubModel
from hybridmu.user_code import contained

Forward = Callable[[Tensor], Tensor]
_TRIALS = 5
# A sample that takes so long is arithmetic; other ways spare calls, and trying them would hold a swap up.
_LONG_SECONDS = 0.25


def loop(models: Sequence[SubModel]) -> Forward:
    """Return x [batch, features] → logits [voters, batch, classes], one model after the other."""

    def run(x: Tensor) -> Tensor:
        with contained():
            return torch.stack([model(x) for model in models])

    return run


def vmapped(models: Sequence[SubModel]) -> Forward | None:
    """Return the same through `torch.vmap` over stacked parameters; None when a module does not support it."""
    parameters, buffers = torch.func.stack_module_state(list(models))
    # Calling a module with other weights puts them into it for a moment; another thread may be answering with this one.
    skeleton, alone = copy.deepcopy(models[0]).to("meta"), threading.Lock()

    def one(p: dict[str, Tensor], b: dict[str, Tensor], x: Tensor) -> Tensor:
        logits: Tensor = torch.func.functional_call(skeleton, (p, b), (x,))
        return logits

    batched = torch.vmap(one, in_dims=(0, 0, None))

    def run(x: Tensor) -> Tensor:
        with alone, contained():
            logits: Tensor = batched(parameters, buffers, x)
        return logits

    return run


def batched_matmul(models: Sequence[SubModel]) -> Forward | None:
    """Return the same by one `baddbmm` per layer; None unless the network is only Linear and ReLU."""
    layers = [plain_layers(model) for model in models]
    if any(layer is None for layer in layers):
        return None
    steps: list[tuple[str, tuple[Tensor, ...]]] = []
    for same in zip(*[layer for layer in layers if layer is not None], strict=True):
        first = same[0]
        if isinstance(first, nn.Linear):
            weight = torch.stack([module.weight.detach().t() for module in same]).contiguous()
            bias = torch.stack([module.bias.detach() for module in same])[:, None, :]
            steps.append(("linear", (weight, bias)))
        elif isinstance(first, Standardize):
            steps.append((
                "scale",
                (torch.stack([m.mean for m in same])[:, None], torch.stack([m.deviation for m in same])[:, None]),
            ))
        else:
            steps.append(("relu", ()))
    voters = len(models)

    def run(x: Tensor) -> Tensor:
        h = x.expand(voters, *x.shape)
        for kind, tensors in steps:
            if kind == "linear":
                h = torch.baddbmm(tensors[1], h, tensors[0])
            elif kind == "scale":
                h = (h - tensors[0]) / tensors[1]
            else:
                h = h.relu()
        return h

    return run


@torch.no_grad()
def fastest(models: Sequence[SubModel], sample: Tensor) -> tuple[str, Forward, dict[str, float]]:
    """Measure every way that works on a sample batch.

    Args:
        models: At least one sub-model, in evaluation mode.
        sample: float32 [batch, features] of the size that is usual.

    Returns:
        (name, function, best seconds of each way); none where the models can't answer the sample. Of models for which
        the sample is much work, one after the other is the only way that is tried.
    """
    ways: dict[str, Callable[[Sequence[SubModel]], Forward | None]] = {
        "vmap": vmapped,
        "batched-matmul": batched_matmul,
    }
    plain = loop(models)
    started = time.perf_counter()
    try:
        reference = plain(sample)
    except Exception:  # this sample is not for it; real rows may be
        return "loop", plain, {}
    if (first := time.perf_counter() - started) > _LONG_SECONDS and (first := _time(plain, sample)) > _LONG_SECONDS:
        return "loop", plain, {"loop": first}  # twice: the first call of a process loads libraries
    found: dict[str, Forward] = {"loop": plain}
    seconds: dict[str, float] = {"loop": min(_time(plain, sample) for _ in range(_TRIALS))}
    for name, make in ways.items():
        try:
            forward = make(models)
            if forward is None or not torch.allclose(forward(sample), reference, atol=1e-4, rtol=1e-4):
                continue
            seconds[name] = min(_time(forward, sample) for _ in range(_TRIALS))
        except Exception:  # the user's module may raise anything where functional transforms can't handle it
            continue
        found[name] = _or(forward, plain)
    best = min(found, key=lambda name: seconds[name])
    return best, found[best], seconds


def _or(forward: Forward, plain: Forward) -> Forward:
    """Return a way that gives what the plain one says where it fails: the sample does not show all that rows can be."""

    def run(x: Tensor) -> Tensor:
        try:
            return forward(x)
        except Exception:
            return plain(x)

    return run


def _time(forward: Forward, sample: Tensor) -> float:
    started = time.perf_counter()
    forward(sample)
    return time.perf_counter() - started
