"""What every strategy takes and gives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from hybridmu.core.model import State, SubModel
from hybridmu.core.rows import Rows
from hybridmu.core.training import Recipe
from hybridmu.task import Task


@dataclass(frozen=True, eq=False)
class Context:
    """One shard, ready for a strategy. Tensors are on the device that trains.

    Attributes:
        shard: Shard number.
        task: Model factory and loss.
        recipe: Hyper-parameters of training.
        live: Rows that stay.
        revoked: Rows whose influence the current weights must lose (an update reads them, a retrain never).
        fresh_model: Makes an untrained sub-model on the right device.
        checkpoint: Slice → state of the trajectory the strategy starts from; None when there is none.
        save: Called with (slice, state, visits) after every exactly trained slice.
        current: State that is live now; an update changes it.
        held_out: Validation rows of the shard; may be empty.
        alpha: Step of the approximate subtraction.
        finetune_epochs: Budget of the fine-tuning, in epochs over the live rows.
        finetune_rate: Its starting rate.
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
    """A named strategy. `exact`: the result equals a from-scratch training on the live rows, bit for bit."""

    name: str
    exact: bool
    run: Callable[[Context], Result]
