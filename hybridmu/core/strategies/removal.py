"""Removal: what a strategy says of itself, what it is given, and what it returns."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from hybridmu.core import learners
from hybridmu.core.learners import Learner
from hybridmu.types import ShardStats, Workload

if TYPE_CHECKING:  # what is planned of strategies takes no PyTorch
    from hybridmu.core.kernel.model import State, SubModel
    from hybridmu.core.kernel.rows import Positions, Rows
    from hybridmu.core.kernel.training import Across, Recipe
    from hybridmu.core.strategies.probe import Probe
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
        learner: How exact sub-models are made.
        part: Those of the live rows that the strategy's `reads` names, with their features; None: `live` has them all.
        remaining: How many rows stay; None: as many as `live` has. A strategy that is `blind` gets no live row.
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
    remaining: int | None = None
    across: Across | None = None
    learner: Learner = field(default_factory=learners.get)

    def read(self, reads: Reads) -> Rows:
        """Return live rows with their features.

        Args:
            reads: Names the rows; it must be the strategy's own.
        """
        if self.part is not None:
            return self.part
        positions = reads(self)
        return self.live if len(positions) == len(self.live) else self.live.take(positions)


# Positions in `Context.live` (sorted, each once) of the rows whose features a strategy asks for. It sees outlines of
# live and revoked rows alone: reading features is most of what an update costs.
Reads = Callable[[Context], "Positions"]


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
class Extent:
    """One shard's removal before a strategy is chosen, for an estimate of the work.

    Attributes:
        stats: Rows and revocations per slice.
        workload: Visits of a retrain, and gradients of an update.
        optimizer: That trained.
        batch_size: B.
        finetune_epochs: Budget of fine-tuning, in epochs over the live rows.
    """

    stats: ShardStats
    workload: Workload
    optimizer: str
    batch_size: int
    finetune_epochs: float


@dataclass(frozen=True)
class Work:
    """The terms of a job's cost, which the cost model turns into seconds.

    Attributes:
        visits: Sample visits; a gradient counts as one.
        checkpoints: Checkpoints read and written.
        rows: Rows that it reads from storage.
    """

    visits: int
    checkpoints: int
    rows: int


class Removal(ABC):
    """A strategy: one way to remove revoked rows from one sub-model. Stateless.

    Attributes:
        name: In plans, configurations and certificates.
        exact: The result equals a from-scratch training on the live rows, bit for bit.
        learner: The only one whose sub-models it can change; None: any.
        place: Who does it: the shard's own worker, which holds its rows, or an updater, which reads what it needs.
        clean: It starts from a checkpoint before every open deletion instead of the current weights, so that no
            influence of a revoked row is left.
        rank: Requests that are fulfilled together get the strategy of the highest rank among those they ask for;
            `auto` has 0, and what leaves no influence of the rows more.
        validates: `run` looks at `Context.held_out`.
        blind: It looks at no live row, nor at the key of one: it takes the same time, however many there are.
        calibrated: Canary deletions tell its step and error; `auto` chooses no update without them.
        steps: The steps α that canaries try, rising; empty for an update that takes no step.
        uncalibrated: Optimizer → α of a request that asks for it before anything is calibrated; else 1.
        basic: Its work is a part of that of every other calibrated update, so that it takes no longer.
        colour: In reports.
    """

    name: ClassVar[str]
    exact: ClassVar[bool] = False
    learner: ClassVar[str | None] = None
    place: ClassVar[Literal["shard", "updater"]] = "updater"
    clean: ClassVar[bool] = False
    rank: ClassVar[int] = -100
    validates: ClassVar[bool] = False
    blind: ClassVar[bool] = False
    calibrated: ClassVar[bool] = False
    steps: ClassVar[tuple[float, ...]] = ()
    uncalibrated: ClassVar[Mapping[str, float]] = {}
    basic: ClassVar[bool] = False
    colour: ClassVar[str] = "#666666"

    @abstractmethod
    def run(self, context: Context) -> Result:
        """Return new weights without the revoked rows.

        Args:
            context: The shard, ready for it.
        """

    @abstractmethod
    def work(self, extent: Extent) -> Work:
        """Return what `run` costs; the less it is off, the better the planner chooses.

        Args:
            extent: What is to be removed from what.
        """

    def reads(self, context: Context) -> Positions:
        """Return the positions in `Context.live` (sorted, each once) of the rows whose features `run` asks for.

        Args:
            context: With outlines of live and revoked rows alone: reading features is most of what an update costs.
        """
        return every(context)

    def unavailable(self, optimizer: str) -> str | None:
        """Return why it can't be used after training by an optimizer, or None."""
        return None

    def unfit(self, probe: Probe) -> str | None:
        """Return why it can't be used with a model, or None."""
        return None

    def trials(self, context: Context) -> Iterator[tuple[float, SubModel]]:
        """Yield (α, changed model) for every step that canaries try; of an update without a step, one with α = 1.

        Args:
            context: A removal of canaries.

        Yields:
            Rising α.
        """
        for alpha in self.steps or (1.0,):
            model = context.fresh_model()
            model.load_state_dict(self.run(replace(context, alpha=alpha)).state)
            yield alpha, model
