"""DPUS damped by curvature: subtract what training has left of the revoked rows' contributions.

Training contracts every change of the weights along stiff directions, so the plain sum v of a row's contributions
overshoots there. Under gradient flow a contribution made evenly over a learning time T (the sum of the rates) leaves
(1 − e^(−TH)) (TH)⁻¹ v behind, of which (I + T/2·H)⁻¹ v is the Padé approximant. With the Gauss-Newton matrix G for H:

    θ' = θ + (I + T̄/2 · G)⁻¹ v

solved by a few conjugate gradients on a sample of live rows, with G at a checkpoint in the middle of the touched
slices. There is no step to calibrate. The formula is ours; it stands between influence functions (arXiv 1703.04730),
which let T go to infinity, and plain DPUS, which lets G be 0.
"""

from __future__ import annotations

import numpy as np
import torch

from hybridmu.core.kernel.partition import derive, epoch_order
from hybridmu.core.kernel.rows import Positions, Rows
from hybridmu.core.strategies.base import Context, Result
from hybridmu.core.strategies.curvature import gauss_newton, solve
from hybridmu.core.strategies.dpus import (
    contribution,
    current_of,
    learning_time,
    restore,
    subtract,
    unavailable,
    under_all_names,
)
from hybridmu.errors import StrategyUnavailableError
from hybridmu.user_code import told

# Conjugate-gradient steps, and live rows that G is taken over: a sixteenth of the shard within these bounds, so that
# a large shard is solved in less than half an epoch.
_STEPS = 6
_SHARE = 16
_LEAST_ROWS, _MOST_ROWS = 256, 1024


def run(context: Context) -> Result:
    """Subtract the damped contribution of all revoked rows, once.

    Args:
        context: With `current`; `checkpoint` as for DPUS. `alpha` is not read.

    Returns:
        The changed state. Approximate: measure it against the exact oracle.

    Raises:
        StrategyUnavailableError: AdamW trained, whose steps the formula does not hold for, or a layer has no second
            derivative.
    """
    if reason := unavailable(context.recipe.optimizer, "dpus-newton"):
        raise StrategyUnavailableError("the damped update is unavailable", got=reason, remedy="use dpus or retrain")
    current = current_of(context)
    model = context.fresh_model()
    change, first, visits = contribution(context, model)
    sample = context.read(sampled)
    if not change or not len(sample):
        return Result(subtract(current, change, 1.0), first, visits)
    slices = len(context.recipe.epochs)
    restore(model, context, (min(first, slices) + slices) // 2)
    named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    right = [change.get(name, torch.zeros_like(parameter)) for name, parameter in named]
    try:
        product = gauss_newton(model, sample.x[_order(context, sample)])
        damped = solve(product, right, _mean_time(context) / 2, _STEPS)
    except (RuntimeError, NotImplementedError) as error:  # a kernel without a second derivative
        raise StrategyUnavailableError(
            "the damped update is unavailable", got=told(error), remedy="use dpus or retrain"
        ) from error
    solved = {name: part for (name, _), part in zip(named, damped, strict=True)}
    state = subtract(current, under_all_names(model, solved), 1.0)
    return Result(state, first, visits + (_STEPS + 1) * len(sample))


def sampled(context: Context) -> Positions:
    """Return the positions of the live rows that G is taken over."""
    return np.sort(_order(context, context.live)[: _sample_size(len(context.live))])


def cost(live: int) -> int:
    """Return the sample visits that the solution costs on a shard with `live` rows."""
    return (_STEPS + 1) * _sample_size(live)


def _sample_size(live: int) -> int:
    return min(live, max(_LEAST_ROWS, min(live // _SHARE, _MOST_ROWS)))


def _order(context: Context, rows: Rows) -> Positions:
    return epoch_order(rows.words, context.recipe.seed ^ (derive("curvature") >> 1), context.shard, 0, 0)


def _mean_time(context: Context) -> float:
    """Return the learning time since a revoked row's slice began, a mean weighted by what each row contributed."""
    times = learning_time(context)
    since = [sum(times[i:]) for i in range(len(times))]
    counts = context.revoked.counts(len(times))
    weight = sum(count * time for count, time in zip(counts, since, strict=True))
    return sum(count * time * time for count, time in zip(counts, since, strict=True)) / weight if weight else 0.0
