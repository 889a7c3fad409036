"""Learner: how a sub-model begins, how it is fitted to live rows, and what fitting it again costs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from hybridmu.types import ShardStats, Workload

if TYPE_CHECKING:  # a learner is named and planned with where nothing is trained
    from hybridmu.core.kernel.model import State, SubModel
    from hybridmu.core.kernel.rows import Rows
    from hybridmu.core.kernel.training import Across, Recipe
    from hybridmu.core.tasks.base import Task


@dataclass(frozen=True, eq=False)
class Fit:
    """A sub-model that is to be fitted.

    Attributes:
        model: As `Learner.initial` makes it, on the device that trains; changed in place.
        rows: Live rows of the shard.
        recipe: Hyper-parameters.
        task: Supplies the loss.
        shard: Shard number.
        checkpoint: Slice → its state by the lineage of `rows`; None when there is none.
        save: Called with (slice, state, visits) after every slice that was fitted.
        across: Opens the model for training by several processes; None: by this one.
    """

    model: SubModel
    rows: Rows
    recipe: Recipe
    task: Task
    shard: int
    checkpoint: Callable[[int], State | None]
    save: Callable[[int, State, int], None]
    across: Across | None = None


@dataclass(frozen=True, eq=False)
class Fitted:
    """What came of it.

    Attributes:
        state: Parameters and buffers on the CPU.
        first_slice: First slice that was fitted; R + 1 when a checkpoint held all.
        visits: Sample visits made.
    """

    state: State
    first_slice: int
    visits: int


class Learner(ABC):
    """One way to make a sub-model. Stateless, and a function of (recipe, seed, shard, live rows) alone.

    Whatever it does with slice i may depend on the rows of slices up to i only: a checkpoint is found again by the
    lineage of those rows.

    Attributes:
        name: In configurations.
        portable: A sub-model has the same bits on any machine and with any version of the libraries, so that its
            checkpoints are found again there.
    """

    name: ClassVar[str]
    portable: ClassVar[bool] = False

    @abstractmethod
    def initial(self, task: Task, *, features: int, classes: int, standardize: bool, seed: int, shard: int) -> SubModel:
        """Return the untrained sub-model of a shard, on the CPU.

        Args:
            task: Model factory.
            features: Encoded width.
            classes: Number of classes.
            standardize: Put a scaler in front.
            seed: Seed of the system; all that is random depends on it and the shard.
            shard: Shard number.
        """

    @abstractmethod
    def fit(self, job: Fit) -> Fitted:
        """Go on from the newest checkpoint, or start over, until all slices are learned.

        A task that learns numbers has a scale of targets in its model: go on from `hybridmu.plugins.scaled(job)`, which
        has it fitted before the first slice with rows is learned.

        Args:
            job: The sub-model, its rows, and where checkpoints are.

        Returns:
            The final state: the same bits from whichever checkpoint it went on.
        """

    @abstractmethod
    def workload(self, stats: ShardStats) -> Workload:
        """Return what removals of a shard's revoked rows have to do.

        Args:
            stats: Rows and revocations per slice, existing clean checkpoints.
        """
