"""The deterministic slice-by-slice training loop (SISA, Bourtoule et al., arXiv 1912.03817, §4).

Slice i trains e_i epochs on the live rows of slices 1..i from the weights left by slice i − 1; a slice that came with
later data is left out where it holds no live row. Everything up to checkpoint i is a function of slices ≤ i only. Given
the same rows, thread count, device kind and CPU capability, the result is bitwise the same in any process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from hybridmu.core.kernel.gradients import gradients_of
from hybridmu.core.kernel.microbatches import BatchGradients, Loss, in_parts, refuse_batch_statistics
from hybridmu.core.kernel.model import SubModel, finite, fit_standardize
from hybridmu.core.kernel.partition import derive, epoch_order
from hybridmu.core.kernel.rows import Rows
from hybridmu.core.tasks.base import Task
from hybridmu.errors import DivergedError

# Rows gathered at once; bounds the copy while keeping the gather out of the per-step cost.
_GATHER_ROWS = 4096

Step = Callable[[Sequence[Tensor | None], float], None]
# Opens a model for training: what its steps change, and what finds a batch's gradients by that.
Across = Callable[[nn.Module, Task, "Recipe"], AbstractContextManager[tuple[Sequence[Tensor], BatchGradients]]]


@dataclass(frozen=True)
class Recipe:
    """Hyper-parameters that shape a sub-model.

    Attributes:
        epochs: e_i for every slice.
        batch_size: B.
        seed: Seed of the system.
        optimizer: `sgd` or `adamw`; its state is reset at every slice.
        lr: Rate at the start of a slice.
        momentum: Of sgd.
        weight_decay: L2 (sgd) or decoupled (adamw).
        schedule: `linear` decays to 0 within each slice; `constant`.
        initial_slices: Slices of the first training, which are trained even when they are empty; None: all.
        precision: `float32`, or `bfloat16` for products of matrices under autocast; weights stay float32.
        compiled: Whether forward and backward are compiled; on CUDA they are then replayed as a graph.
        parts: Into how many parts a batch is cut, whose gradients are summed in order.
        extrapolation: How many steps ahead of the weights a part's gradient is taken, along its own last one.
    """

    epochs: tuple[int, ...]
    batch_size: int
    seed: int
    optimizer: str = "sgd"
    lr: float = 0.1
    momentum: float = 0.0
    weight_decay: float = 0.0
    schedule: str = "linear"
    initial_slices: int | None = None
    precision: str = "float32"
    compiled: bool = False
    parts: int = 1
    extrapolation: float = 0.0


def trained_epochs(recipe: Recipe, counts: Sequence[int]) -> tuple[int, ...]:
    """Return the epochs that each slice is really trained for.

    Args:
        recipe: Hyper-parameters.
        counts: Live rows per slice.

    Returns:
        e_i, but 0 for a later slice without a live row: once all it brought is gone, it is as if it had never come.

    Example:
        >>> trained_epochs(Recipe((3, 2, 2, 2), batch_size=4, seed=0, initial_slices=2), (5, 0, 1, 0))
        (3, 2, 2, 0)
    """
    initial = len(recipe.epochs) if recipe.initial_slices is None else recipe.initial_slices
    pairs = zip(recipe.epochs, counts, strict=True)
    return tuple(epochs if count or i <= initial else 0 for i, (epochs, count) in enumerate(pairs, start=1))


def slice_epochs(epochs: int, slices: int) -> tuple[int, ...]:
    """Return e_1..e_R, about 2e′/(R+1) each (arXiv 1912.03817, §4), never 0.

    The fractions are rounded cumulatively, so that the sum matches; e_i depends on (e′, R, i) only.

    Args:
        epochs: e′, epochs of plain training to match.
        slices: R.

    Returns:
        One positive integer per slice.

    Example:
        >>> slice_epochs(10, 5)
        (3, 4, 3, 3, 4)
        >>> slice_epochs(1, 5)
        (1, 1, 1, 1, 1)
    """
    ends = [(4 * epochs * i + slices + 1) // (2 * (slices + 1)) for i in range(slices + 1)]
    return tuple(max(1, after - before) for before, after in pairwise(ends))


def batch_bounds(rows: int, batch_size: int) -> list[tuple[int, int]]:
    """Return (start, stop) of every batch; a one-row tail joins the batch before it.

    Example:
        >>> batch_bounds(9, 4), batch_bounds(1, 4), batch_bounds(0, 4)
        ([(0, 4), (4, 9)], [(0, 1)], [])
    """
    bounds = [(start, min(start + batch_size, rows)) for start in range(0, rows, batch_size)]
    if len(bounds) > 1 and bounds[-1][1] - bounds[-1][0] == 1:
        bounds[-2:] = [(bounds[-2][0], rows)]
    return bounds


def train_slice(
    model: SubModel,
    rows: Rows,
    slice_: int,
    recipe: Recipe,
    task: Task,
    shard: int,
    across: Across | None = None,
) -> int:
    """Train one slice in place.

    Args:
        model: The sub-model as slice `slice_` − 1 left it, on the device of `rows`.
        rows: Live rows of the shard (later slices may be there; they are not read).
        slice_: 1..R.
        recipe: Hyper-parameters.
        task: Supplies the loss.
        shard: Shard number, part of every seed.
        across: Opens the model for training by several processes; None: all parts of a batch are computed here, with
            the same bits.

    Returns:
        Sample visits made; 0, and nothing changed, for a later slice without a row.

    Raises:
        DivergedError: A weight is not finite afterwards.
        ConfigError: Batches are cut into parts, and a layer keeps statistics of whole ones.
    """
    if recipe.parts > 1:
        refuse_batch_statistics(model)
    if slice_ == 1:
        fit_standardize(model, rows)
    count = rows.upto(slice_)
    epochs = trained_epochs(recipe, rows.counts(len(recipe.epochs)))[slice_ - 1]
    if not epochs:
        return 0
    bounds = batch_bounds(count, recipe.batch_size)
    words = rows.words[:count]
    cuda = [rows.x.device] if rows.x.is_cuda else []
    with torch.random.fork_rng(devices=cuda):
        # Layers that draw (dropout) restart at every slice, so a slice never depends on how it was reached.
        torch.manual_seed(derive(f"layers/{recipe.seed}/{shard}/{slice_}") >> 1)
        fit(
            model,
            rows,
            [epoch_order(words, recipe.seed, shard, slice_, epoch) for epoch in range(epochs if count else 0)],
            bounds,
            recipe,
            task,
            across,
        )
    if not finite(model.state_dict()):
        raise DivergedError(
            f"shard {shard} has non-finite weights after slice {slice_}",
            expected="finite weights",
            remedy="lower optimizer.lr, or scale the features (data.scale, data.standardize)",
        )
    return epochs * count


def fit(
    model: nn.Module,
    rows: Rows,
    orders: Sequence[object],
    bounds: Sequence[tuple[int, int]],
    recipe: Recipe,
    task: Task,
    across: Across | None = None,
) -> None:
    """Run epochs over given orders, the rate following the recipe's schedule over all of them.

    Args:
        model: Changed in place.
        rows: Source of batches.
        orders: One int64 array of row positions per epoch.
        bounds: Batches as (start, stop) into an order.
        recipe: Hyper-parameters.
        task: Supplies the loss.
        across: As of `train_slice`.
    """
    if not trained(model):
        return
    model.train()
    if list(bounds) == [(0, 1)] and len(orders):
        only = torch.as_tensor(orders[0])[:1].to(rows.x.device)
        freeze_batch_statistics(model, rows.x[only])
    with (across or _here)(model, task, recipe) as (parameters, gradients):
        step = make_step(parameters, recipe)
        total, done = len(orders) * len(bounds), 0
        for order in orders:
            positions = torch.as_tensor(order).to(rows.x.device)
            for first, last in _gathers(bounds, recipe.batch_size):
                start, stop = bounds[first][0], bounds[last - 1][1]
                x, y = rows.x[positions[start:stop]], rows.y[positions[start:stop]]
                for low, high in bounds[first:last]:
                    rate = recipe.lr * (1 - done / total) if recipe.schedule == "linear" else recipe.lr
                    step(gradients(x[low - start : high - start], y[low - start : high - start], rate), rate)
                    done += 1


def freeze_batch_statistics(model: nn.Module, row: Tensor) -> None:
    """Let layers that normalise over batches use what they learned before: a single row has no spread.

    That is a function of the rows that are there, and so the same in a retrain and in a training from scratch. Before
    anything was learned, mean 0 and variance 1 are used. Nothing is learned of the row for later either.

    Args:
        model: In training mode; those layers leave it.
        row: float32 [1, features].
    """
    layers = dict(model.named_modules())
    for name in batch_statistics(model, row):
        layers[name].eval()


def batch_statistics(model: nn.Module, row: Tensor) -> list[str]:
    """Return the layers in training mode that normalise over batches, and see one value per channel of a single row.

    Args:
        model: Its weights and buffers stay as they are.
        row: float32 [1, features].
    """
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, _BatchNorm) and layer.training}
    if not layers:
        return []
    found: list[str] = []

    def look(name: str, given: Tensor) -> None:
        if given.numel() == given.shape[1]:  # over a picture, a single row has a mean and a spread
            found.append(name)

    hooks = [
        layer.register_forward_pre_hook(lambda _, given, n=name: look(n, given[0])) for name, layer in layers.items()
    ]
    modes = [(module, module.training) for module in model.modules()]
    try:
        with torch.no_grad():
            model.eval()(row)
    finally:
        for hook in hooks:
            hook.remove()
        for module, mode in modes:
            module.training = mode
    return found


def trained(model: nn.Module) -> list[nn.Parameter]:
    """Return the parameters that training changes."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


@contextmanager
def _here(model: nn.Module, task: Task, recipe: Recipe) -> Iterator[tuple[Sequence[Tensor], BatchGradients]]:
    parameters = trained(model)
    yield parameters, _gradients_here(model, task, recipe, parameters)


def _gradients_here(model: nn.Module, task: Task, recipe: Recipe, parameters: Sequence[Tensor]) -> BatchGradients:
    whole = recipe.parts == 1 and not recipe.extrapolation
    if recipe.precision == "float32" and not recipe.compiled and whole:
        plain = gradients_of(model, task, parameters)
        return lambda x, y, _: plain(x, y)
    device = parameters[0].device.type
    found = loss = loss_of(model, task, recipe, device)
    if recipe.compiled:
        # What was compiled before would decide what is compiled now, and past a limit nothing is: a slice starts over.
        torch.compiler.reset()
        # "reduce-overhead" is torch's name for CUDA graphs; elsewhere it does nothing.
        found = torch.compile(loss, dynamic=False, mode="reduce-overhead" if device == "cuda" else None)
    if not whole:
        return in_parts(found, parameters, recipe.parts, recipe.extrapolation)
    return lambda x, y, _: torch.autograd.grad(found(x, y), parameters, allow_unused=True)


def loss_of(model: nn.Module, task: Task, recipe: Recipe, device: str) -> Loss:
    """Return (x, y) → the task's mean loss, in the recipe's precision."""

    def loss(x: Tensor, y: Tensor) -> Tensor:
        with torch.autocast(device, torch.bfloat16, enabled=recipe.precision == "bfloat16"):
            return task.loss(model(x), y)

    return loss


def make_step(parameters: Sequence[Tensor], recipe: Recipe) -> Step:
    """Return the in-place update of a fresh optimizer: step(gradients, rate).

    SGD does the arithmetic of `torch.optim.SGD` in the same order (bitwise equal, tested) without its
    per-step bookkeeping, which costs a seventh of a small model's step. AdamW is torch's own.

    Args:
        parameters: Leaf tensors to change.
        recipe: Which optimizer, momentum, weight decay.

    Returns:
        A function to call once per batch.
    """
    if recipe.optimizer == "adamw":
        adamw = torch.optim.AdamW(parameters, lr=recipe.lr, weight_decay=recipe.weight_decay)

        def step_adamw(gradients: Sequence[Tensor | None], rate: float) -> None:
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.grad = gradient
            adamw.param_groups[0]["lr"] = rate
            adamw.step()
            adamw.zero_grad(set_to_none=True)

        return step_adamw

    velocity: dict[int, Tensor] = {}

    @torch.no_grad()
    def step_sgd(gradients: Sequence[Tensor | None], rate: float) -> None:
        for index, (parameter, gradient) in enumerate(zip(parameters, gradients, strict=True)):
            if gradient is None:
                continue
            change = gradient
            if recipe.weight_decay:
                change = change.add(parameter, alpha=recipe.weight_decay)
            if recipe.momentum:
                if index in velocity:
                    velocity[index].mul_(recipe.momentum).add_(change)
                else:
                    velocity[index] = change.clone()
                change = velocity[index]
            parameter.add_(change, alpha=-rate)

    return step_sgd


def _gathers(bounds: Sequence[tuple[int, int]], batch_size: int) -> list[tuple[int, int]]:
    """Return runs of batches of about `_GATHER_ROWS` rows, as index ranges into `bounds`."""
    size = max(1, _GATHER_ROWS // batch_size)
    return [(first, min(first + size, len(bounds))) for first in range(0, len(bounds), size)]
