"""DPUS: change the current parameters directly instead of retraining.

The idea, subtract the revoked samples' contributions from the current parameters, and for many requests fine-tune a
subset of slices afterwards ("optimised"), is that of arXiv 2412.14505. The formulas below are ours, after that paper:

    θ' = θ + α · Σ_{i ≥ r} e_i · (η̄_i / B) · ½ · Σ_{u ∈ U, slice(u) ≤ i} [∇ℓ(θ^(i−1); u) + ∇ℓ(θ^(i); u)]

with θ^(i) the checkpoint after slice i, η̄_i the mean rate over slice i (half the rate under linear decay, divided
by 1 − μ with momentum μ), and r the first touched slice. α is calibrated by canary deletions: α = 1 overshoots.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from torch import Tensor

from hybridmu.core.audit import mean_loss
from hybridmu.core.gradients import gradients_of
from hybridmu.core.model import State, SubModel, state_of
from hybridmu.core.partition import derive, epoch_order
from hybridmu.core.strategies.base import Context, Result
from hybridmu.core.training import Recipe, batch_bounds, fit, trained_epochs
from hybridmu.errors import StrategyUnavailableError

# Gradients of the revoked rows are summed over chunks of this many rows, to bound activations.
_CHUNK = 2048
# Fine-tuning stops between rounds when the held-out loss no longer falls by this share.
_ROUNDS = 3
_PLATEAU = 1e-3


def unavailable(optimizer: str) -> str | None:
    """Return why DPUS can't be used with an optimizer, or None.

    Example:
        >>> unavailable("sgd") is None
        True
    """
    if optimizer != "sgd":
        return f"DPUS has no preconditioned variant that is shown to work for {optimizer}"
    return None


def contribution(context: Context) -> tuple[State, int, int]:
    """Estimate what the revoked rows added to the parameters during training.

    Args:
        context: `checkpoint(i)` answers by the lineage of the run that saw the rows; slice 0 is the fresh model.

    Returns:
        (parameter name → estimated Σ of updates, same shapes as the parameters; first touched slice; gradients taken).

    Raises:
        StrategyUnavailableError: The optimizer is not sgd, or a checkpoint is missing.
    """
    recipe = context.recipe
    if reason := unavailable(recipe.optimizer):
        raise StrategyUnavailableError("DPUS is unavailable", got=reason, remedy="use strategy retrain")
    slices = len(recipe.epochs)
    revoked = context.revoked
    first = int(revoked.slice[0]) if len(revoked) else slices + 1
    model = context.fresh_model()
    mean_rate, epochs = _mean_rate(recipe), trained_epochs(recipe, _trained_rows(context))
    # Half the trapezoid of slice i; 0 before the first touched slice and after the last one.
    half = [0.5 * e * mean_rate / recipe.batch_size if i >= first else 0.0 for i, e in enumerate(epochs, 1)]
    half = [0.0, *half, 0.0]
    total: State = {}
    visits = 0
    for point in range(first - 1, slices + 1) if len(revoked) else ():
        restore(model, context, point)
        # θ^(point) ends slice `point` and begins slice `point + 1`: rows seen in both are asked once.
        seen, next_seen = revoked.upto(point), revoked.upto(point + 1)
        for start, stop, weight in ((0, seen, half[point] + half[point + 1]), (seen, next_seen, half[point + 1])):
            if weight and stop > start:
                for name, gradient in _summed_gradient(model, context, start, stop).items():
                    total[name] = total[name].add_(gradient, alpha=weight) if name in total else weight * gradient
                visits += stop - start
    return total, first, visits


def learning_time(context: Context) -> list[float]:
    """Return the sum of the rates of every step of each slice, in the run that saw the revoked rows."""
    recipe = context.recipe
    rows = _trained_rows(context)
    pairs = enumerate(trained_epochs(recipe, rows), start=1)
    return [epochs * _mean_rate(recipe) * sum(rows[:i]) / recipe.batch_size for i, epochs in pairs]


def subtract(state: Mapping[str, Tensor], change: Mapping[str, Tensor], alpha: float) -> State:
    """Return state + α·change; gradients point uphill, so adding them back undoes the descent."""
    return {name: (value + alpha * change[name].cpu() if name in change else value) for name, value in state.items()}


def run_plain(context: Context) -> Result:
    """Subtract the summed contribution of all revoked rows, once.

    Args:
        context: With `current` and `alpha`.

    Returns:
        The changed state. Approximate: measure it against the exact oracle.
    """
    current = current_of(context)
    change, first, visits = contribution(context)
    return Result(subtract(current, change, context.alpha), first, visits)


def run_optimised(context: Context) -> Result:
    """Subtract once, then fine-tune on live rows of the touched slices plus a replay sample of the others.

    The rate decays to 0 over the budget of `finetune_epochs`; between rounds fine-tuning stops when the held-out loss
    has reached a plateau (only if the shard has validation rows).

    Args:
        context: With `current`, `alpha` and the fine-tuning budget.

    Returns:
        The changed state. Approximate: measure it against the exact oracle.
    """
    subtracted = run_plain(context)
    model = context.fresh_model()
    model.load_state_dict(subtracted.state)
    visits = subtracted.visits + fine_tune(model, context)
    return Result(state_of(model), subtracted.first_slice, visits)


def fine_tune(model: SubModel, context: Context) -> int:
    """Fine-tune in place within the budget.

    Args:
        model: Changed in place.
        context: Rows, budget and rate.

    Returns:
        Sample visits made.
    """
    chosen = subset(context)
    if len(chosen) == 0:
        return 0
    rounds = _ROUNDS if context.held_out is not None and len(context.held_out) else 1
    size = len(chosen) // rounds
    if size == 0:
        rounds, size = 1, len(chosen)
    best, visits = np.inf, 0
    for number in range(rounds):
        low, high = number * size, (number + 1) * size if number < rounds - 1 else len(chosen)
        # Plain SGD: the moments of training are dropped. Each round decays towards the next one's start.
        start = context.finetune_rate * (1 - low / len(chosen))
        recipe = replace(context.recipe, optimizer="sgd", momentum=0.0, lr=start, schedule="linear")
        fit(model, context.live, [chosen[low:high]], batch_bounds(high - low, recipe.batch_size), recipe, context.task)
        visits += high - low
        if rounds > 1 and context.held_out is not None:
            loss = mean_loss(model, context.held_out, context.task)
            if loss > best * (1 - _PLATEAU):
                break
            best = loss
    return visits


def subset(context: Context) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Return row positions to fine-tune on: half from touched slices, half a replay of the others, in seeded order.

    When one half is too small the other fills the budget; rows may repeat only when the budget exceeds an epoch.
    """
    live = context.live
    budget = max(1, round(context.finetune_epochs * len(live))) if len(live) else 0
    label = f"{len(context.revoked)}/{context.shard}"
    order = epoch_order(live.words, context.recipe.seed ^ (derive(label) >> 1), context.shard, 0, 0)
    touched = np.isin(live.slice[order], np.unique(context.revoked.slice))
    near, far = order[touched], order[~touched]
    share = min(len(near), max(budget // 2, budget - len(far)))
    chosen = np.concatenate([near[:share], far[: budget - share]])
    while len(chosen) < budget:
        chosen = np.concatenate([chosen, order[: budget - len(chosen)]])
    return chosen[epoch_order(live.words[chosen], context.recipe.seed, context.shard, 0, 1)]


def restore(model: SubModel, context: Context, point: int) -> None:
    """Load the checkpoint after slice `point`; for 0, the fresh weights behind checkpoint 1's scaler.

    Raises:
        StrategyUnavailableError: There is no such checkpoint.
    """
    state = context.checkpoint(max(1, point))
    if state is None:
        raise StrategyUnavailableError(
            f"the checkpoint after slice {max(1, point)} of shard {context.shard} is missing",
            expected="every checkpoint of the run that saw the revoked rows",
            remedy="use strategy retrain",
        )
    buffers = {name for name, _ in model.named_buffers()}
    model.load_state_dict(state if point else {name: state[name] for name in buffers}, strict=point > 0)


def _summed_gradient(model: SubModel, context: Context, start: int, stop: int) -> dict[str, Tensor]:
    """Return Σ_u ∇ℓ(θ; u) over revoked rows start..stop, per parameter, in evaluation mode."""
    model.eval()
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    gradients_at = gradients_of(model, context.task, [p for _, p in named])
    total: dict[str, Tensor] = {}
    for low in range(start, stop, _CHUNK):
        high = min(low + _CHUNK, stop)
        gradients = gradients_at(context.revoked.x[low:high], context.revoked.y[low:high])
        for (name, _), gradient in zip(named, gradients, strict=True):
            if gradient is not None:
                total[name] = total[name] + gradient * (high - low) if name in total else gradient * (high - low)
    return total


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


def _mean_rate(recipe: Recipe) -> float:
    return recipe.lr * (0.5 if recipe.schedule == "linear" else 1.0) / (1 - recipe.momentum)


def _trained_rows(context: Context) -> list[int]:
    """Return the rows per slice of the run that saw the revoked ones."""
    slices = len(context.recipe.epochs)
    pairs = zip(context.live.counts(slices), context.revoked.counts(slices), strict=True)
    return [live + gone for live, gone in pairs]
