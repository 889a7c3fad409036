"""Strategies that the study compares with and the product does not offer."""

from __future__ import annotations

import torch

from hybridmu.core.kernel.gradients import gradients_of
from hybridmu.core.kernel.model import State, SubModel, fit_standardize, state_of
from hybridmu.core.kernel.partition import epoch_order
from hybridmu.core.kernel.revoked_keys import carries
from hybridmu.core.kernel.rows import Rows
from hybridmu.core.kernel.training import Recipe, batch_bounds, make_step
from hybridmu.core.strategies import Context, Extent, Removal, Result, Work, register
from hybridmu.core.strategies.dpus import subtract
from hybridmu.core.strategies.dpus_optimised import fine_tune
from hybridmu.task import Task
from hybridmu.types import KeySet


class BatchLog:
    """What amnesiac unlearning keeps of a training: the updates of the batches that held a revoked row, summed.

    A real log holds every batch's update, since nobody knows what will be revoked (batches times parameters). Here the
    training is replayed once the rows are known, which costs the strategy nothing: it is charged too little, not too
    much.
    """

    def __init__(self) -> None:
        self.updates: dict[int, State] = {}

    def replay(self, model: SubModel, rows: Rows, keys: KeySet, recipe: Recipe, task: Task, shard: int) -> State:
        """Train a shard as it was trained, and log the batches that held one of `keys`.

        Args:
            model: The fresh sub-model; trained in place.
            rows: Every row that the training saw.
            keys: What is revoked.
            recipe: With plain SGD.
            task: Supplies the loss.
            shard: Shard number.

        Returns:
            The trained state, the same bits as the training's.
        """
        revoked = torch.from_numpy(carries(rows.ids, rows.groups, keys))
        parameters = [p for p in model.parameters() if p.requires_grad]
        total = [torch.zeros_like(p) for p in parameters]
        fit_standardize(model, rows)
        for slice_, epochs in enumerate(recipe.epochs, start=1):
            count = rows.upto(slice_)
            bounds, words = batch_bounds(count, recipe.batch_size), rows.words[:count]
            model.train()
            step, gradients = make_step(parameters, recipe), gradients_of(model, task, parameters)
            for epoch in range(epochs):
                order = torch.from_numpy(epoch_order(words, recipe.seed, shard, slice_, epoch))
                for number, (low, high) in enumerate(bounds):
                    done = (epoch * len(bounds) + number) / (epochs * len(bounds))
                    chosen = order[low:high]
                    before = [p.detach().clone() for p in parameters] if bool(revoked[chosen].any()) else []
                    rate = recipe.lr * (1 - done) if recipe.schedule == "linear" else recipe.lr
                    step(gradients(rows.x[chosen], rows.y[chosen]), rate)
                    for kept, now, then in zip(total, parameters, before, strict=False):
                        kept += now.detach() - then
        named = [name for name, p in model.named_parameters() if p.requires_grad]
        self.updates[shard] = dict(zip(named, total, strict=True))
        return state_of(model)


LOG = BatchLog()


class Amnesiac(Removal):
    """Amnesiac unlearning (Graves et al. 2021, arXiv 2010.10981): subtract the logged updates, then fine-tune."""

    name = "amnesiac"

    def run(self, context: Context) -> Result:
        """Subtract the logged updates, then fine-tune.

        Args:
            context: Of a shard that was replayed.

        Returns:
            The changed state.
        """
        state = subtract(context.current or {}, LOG.updates[context.shard], -context.alpha)
        model = context.fresh_model()
        model.load_state_dict(state)
        return Result(state_of(model), 1, fine_tune(model, context))

    def work(self, extent: Extent) -> Work:
        """Return the work of the fine-tuning; what the log takes was spent in training."""
        return _fine_tuning(extent)


class FineTune(Removal):
    """Fine-tuning on the live rows, nothing else (the budget of the optimised update)."""

    name = "fine-tune"

    def run(self, context: Context) -> Result:
        """Return the current state after fine-tuning."""
        model = context.fresh_model()
        model.load_state_dict(context.current or {})
        visits = fine_tune(model, context)
        return Result(state_of(model), 1, visits)

    def work(self, extent: Extent) -> Work:
        """Return the visits of the budget."""
        return _fine_tuning(extent)


def _fine_tuning(extent: Extent) -> Work:
    return Work(round(extent.finetune_epochs * extent.stats.live), 1, extent.stats.live)


register(Amnesiac)
register(FineTune)
