"""DPUS with fine-tuning: one subtraction, then some epochs on live rows (arXiv 2412.14505, "optimised")."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import ClassVar

import numpy as np

from hybridmu.core.evaluation import mean_loss
from hybridmu.core.kernel.model import SubModel, state_of
from hybridmu.core.kernel.partition import derive, epoch_order
from hybridmu.core.kernel.rows import Positions
from hybridmu.core.kernel.training import batch_bounds, fit
from hybridmu.core.learners.augmented_rows import augmented_rows
from hybridmu.core.strategies import second_moments
from hybridmu.core.strategies.dpus import contribution, current_of, gradient_work, subtract, subtracted
from hybridmu.core.strategies.probe import Probe
from hybridmu.core.strategies.removal import Context, Extent, Removal, Result, Work

# Fine-tuning stops between rounds when the held-out loss no longer falls by this share.
_ROUNDS = 3
_PLATEAU = 1e-3


class DpusOptimised(Removal):
    """The update that fine-tunes: what the subtraction has hurt, the live rows mend."""

    name = "dpus-optimised"
    rank = -10
    validates = True
    calibrated = True
    # Fine-tuning makes a step dear, so a few are tried: in between the gap is nearly a straight line, but for small
    # steps on convolutional networks.
    steps = (0.1, 0.2, 0.4, 0.65, 1.0)
    # Middle of what calibration found on MNIST-5k (docs/log.md).
    uncalibrated: ClassVar[Mapping[str, float]] = {"sgd": 0.5, "adamw": 0.35}
    colour = "#ed553b"

    def run(self, context: Context) -> Result:
        """Subtract once, then fine-tune on live rows of the touched slices plus a replay sample of the others.

        The rate decays to 0 over the budget of `finetune_epochs`; between rounds fine-tuning stops when the held-out
        loss has reached a plateau (only if the shard has validation rows).

        Args:
            context: With `current`, `alpha` and the fine-tuning budget.

        Returns:
            The changed state. Approximate: measure it against the exact oracle.
        """
        current, model = current_of(context), context.fresh_model()
        change, first, visits = contribution(context, model, tuned)
        model.load_state_dict(subtract(current, change, context.alpha))
        visits += fine_tune(model, context)
        return Result(state_of(model), first, visits)

    def work(self, extent: Extent) -> Work:
        """Return the work of the subtraction, and the visits of the budget."""
        work = gradient_work(extent)
        return replace(work, visits=work.visits + round(extent.finetune_epochs * extent.stats.live))

    def reads(self, context: Context) -> Positions:
        """Return the positions of the rows to fine-tune on, and of those that AdamW's moments are taken over."""
        return tuned(context)

    def unfit(self, probe: Probe) -> str | None:
        """Return why the model has no gradient, or None."""
        return probe.without_gradient

    def trials(self, context: Context) -> Iterator[tuple[float, SubModel]]:
        """Yield (α, changed model), all from one contribution.

        Args:
            context: A removal of canaries.

        Yields:
            Rising α.
        """
        for alpha, model in subtracted(context, self.steps):
            fine_tune(model, context)
            yield alpha, model


def fine_tune(model: SubModel, context: Context) -> int:
    """Fine-tune in place within the budget.

    Args:
        model: Changed in place.
        context: Rows, budget and rate.

    Returns:
        Sample visits made.
    """
    live = augmented_rows(context.read(tuned), context.task, context.recipe.seed, context.shard)
    chosen = np.searchsorted(tuned(context), subset(context))
    if len(chosen) == 0:
        return 0
    rounds = _ROUNDS if context.held_out is not None and len(context.held_out) else 1
    size = len(chosen) // rounds
    if size == 0:
        rounds, size = 1, len(chosen)
    best, visits = np.inf, 0
    for number in range(rounds):
        low, high = number * size, (number + 1) * size if number < rounds - 1 else len(chosen)
        # Without momentum, at the rate that it amounted to. Each round decays towards the next one's start.
        start = context.finetune_rate / (1 - context.recipe.momentum) * (1 - low / len(chosen))
        recipe = replace(context.recipe, momentum=0.0, lr=start, schedule="linear")
        fit(model, live, [chosen[low:high]], batch_bounds(high - low, recipe.batch_size), recipe, context.task)
        visits += high - low
        if rounds > 1 and context.held_out is not None:
            loss = mean_loss(model, context.held_out, context.task)
            if loss > best * (1 - _PLATEAU):
                break
            best = loss
    return visits


def tuned(context: Context) -> Positions:
    """Return the positions of the live rows to fine-tune on, and of those that AdamW's moments are taken over."""
    return np.unique(np.concatenate([subset(context), second_moments.sampled(context)]))


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
