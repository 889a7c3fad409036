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

from dataclasses import replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from hybridmu.core.kernel.partition import derive, epoch_order
from hybridmu.core.kernel.rows import Positions, Rows
from hybridmu.core.kernel.training import trained
from hybridmu.core.strategies.curvature import Bends, gauss_newton, solve
from hybridmu.core.strategies.dpus import (
    contribution,
    current_of,
    gradient_work,
    learning_time,
    restore,
    subtract,
    under_all_names,
)
from hybridmu.core.strategies.probe import Probe
from hybridmu.core.strategies.removal import Context, Extent, Removal, Result, Work
from hybridmu.core.tasks.base import Task
from hybridmu.core.tasks.classification import judgement_of
from hybridmu.core.tasks.regression_tasks import RegressionTask
from hybridmu.errors import ConfigError, StrategyUnavailableError
from hybridmu.user_code import contained, told

# Conjugate-gradient steps, and live rows that G is taken over: a sixteenth of the shard within these bounds, so that
# a large shard is solved in less than half an epoch.
_STEPS = 6
_SHARE = 16
_LEAST_ROWS, _MOST_ROWS = 256, 1024


class DpusNewton(Removal):
    """The update damped by curvature; it takes no step."""

    name = "dpus-newton"
    rank = -20
    calibrated = True
    colour = "#3caea3"

    def run(self, context: Context) -> Result:
        """Subtract the damped contribution of all revoked rows, once.

        Args:
            context: With `current`; `checkpoint` as for DPUS. `alpha` is not read.

        Returns:
            The changed state. Approximate: measure it against the exact oracle.

        Raises:
            StrategyUnavailableError: AdamW trained, whose steps the formula does not hold for, or a layer has no second
                derivative.
        """
        if reason := self.unavailable(context.recipe.optimizer):
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
            order = _order(context, sample)
            product = gauss_newton(model, sample.x[order], bends_of(context.task, sample.y[order]))
            damped = solve(product, right, _mean_time(context) / 2, _STEPS)
        except (ConfigError, RuntimeError, NotImplementedError) as error:  # a kernel without a second derivative
            raise StrategyUnavailableError(
                "the damped update is unavailable", got=told(error), remedy="use dpus or retrain"
            ) from error
        solved = {name: part for (name, _), part in zip(named, damped, strict=True)}
        state = subtract(current, under_all_names(model, solved), 1.0)
        return Result(state, first, visits + (_STEPS + 1) * len(sample))

    def work(self, extent: Extent) -> Work:
        """Return the work of the subtraction, and the products with G."""
        work = gradient_work(extent)
        return replace(work, visits=work.visits + cost(extent.stats.live))

    def reads(self, context: Context) -> Positions:
        """Return the positions of the live rows that G is taken over."""
        return sampled(context)

    def unavailable(self, optimizer: str) -> str | None:
        """Return why it can't be used after training by an optimizer, or None.

        Example:
            >>> DpusNewton().unavailable("sgd") is None
            True
            >>> DpusNewton().unavailable("adamw")
            'dpus-newton has no preconditioned variant that is shown to work for adamw'
        """
        if optimizer == "sgd":
            return None
        return f"{self.name} has no preconditioned variant that is shown to work for {optimizer}"

    def unfit(self, probe: Probe) -> str | None:
        """Return why the model has no gradient, or a layer no second derivative; or None."""
        if probe.without_gradient:
            return probe.without_gradient
        try:
            bends = bends_of(probe.task, probe.outcomes)
        except ConfigError as error:
            return error.what
        try:
            with contained():
                parameters = trained(probe.model)
                product = gauss_newton(probe.model, probe.x, bends)
                product([torch.zeros_like(parameter) for parameter in parameters])
        except Exception as error:  # of the user's code, or a kernel's
            return f"a layer of the model has no second derivative: {told(error)}"
        return None


def bends_of(task: Task, outcomes: Tensor) -> Bends | None:
    """Return how the loss of every row bends by its value; None for classes.

    Args:
        task: Supplies the loss.
        outcomes: What is right of the rows, [m].

    Raises:
        ConfigError: The loss has no curvature, or the task does not say which.
    """
    if judgement_of(task).kind == "classification":
        return None
    if not isinstance(task, RegressionTask):
        raise ConfigError(
            "the task does not say the second derivative of its loss",
            expected="a class derived from hybridmu.task.RegressionTask",
            got=type(task).__name__,
        )
    bends = partial(task.bends, targets=outcomes)
    bends(torch.ones(len(outcomes), 2, device=outcomes.device))
    return bends


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
