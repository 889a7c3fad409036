"""AdamW's second moments, had from checkpoints.

A step of AdamW divides the gradient by √v + ε, with v the running mean of squared batch gradients. Its state is dropped
at every slice, so no checkpoint holds v; but squaring the gradients of some batches at a checkpoint gives it again:

* where a slice begins, v is their mean square there;
* where it ends, a mean over all of its steps with AdamW's weights, taken as linear between both ends.

Revoked rows count as in training, in batches of their own: a feature that few live rows have would else divide by
nearly 0. The formula is ours.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from hybridmu.core.kernel.gradients import Gradients
from hybridmu.core.kernel.partition import derive, epoch_order
from hybridmu.core.kernel.rows import Positions, Rows
from hybridmu.core.kernel.training import batch_bounds
from hybridmu.core.strategies.removal import Context

# Batches of live rows whose gradients are squared at a checkpoint; 16 changed no gap (docs/log.md).
_BATCHES = 8
# Those of torch.optim.AdamW.
_DECAY, _EPSILON = 0.999, 1e-8


class Moments:
    """Scales of a run's steps at its checkpoints, one after the other.

    Args:
        context: Of the strategy.
        gradients_at: (x, y) → mean gradient per parameter, at the weights of the moment.
        parameters: What is trained.
        live: The rows that `positions` names, with their features.
        positions: Of live rows, `sampled` ones among them.
        steps: Steps of every slice.
    """

    def __init__(
        self,
        context: Context,
        gradients_at: Gradients,
        parameters: Sequence[Tensor],
        live: Rows,
        positions: Positions,
        steps: Sequence[int],
    ) -> None:
        self._context, self._gradients_at, self._parameters = context, gradients_at, parameters
        self._live, self._positions, self._steps = live, positions, steps
        self._begins: list[Tensor] = []
        self._ends: list[Tensor] = []
        self.visits = 0

    def look(self, point: int) -> None:
        """Take the squares at the checkpoint after slice `point`; 0 is before the first one."""
        revoked, upto = self._context.revoked, min(point + 1, len(self._steps))
        chosen = _sample(self._context, upto)
        gone, there = revoked.upto(upto), self._context.live.upto(upto)
        share = gone / max(1, gone + there)
        ours = self._squares(self._live, np.searchsorted(self._positions, chosen))
        theirs = self._squares(revoked, np.arange(gone))
        now = [(1 - share) * a + share * b for a, b in zip(ours, theirs, strict=True)]
        old = _weight_of_begin(self._steps[point - 1]) if self._begins else 0.0
        self._ends = [old * a + (1 - old) * b for a, b in zip(self._begins or now, now, strict=True)]
        self._begins = now

    def scale(self, number: int, at_end: float, at_begin: float) -> Tensor:
        """Return the factor of a gradient at the checkpoint looked at.

        Args:
            number: Of the parameter.
            at_end: Rate of the gradient as one at the end of the slice.
            at_begin: Rate as one at the begin of the next slice.
        """
        end, begin = self._ends[number], self._begins[number]
        return at_end / (end.sqrt() + _EPSILON) + at_begin / (begin.sqrt() + _EPSILON)

    def _squares(self, rows: Rows, order: Positions) -> list[Tensor]:
        """Return the mean square of batch gradients, per parameter."""
        total = [torch.zeros_like(parameter) for parameter in self._parameters]
        size = self._context.recipe.batch_size
        bounds = batch_bounds(len(order), size)
        for low, high in bounds:
            batch = torch.as_tensor(order[low:high]).to(rows.x.device)
            for sums, gradient in zip(total, self._gradients_at(rows.x[batch], rows.y[batch]), strict=True):
                if gradient is not None:  # a smaller batch varies more
                    sums.addcmul_(gradient, gradient, value=(high - low) / size)
        self.visits += len(order)
        return [sums / max(1, len(bounds)) for sums in total]


def sampled(context: Context) -> Positions:
    """Return the positions of the live rows whose gradients are squared; none where AdamW did not train."""
    if context.recipe.optimizer != "adamw":
        return np.arange(0)
    slices = len(context.recipe.epochs)
    return np.unique(np.concatenate([_sample(context, upto) for upto in range(1, slices + 1)]))


def visits(points: int, rows: int, batch_size: int) -> int:
    """Return about how many sample visits the squares of live rows cost.

    Args:
        points: Checkpoints that are looked at.
        rows: Live rows.
        batch_size: B.
    """
    return points * min(rows, _BATCHES * batch_size)


def _sample(context: Context, upto: int) -> Positions:
    """Return positions of live rows of slices 1..upto, in seeded order."""
    live, seed = context.live, context.recipe.seed ^ (derive("moments") >> 1)
    order = epoch_order(live.words, seed, context.shard, 0, 0)
    return order[live.slice[order] <= upto][: _BATCHES * context.recipe.batch_size]


def _weight_of_begin(steps: int) -> float:
    """Return how much of v at a slice's end is of its begin, when squared gradients change linearly in between."""
    if not steps:
        return 1.0
    ages = np.arange(steps - 1, -1, -1)
    weights = _DECAY**ages
    return float((weights * ages).sum() / weights.sum() / max(1, steps - 1))
