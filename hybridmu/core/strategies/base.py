"""Context and result of every strategy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from hybridmu.core.kernel.model import State, SubModel
from hybridmu.core.kernel.rows import Positions, Rows
from hybridmu.core.kernel.training import Across, Recipe
from hybridmu.core.tasks.base import Task


@dataclass(frozen=True, eq=False)
class Context:
    """One shard, ready for a strategy. Tensors are on the device that trains.

    Attributes:
        shard: Shard number.
        task: Model factory and loss.
        recipe: Hyper-parameters of training.
        live: Rows that stay; an outline where `part` is given.
        revoked: Rows whose influence the current weights must lose (an update reads them, a retrain never).
        fresh_model: Makes an untrained sub-model on the right device.
        checkpoint: Slice → state of the trajectory the strategy starts from; None when there is none.
        save: Called with (slice, state, visits) after every exactly trained slice.
        current: State that is live now; an update changes it.
        held_out: Validation rows of the shard; may be empty.
        alpha: Step of the approximate subtraction.
        finetune_epochs: Budget of the fine-tuning, in epochs over the live rows.
        finetune_rate: Its starting rate.
        across: Opens a model for training by several processes; None: by this one.
        part: Those of the live rows that the strategy's `reads` names, with their features; None: `live` has them all.
    """

    shard: int
    task: Task
    recipe: Recipe
    live: Rows
    revoked: Rows
    fresh_model: Callable[[], SubModel]
    checkpoint: Callable[[int], State | None]
    save: Callable[[int, State, int], None]
    current: State | None = None
    held_out: Rows | None = None
    alpha: float = 0.0
    finetune_epochs: float = 0.0
    finetune_rate: float = 0.0
    part: Rows | None = None
    across: Across | None = None

    def read(self, reads: Reads) -> Rows:
        """Return live rows with their features.

        Args:
            reads: Names the rows; it must be the one that the strategy is registered with.
        """
        if self.part is not None:
            return self.part
        positions = reads(self)
        return self.live if len(positions) == len(self.live) else self.live.take(positions)


# Positions in `Context.live` (sorted, each once) of the rows whose features a strategy asks for. It sees outlines of
# live and revoked rows alone: reading features is most of what an update costs.
Reads = Callable[[Context], Positions]


def every(context: Context) -> Positions:
    """Return the positions of all live rows."""
    return np.arange(len(context.live))


@dataclass(frozen=True, eq=False)
class Result:
    """New weights, and what they cost.

    Attributes:
        state: Parameters and buffers on the CPU.
        first_slice: First slice that was trained or corrected.
        visits: Sample visits made (a gradient counts as one).
    """

    state: State
    first_slice: int
    visits: int


@dataclass(frozen=True)
class Strategy:
    """A named strategy.

    Attributes:
        name: In plans and configurations.
        exact: The result equals a from-scratch training on the live rows, bit for bit.
        run: Does it.
        reads: Names the live rows whose features `run` asks `Context.read` for.
        validates: Whether `run` looks at `Context.held_out`.
    """

    name: str
    exact: bool
    run: Callable[[Context], Result]
    reads: Reads = every
    validates: bool = False
