"""DPUS: change the current parameters directly instead of retraining.

The idea, subtract the revoked samples' contributions from the current parameters, and for many requests fine-tune a
subset of slices afterwards ("optimised"), is that of arXiv 2412.14505. The formulas below are ours, after that paper:

    θ' = θ + α · Σ_{i ≥ r} e_i · (η̄_i / B) · ½ · Σ_{u ∈ U, slice(u) ≤ i} [∇ℓ(θ^(i−1); u) + ∇ℓ(θ^(i); u)]

with θ^(i) the checkpoint after slice i, η̄_i the mean rate over slice i (half the rate under linear decay), and r the
first touched slice. With momentum μ a gradient moves the weights for 1/(1 − μ) steps, but no further than the slice
goes, since velocities are dropped at its end: η̄_i counts exactly that. With AdamW each gradient is divided by the root
of the second moments (`adam.py`). α is calibrated by canary deletions: α = 1 overshoots.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar
from weakref import WeakKeyDictionary

import numpy as np
from torch import Tensor

from hybridmu.core.kernel.gradients import Gradients, gradients_of
from hybridmu.core.kernel.model import State, SubModel
from hybridmu.core.kernel.rows import Positions, Rows
from hybridmu.core.kernel.training import Recipe, batch_bounds, trained_epochs
from hybridmu.core.strategies import second_moments
from hybridmu.core.strategies.probe import Probe
from hybridmu.core.strategies.removal import Context, Extent, Reads, Removal, Result, Work
from hybridmu.errors import StrategyUnavailableError
from hybridmu.types import ALPHAS

# Gradients of the revoked rows are summed over chunks of this many rows, to bound activations.
_CHUNK = 2048


class Dpus(Removal):
    """The plain update: one subtraction of all revoked rows' contributions."""

    name = "dpus"
    rank = -30
    calibrated = True
    steps = ALPHAS
    # Middle of what calibration found on MNIST-5k (docs/log.md).
    uncalibrated: ClassVar[Mapping[str, float]] = {"sgd": 0.3, "adamw": 0.25}
    basic = True
    colour = "#f6a600"

    def run(self, context: Context) -> Result:
        """Subtract the summed contribution of all revoked rows, once.

        Args:
            context: With `current` and `alpha`.

        Returns:
            The changed state. Approximate: measure it against the exact oracle.
        """
        current = current_of(context)
        change, first, visits = contribution(context)
        return Result(subtract(current, change, context.alpha), first, visits)

    def work(self, extent: Extent) -> Work:
        """Return the gradients of the revoked rows, at every checkpoint from their first slice on."""
        return gradient_work(extent)

    def reads(self, context: Context) -> Positions:
        """Return the positions of the rows that AdamW's moments are taken over."""
        return second_moments.sampled(context)

    def unfit(self, probe: Probe) -> str | None:
        """Return why the model has no gradient, or None."""
        return probe.without_gradient

    def trials(self, context: Context) -> Iterator[tuple[float, SubModel]]:
        """Return (α, changed model), all from one contribution.

        Args:
            context: A removal of canaries.

        Returns:
            Rising α.
        """
        return subtracted(context, self.steps)


def subtracted(context: Context, steps: Sequence[float]) -> Iterator[tuple[float, SubModel]]:
    """Yield (α, the current model less α times the revoked rows' contribution), all from one contribution.

    Args:
        context: A removal of canaries.
        steps: The values of α.

    Yields:
        In the order of `steps`.
    """
    change = shared_contribution(context)
    for alpha in steps:
        model = context.fresh_model()
        model.load_state_dict(subtract(current_of(context), change, alpha))
        yield alpha, model


# Contributions that several updates of the same rows begin with, for as long as the context lives.
_SHARED: WeakKeyDictionary[Context, State] = WeakKeyDictionary()


def contribution(
    context: Context, model: SubModel | None = None, reads: Reads = second_moments.sampled
) -> tuple[State, int, int]:
    """Estimate what the revoked rows added to the parameters during training.

    Args:
        context: `checkpoint(i)` answers by the lineage of the run that saw the rows; slice 0 is the fresh model.
        model: A fresh sub-model to work with; made when it is not given. It is left changed, in evaluation mode.
        reads: What the strategy reads of the live rows; of AdamW at least `adam.sampled`.

    Returns:
        (parameter name → estimated Σ of updates, same shapes as the parameters; first touched slice; gradients taken).

    Raises:
        StrategyUnavailableError: A checkpoint is missing.
    """
    recipe = context.recipe
    slices = len(recipe.epochs)
    revoked = context.revoked
    first = int(revoked.slice[0]) if len(revoked) else slices + 1
    model = context.fresh_model() if model is None else model
    model.eval()
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    gradients_at = gradients_of(model, context.task, [p for _, p in named])
    rows = _trained_rows(context)
    epochs, steps = trained_epochs(recipe, rows), _steps(recipe, rows)
    # Half the trapezoid of slice i; 0 before the first touched slice and after the last one.
    pairs = enumerate(zip(epochs, steps, strict=True), start=1)
    half = [0.5 * e * _mean_rate(recipe, n) / recipe.batch_size if i >= first else 0.0 for i, (e, n) in pairs]
    half = [0.0, *half, 0.0]
    moments = None
    if recipe.optimizer == "adamw" and len(revoked):
        trained = [parameter for _, parameter in named]
        moments = second_moments.Moments(context, gradients_at, trained, context.read(reads), reads(context), steps)
    total: State = {}
    visits = 0
    for point in range(first - 1, slices + 1) if len(revoked) else ():
        restore(model, context, point)
        if moments:
            moments.look(point)
        # θ^(point) ends slice `point` and begins slice `point + 1`: rows seen in both are asked once.
        seen, next_seen = revoked.upto(point), revoked.upto(point + 1)
        ends, begins = half[point], half[point + 1]
        for start, stop, at_end in ((0, seen, ends), (seen, next_seen, 0.0)):
            weight = at_end + begins
            if weight and stop > start:
                summed = enumerate(zip(named, _summed(gradients_at, revoked, start, stop), strict=True))
                for number, ((name, _), gradient) in summed:
                    if gradient is None:
                        continue
                    if moments:
                        gradient, weight = gradient * moments.scale(number, at_end, begins), 1.0
                    total[name] = total[name].add_(gradient, alpha=weight) if name in total else weight * gradient
                visits += stop - start
    return under_all_names(model, total), first, visits + (moments.visits if moments else 0)


def shared_contribution(context: Context) -> State:
    """Return the contribution of the revoked rows, estimated once per context: canaries try several updates on one."""
    if context not in _SHARED:
        _SHARED[context] = contribution(context)[0]
    return _SHARED[context]


def under_all_names(model: SubModel, change: State) -> State:
    """Return a change of parameters under every name that a shared one has in a state.

    Args:
        model: Whose parameters they are.
        change: Parameter name → change, each under its first name.
    """
    first: dict[int, str] = {}
    named = [(name, first.setdefault(id(p), name)) for name, p in model.named_parameters(remove_duplicate=False)]
    return {name: change[known] for name, known in named if known in change}


def learning_time(context: Context) -> list[float]:
    """Return the sum of the rates of every step of each slice, in the run that saw the revoked rows."""
    recipe = context.recipe
    rows = _trained_rows(context)
    pairs = enumerate(zip(trained_epochs(recipe, rows), _steps(recipe, rows), strict=True), start=1)
    return [epochs * _mean_rate(recipe, steps) * sum(rows[:i]) / recipe.batch_size for i, (epochs, steps) in pairs]


def subtract(state: Mapping[str, Tensor], change: Mapping[str, Tensor], alpha: float) -> State:
    """Return state + α·change; gradients point uphill, so adding them back undoes the descent."""
    return {name: (value + alpha * change[name].cpu() if name in change else value) for name, value in state.items()}


def restore(model: SubModel, context: Context, point: int) -> None:
    """Load the checkpoint after slice `point`; before the first slice with rows, the fresh weights behind its scalers.

    Raises:
        StrategyUnavailableError: There is no such checkpoint.
    """
    held = [int(rows.slice[0]) for rows in (context.live, context.revoked) if len(rows)]
    begins = min(held, default=1)
    state = context.checkpoint(max(begins, point))
    if state is None:
        raise StrategyUnavailableError(
            f"the checkpoint after slice {max(begins, point)} of shard {context.shard} is missing",
            expected="every checkpoint of the run that saw the revoked rows",
            remedy="use strategy retrain",
        )
    buffers = {name for name, _ in model.named_buffers()} & state.keys()  # others are not kept, and never change
    trained = point >= begins
    model.load_state_dict(state if trained else {name: state[name] for name in buffers}, strict=trained)


def _summed(gradients_at: Gradients, rows: Rows, start: int, stop: int) -> list[Tensor | None]:
    """Return Σ_u ∇ℓ(θ; u) over rows start..stop, per parameter; None for one that the loss does not reach."""
    total: list[Tensor | None] = []
    for low in range(start, stop, _CHUNK):
        high = min(low + _CHUNK, stop)
        means = gradients_at(rows.x[low:high], rows.y[low:high])
        parts = [None if mean is None else mean * (high - low) for mean in means]
        total = [_plus(a, b) for a, b in zip(total, parts, strict=True)] if total else parts
    return total


def _plus(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    return a + b if a is not None and b is not None else a if b is None else b


def current_of(context: Context) -> State:
    """Return the live weights.

    Raises:
        StrategyUnavailableError: There are none.
    """
    if context.current is None:
        raise StrategyUnavailableError(
            f"shard {context.shard} has no live sub-model to update", remedy="use strategy retrain"
        )
    return context.current


def _mean_rate(recipe: Recipe, steps: int) -> float:
    """Return how far the mean gradient of a slice of so many steps moves the weights, per unit of gradient."""
    rate, momentum = recipe.lr * (0.5 if recipe.schedule == "linear" else 1.0), recipe.momentum
    if not momentum or not steps:
        return rate
    rates = 1 - np.arange(steps) / steps if recipe.schedule == "linear" else np.ones(steps)
    # Step k takes along what of all gradients before it has not decayed: Σ_{t ≤ k} μ^(k−t).
    taken = (1 - momentum ** np.arange(1, steps + 1)) / (1 - momentum)
    return rate * float((rates * taken).sum() / rates.sum())


def _steps(recipe: Recipe, rows: Sequence[int]) -> list[int]:
    """Return the steps of every slice, of the run that saw so many rows per slice."""
    pairs = enumerate(trained_epochs(recipe, rows), start=1)
    return [epochs * len(batch_bounds(sum(rows[:i]), recipe.batch_size)) for i, epochs in pairs]


def _trained_rows(context: Context) -> list[int]:
    """Return the rows per slice of the run that saw the revoked ones."""
    slices = len(context.recipe.epochs)
    pairs = zip(context.live.counts(slices), context.revoked.counts(slices), strict=True)
    return [live + gone for live, gone in pairs]


def gradient_work(extent: Extent) -> Work:
    """Return what the contribution of the newly revoked rows costs; every update begins with it."""
    work, stats = extent.workload, extent.stats
    visits, checkpoints = work.gradient_visits, len(stats.epochs) - work.first_new + 2
    if extent.optimizer == "adamw":
        visits += second_moments.visits(checkpoints, stats.live, extent.batch_size) + work.gradient_visits
    return Work(visits, checkpoints, stats.live)
