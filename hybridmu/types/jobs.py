"""Jobs: what the coordinator asks of workers, one type per kind of work.

A `ShardJob` is done by the worker of its shard, which has the shard's rows in memory; an `UpdaterJob` by any updater.
The maker of a job says what is to be done. Generations, seals and tombstones are filled in when the job leaves for a
worker (`runtime.coordinator.dispatcher`): rows that were revoked while it waited must not be read any more.
"""

from __future__ import annotations

from dataclasses import dataclass

from hybridmu.types.calibration import CalibrationCell
from hybridmu.types.keys import NO_KEYS, KeySet
from hybridmu.types.names import StrategyName
from hybridmu.types.requests import RequestNeed, Tombstone
from hybridmu.types.versions import PastSubModel

Seals = tuple[tuple[str, tuple[str, ...]], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    """Base of all jobs.

    Attributes:
        job_id: Names this attempt; an outcome carries it back.
        generations: How many generations of rows the job is about; later ones are not read.
        seals: (file of the lake, seals that it may have), of every file that the job reads; None: not to be compared.
    """

    job_id: str
    generations: int = 1
    seals: Seals | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _OneShardJob(_Job):
    """Base of the jobs on one shard.

    Attributes:
        shard: Shard number.
    """

    shard: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _WholeLakeJob(_Job):
    """Base of the jobs on what all shards share."""

    @property
    def shard(self) -> None:
        """Return None: the job is on no shard of its own."""
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrainJob(_OneShardJob):
    """Train a shard exactly, without its tombstoned rows.

    Attributes:
        tombstones: Keys of every deletion in the shard.
        upto: Highest tombstone seq covered; becomes the sub-model's watermark.
        mend: Read every checkpoint first, and train again from the first damaged one on.
    """

    tombstones: KeySet = NO_KEYS
    upto: int = 0
    mend: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateJob(_OneShardJob):
    """Change a shard's weights by a strategy that is not exact.

    Attributes:
        strategy: Which; any but `retrain`.
        tombstones: Keys of every deletion in the shard that the result must not contain.
        upto: Highest tombstone seq covered; becomes the sub-model's watermark.
        trajectory: Blobs of the last exact run's checkpoints, slice 1 first.
        current_blob: Blob of the sub-model that is live now.
        alpha: Step of the subtraction.
        revoked: Keys to subtract: the current sub-model still contains them. Of a rewind: all that the trajectory
            contains.
        removed: Keys that the current sub-model contains no more; of a rewind, the trajectory.
    """

    strategy: StrategyName
    tombstones: KeySet = NO_KEYS
    upto: int = 0
    trajectory: tuple[str, ...] = ()
    current_blob: str | None = None
    alpha: float = 0.0
    revoked: KeySet = NO_KEYS
    removed: KeySet = NO_KEYS


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrateJob(_OneShardJob):
    """Delete canaries among a shard's live rows by every update, to learn what updates are worth.

    Attributes:
        cells: For what canaries are deleted.
        avoid: Digests of ids and groups that are canaries of other cells.
        tombstones: Keys of every deletion in any shard: validation rows of others are read.
    """

    cells: tuple[CalibrationCell, ...]
    avoid: tuple[bytes, ...] = ()
    tombstones: KeySet = NO_KEYS


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditJob(_OneShardJob):
    """Make and measure the shadow models of one number.

    Attributes:
        strategy: What is audited.
        number: Decides the seeds.
        canaries: Keys of live rows that are forgotten for the audit.
        tombstones: Keys of rows that no shadow model may see.
        watched: Keys of rows that were really revoked, whose traces in the served sub-model are looked for.
        served_blob: The served sub-model; None: it is not looked at.
        before_blob: The one that saw the watched rows; None when there is none.
        alpha: Step of the subtraction.
    """

    strategy: StrategyName
    number: int
    canaries: KeySet
    tombstones: KeySet = NO_KEYS
    watched: KeySet = NO_KEYS
    served_blob: str | None = None
    before_blob: str | None = None
    alpha: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ProveJob(_OneShardJob):
    """Make the evidence that certificates need of a shard, and survey what its purge will remove.

    Attributes:
        tombstones: The shard's tombstones that are out exactly and not purged.
        history: The shard's sub-models, oldest first.
        needs: Requests that need evidence of this shard.
        going: Requests whose rows are about to be purged.
        held: Keys whose rows a legal hold keeps.
    """

    tombstones: tuple[Tombstone, ...] = ()
    history: tuple[PastSubModel, ...] = ()
    needs: tuple[RequestNeed, ...] = ()
    going: tuple[str, ...] = ()
    held: KeySet = NO_KEYS


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeseeRowsJob(_OneShardJob):
    """Work out what a shard's tables will hold without rows.

    Attributes:
        keys: Keys of the rows.
    """

    keys: KeySet


@dataclass(frozen=True, slots=True, kw_only=True)
class PurgeRowsJob(_OneShardJob):
    """Remove rows from a shard's tables, and every file that the served version does not stand on.

    Attributes:
        keys: Keys of the rows.
        blobs: Blobs to keep.
        lineage_keys: Lineage entries to keep.
    """

    keys: KeySet
    blobs: tuple[str, ...] = ()
    lineage_keys: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeseeIndexJob(_WholeLakeJob):
    """Work out what the index files, which all shards share, will hold without rows.

    Attributes:
        rows: (shard, id digest) of the rows.
        content: Content digests of those in the training table.
    """

    rows: tuple[tuple[int, bytes], ...]
    content: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PurgeIndexJob(_WholeLakeJob):
    """Remove rows from the index files, which all shards share.

    Attributes:
        rows: (shard, id digest) of the rows.
        content: Content digests of those in the training table.
    """

    rows: tuple[tuple[int, bytes], ...]
    content: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchJob(_WholeLakeJob):
    """Search storage for what was purged.

    Attributes:
        needles: Digests and telling raw ids that must not be found.
        purged_shards: Shards whose files were purged.
        database: Path of SQLite's file, which is searched later; empty for another database.
        waiting: Copies of new rows, which went through the guard.
    """

    needles: tuple[bytes, ...]
    purged_shards: tuple[int, ...] = ()
    database: str = ""
    waiting: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateJob(_WholeLakeJob):
    """Measure the quality of a version on held-out rows.

    Attributes:
        version: Its number.
        sub_models: (shard, blob) of those that vote, in shard order.
        tombstones: Keys of every deletion in any shard: no revoked row is asked about.
    """

    version: int
    sub_models: tuple[tuple[int, str], ...]
    tombstones: KeySet = NO_KEYS


ModelJob = RetrainJob | UpdateJob  # makes a sub-model
ShardJob = RetrainJob | CalibrateJob | ProveJob | ForeseeRowsJob | PurgeRowsJob
UpdaterJob = UpdateJob | AuditJob | EvaluateJob | ForeseeIndexJob | PurgeIndexJob | SearchJob
Job = ShardJob | UpdaterJob
