"""Gradients of a batch in parts: one process after the other or several at once, with the same bits.

A batch is cut into contiguous parts of nearly equal length. Each part's mean loss is weighed by its share of the rows,
and the parts' gradients are summed in their order, (g0 + g1) + g2 + …, wherever they were computed. So how many
processes share the work of a shard is no part of what it becomes; into how many parts it is cut is.

Extrapolated SGD (Lin et al., arXiv 2006.05720) is for batches so large that plain SGD learns less from them: each part
takes its gradient ahead of the weights, where its own last gradient points. Reusing that one, no gradient is computed
twice, and since the parts look in different directions, their sum is smoother than the gradient at one point.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise

import torch
from torch import Tensor, nn

from hybridmu.errors import ConfigError

Loss = Callable[[Tensor, Tensor], Tensor]
# (x, y, rate of the step) → gradient of the batch's mean loss.
BatchGradients = Callable[[Tensor, Tensor, float], Sequence[Tensor | None]]


def bounds(rows: int, parts: int) -> list[tuple[int, int]]:
    """Return (start, stop) of every part; the first ones are a row longer where it does not come out even.

    Example:
        >>> bounds(7, 3), bounds(1, 2)
        ([(0, 3), (3, 5), (5, 7)], [(0, 1), (1, 1)])
    """
    size, longer = divmod(rows, parts)
    ends = [n * size + min(n, longer) for n in range(parts + 1)]
    return list(pairwise(ends))


def weighed(loss: Loss, x: Tensor, y: Tensor, part: int, parts: int) -> Tensor:
    """Return what a part adds to the loss of its batch; one without rows adds nothing, but can be differentiated.

    Args:
        loss: Mean loss of rows.
        x: All rows of the batch.
        y: Their classes.
        part: Which one, from 0.
        parts: How many there are.
    """
    start, stop = bounds(len(y), parts)[part]
    # Layers that draw must draw the same wherever a part is computed: every part goes on from its own place.
    torch.manual_seed((torch.initial_seed() + 0x9E3779B97F4A7C15 * (part + 1)) % 2**63)
    low, high = (start, stop) if stop > start else (0, 1)
    return loss(x[low:high], y[low:high]) * ((stop - start) / len(y))


def in_parts(loss: Loss, parameters: Sequence[Tensor], parts: int, extrapolation: float = 0.0) -> BatchGradients:
    """Return a function (x, y, rate) → gradient of the mean loss, computed part by part in this process.

    Args:
        loss: Mean loss of rows.
        parameters: What is differentiated by; changed and put back while a gradient is computed ahead of them.
        parts: How many there are.
        extrapolation: How many steps ahead; 0 leaves the parameters alone.
    """
    last: list[Sequence[Tensor | None]] = [()] * parts

    def gradients(x: Tensor, y: Tensor, rate: float) -> Sequence[Tensor | None]:
        seed = torch.initial_seed()
        found: list[Tensor | None] = []
        for part in range(parts):
            torch.manual_seed(seed)
            with ahead(parameters, last[part], extrapolation * rate * parts):
                mine = torch.autograd.grad(weighed(loss, x, y, part, parts), parameters, allow_unused=True)
            # A CUDA graph writes its next answer where the last one was.
            mine = tuple(term.clone() if term is not None and term.is_cuda else term for term in mine)
            if extrapolation:
                last[part] = mine
            found = list(mine) if not part else [summed(pair) for pair in zip(found, mine, strict=True)]
        torch.manual_seed(following(seed))
        return found

    return gradients


@contextmanager
def ahead(parameters: Sequence[Tensor], last: Sequence[Tensor | None], length: float) -> Iterator[None]:
    """Move parameters against a part's last gradient for as long as the block runs; the very bits come back.

    Args:
        parameters: Changed in place.
        last: What the part added to the last batch's gradient, per parameter; empty before the first batch.
        length: How far, as a factor of it.
    """
    if not last or not length:
        yield
        return
    kept = [parameter.detach().clone() for parameter in parameters]
    with torch.no_grad():
        for parameter, gradient in zip(parameters, last, strict=True):
            if gradient is not None:
                parameter.add_(gradient, alpha=-length)
    try:
        yield
    finally:
        with torch.no_grad():
            for parameter, value in zip(parameters, kept, strict=True):
                parameter.copy_(value)


def following(seed: int) -> int:
    """Return the seed of the next batch."""
    return (seed * 6364136223846793005 + 1442695040888963407) % 2**63


def summed(terms: Sequence[Tensor | None]) -> Tensor | None:
    """Return the sum in order; None when there is no term."""
    total: Tensor | None = None
    for term in terms:
        if term is not None:
            total = term if total is None else total + term
    return total


def refuse_batch_statistics(model: nn.Module) -> None:
    """Check that no layer learns from a batch beside its gradient.

    Raises:
        ConfigError: One does: its parts would see other statistics than the batch.
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            raise ConfigError(
                f"layer {name!r} keeps statistics of whole batches, which parts of a batch do not have",
                got=type(module).__name__,
                remedy="use GroupNorm or LayerNorm, or compute.parts: 1",
            )
