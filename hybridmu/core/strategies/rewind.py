"""Rewind: restore the clean checkpoint and run one shorter schedule over the retained rows.

After Rewind-to-Delete (arXiv 2409.09778, 2511.15983), without its noise. The result never depended on a revoked row:
what it lacks against a retrain is accuracy, since it sees every live row a few times instead of a whole schedule. It is
no exact result: the schedule is another one.
"""

from __future__ import annotations

import numpy as np

from hybridmu.core.kernel.model import fit_standardize, state_of
from hybridmu.core.kernel.partition import epoch_order
from hybridmu.core.kernel.training import batch_bounds, fit, trained
from hybridmu.core.learners.augmented_rows import augmented_rows
from hybridmu.core.learners.target_scale import fit_scale
from hybridmu.core.strategies.probe import Probe
from hybridmu.core.strategies.removal import Context, Extent, Removal, Result, Work, every


class Rewind(Removal):
    """A short schedule on all live rows, from the checkpoint before the first revoked row."""

    name = "rewind"
    clean = True
    rank = 50
    colour = "#7b5ea7"

    def run(self, context: Context) -> Result:
        """Go back to the checkpoint before the first revoked row, then train on all live rows within the budget.

        The recipe's own optimizer runs at its own rate, which decays to 0 over the budget of `finetune_epochs`.

        Args:
            context: `revoked` holds every row that the run behind `checkpoint` saw and the result must not: a
                checkpoint is clean when it lies before the first of them. Without a clean one training starts from the
                fresh model.

        Returns:
            The new state; no influence of the revoked rows, but not the bits of a retrain.
        """
        first = int(context.revoked.slice[0]) if len(context.revoked) else len(context.recipe.epochs) + 1
        model, live = context.fresh_model(), context.read(every)
        for point in range(first - 1, 0, -1):
            state = context.checkpoint(point)
            if state is not None:
                model.load_state_dict(state)
                fit_scale(model, live, point)
                break
        else:
            fit_standardize(model, live)
            fit_scale(model, live)
        budget = round(context.finetune_epochs * len(live))
        if budget:
            words, seed = live.words, context.recipe.seed
            epochs = range(-(-budget // len(live)))
            # Epochs of "slice 0" are never trained: the order is another one than in training.
            orders = [epoch_order(words, seed, context.shard, 0, 2 + epoch) for epoch in epochs]
            chosen = np.concatenate(orders)[:budget]
            bounds = batch_bounds(budget, context.recipe.batch_size)
            rows = augmented_rows(live, context.task, seed, context.shard)
            fit(model, rows, [chosen], bounds, context.recipe, context.task)
        return Result(state_of(model), first, budget)

    def unfit(self, probe: Probe) -> str | None:
        """Return that there is nothing to train, or None."""
        return None if trained(probe.model) else "the model has no parameter that is trained"

    def work(self, extent: Extent) -> Work:
        """Return the visits of the budget; one checkpoint is read, and one state written."""
        return Work(round(extent.finetune_epochs * extent.stats.live), 2, extent.stats.live)
