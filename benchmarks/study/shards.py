"""Costs and gaps of strategies, shard by shard: what the planner could have known, and what then came of it.

Beside `boundary.csv` lies `boundary-shards.csv`, and so for every file of records. The planner is pure, so its
decisions can be made again from these rows, also by another cost model or policy (`regret.py`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.study import csvfile
from benchmarks.study.records import Key
from hybridmu.types import CostObservation, ShardStats

# Mixes of what a system has seen before the first deletion that is measured: its training, and a few deletions.
TRAINING, FIRST = "training", "first"


@dataclass(frozen=True)
class ShardRecord:
    """One strategy on one shard, in one deletion.

    Attributes:
        dataset: Built-in dataset.
        model: Built-in task.
        shards: S.
        slices: R.
        epochs: Plain-training epochs.
        mix: Request mix, or `training`, or `first:3` for 3 rows that were deleted before all else.
        strategy: The product's name of it.
        seed: Of the system, of the mix.
        shard: Shard number.
        parameters: Of a sub-model.
        slice_epochs: e_i.
        rows: Training rows per slice.
        revoked: Of these, revoked ones.
        seconds: Wall time on the worker, I/O included: the median, where a grid repeats.
        cpu_seconds: Processor time of the same.
        visits: Sample visits made.
        checkpoints: Checkpoints read and written.
        gap: Mean loss on the revoked rows minus the oracle's.
        alpha: Step of the subtraction.
        predicted_error: What the quality guard would count for it; NaN: canaries said nothing of it.
        class_excess: By how much one class loses more of its rows than all together, as the planner is told.
        workers: Jobs that ran at once.
    """

    dataset: str
    model: str
    shards: int
    slices: int
    epochs: int
    mix: str
    strategy: str
    seed: int
    shard: int
    parameters: int
    slice_epochs: tuple[int, ...]
    rows: tuple[int, ...]
    revoked: tuple[int, ...]
    seconds: float
    cpu_seconds: float
    visits: int
    checkpoints: int
    gap: float
    alpha: float
    predicted_error: float
    class_excess: float
    workers: int

    @property
    def system(self) -> Key:
        """Return what names the system."""
        return tuple(map(str, (self.dataset, self.model, self.shards, self.slices, self.epochs, self.seed)))

    @property
    def key(self) -> Key:
        """Return what names the measurement."""
        return (*self.system, self.mix, self.strategy, str(self.shard))

    @property
    def before(self) -> bool:
        """Return whether the system had seen it before the first deletion that is measured."""
        return self.mix.partition(":")[0] in {TRAINING, FIRST}

    def observation(self) -> CostObservation:
        """Return what a cost model learns from it."""
        reads = self.strategy != "retrain" or self.mix == TRAINING
        read = sum(self.rows) - sum(self.revoked) if reads else 0
        return CostObservation(self.strategy, self.visits, self.checkpoints, self.seconds, read)

    def stats(self) -> ShardStats:
        """Return what the planner was told: every checkpoint is there, and nothing is owed."""
        every, gone = (True,) * len(self.rows), self.revoked
        return ShardStats(self.shard, self.slice_epochs, self.rows, gone, gone, every, class_excess=self.class_excess)


def beside(path: Path) -> Path:
    """Return where the shards of a file of records are.

    Example:
        >>> beside(Path("study/boundary.csv")).name
        'boundary-shards.csv'
    """
    return path.with_name(f"{path.stem}-shards.csv")


def read(path: Path) -> list[ShardRecord]:
    """Return the rows of a file; of a measurement that was interrupted and repeated, the last."""
    return list({record.key: record for record in csvfile.read(path, ShardRecord)}.values())


def append(path: Path, found: Iterable[ShardRecord]) -> None:
    """Append rows to a file, with a header when it is new."""
    csvfile.append(path, found, ShardRecord)
