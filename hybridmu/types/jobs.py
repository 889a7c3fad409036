"""Work on one shard, and what comes back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

from hybridmu.types.calibration import CalibrationCell, CalibrationOutcome
from hybridmu.types.names import Errand, KeyKind, StrategyName
from hybridmu.types.requests import RequestNeed, Tombstone
from hybridmu.types.versions import PastSubModel, SliceRecord


@dataclass(frozen=True, slots=True)
class ShardJob:
    """One unit of work for a shard actor or an updater.

    Attributes:
        job_id: Names this attempt; an outcome carries it back.
        shard: Shard number.
        strategy: What to run: a strategy that makes weights, or an errand: `calibrate` fits α by canary deletions,
            `audit` makes shadow models, `prove` makes evidence, `foresee` and `foresee-index` say what files will hold
            without rows, `purge` and `purge-index` remove rows and old files, `look` searches.
        tombstones: (kind, key) of every deletion in this shard that the result must not contain.
        upto: Highest tombstone seq covered; becomes the sub-model's watermark.
        trajectory: Blobs of the last exact run's checkpoints, slice 1 first; only an update reads them.
        current_blob: Blob of the sub-model that is live now; None for an empty shard.
        alpha: Step of the subtraction.
        fresh: (kind, key) that an update subtracts: the current sub-model still contains them. Of a rewind: all that
            the trajectory contains. Of an `audit`: the canaries, which are live.
        removed: (kind, key) that the current sub-model contains no more; of a rewind, the trajectory. Of an `audit`:
            those that are looked at.
        mend: Read every checkpoint first, and train anew from the first damaged one on.
        generations: How many generations of rows the job is about; later ones are not read.
        seals: (file of the lake, seals that it may have), of every file that the job reads; None: not to be compared.
        stones: Of a `prove`: the shard's tombstones that are out exactly and not purged.
        history: Of a `prove`: the shard's sub-models, oldest first.
        requests: Of a `prove`: requests that need evidence of this shard.
        going: Of a `prove`: requests whose rows are about to be purged.
        held: Of a `prove`: (kind, key) whose rows a legal hold keeps.
        keep: Of a `purge`: blobs and lineage keys that the served version stands on.
        gone: Of a `purge-index` or `foresee-index`: (shard, id digest) of the rows.
        content: Likewise: content digests of those in the training table.
        needles: Of a `look`: digests and telling raw ids that must not be found.
        purged_shards: Of a `look`: shards whose files were purged.
        database: Of a `look`: path of SQLite's file, which is searched later.
        waiting: Of a `look`: copies of new rows, which went through the guard.
        audited: Of an `audit`: the strategy.
        number: Of an `audit`: decides the seeds.
        cells: Of a `calibrate`: for what canaries are deleted.
        avoid: Of a `calibrate`: digests of ids and groups that are canaries of other cells.
    """

    job_id: str
    shard: int
    strategy: StrategyName | Errand
    tombstones: tuple[tuple[KeyKind, bytes], ...] = ()
    upto: int = 0
    trajectory: tuple[str, ...] = ()
    current_blob: str | None = None
    alpha: float = 0.0
    fresh: tuple[tuple[KeyKind, bytes], ...] = ()
    removed: tuple[tuple[KeyKind, bytes], ...] = ()
    mend: bool = False
    generations: int = 1
    seals: tuple[tuple[str, tuple[str, ...]], ...] | None = None
    stones: tuple[Tombstone, ...] = ()
    history: tuple[PastSubModel, ...] = ()
    requests: tuple[RequestNeed, ...] = ()
    going: tuple[str, ...] = ()
    held: tuple[tuple[KeyKind, bytes], ...] = ()
    keep: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())
    gone: tuple[tuple[int, bytes], ...] = ()
    content: tuple[bytes, ...] = ()
    needles: tuple[bytes, ...] = ()
    purged_shards: tuple[int, ...] = ()
    database: str = ""
    waiting: tuple[str, ...] = ()
    cells: tuple[CalibrationCell, ...] = ()
    avoid: tuple[bytes, ...] = ()
    audited: StrategyName = "retrain"
    number: int = 0

    @property
    def central(self) -> bool:
        """Return whether an updater does it, and not the shard's own worker."""
        return self.strategy not in {"retrain", "calibrate", "prove", "foresee", "purge"}

    @property
    def method(self) -> str:
        """Return the name of the worker's method."""
        known = {"retrain", *get_args(Errand)}
        return self.strategy.replace("-", "_") if self.strategy in known else "update"


@dataclass(frozen=True, slots=True)
class Proof:
    """What a shard shows of a request.

    Attributes:
        request_id: The request.
        document: JSON of its `ShardEvidence`; empty when none could be made.
        refused: Why it does not show the deletion; None when it does.
    """

    request_id: str
    document: str
    refused: str | None = None


@dataclass(frozen=True, slots=True)
class ProofOutcome:
    """What a `prove` job found.

    Attributes:
        job_id: The job's.
        shard: Shard number.
        proofs: One per request that needed evidence.
        surveys: (request, JSON of what its purge will remove).
        held: Requests some of whose rows a legal hold keeps.
    """

    job_id: str
    shard: int
    proofs: tuple[Proof, ...]
    surveys: tuple[tuple[str, str], ...]
    held: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ForeseenOutcome:
    """What a `foresee` or `foresee-index` job worked out.

    Attributes:
        job_id: The job's.
        shard: Shard number.
        seals: (file, its seal now, its seal without the rows).
    """

    job_id: str
    shard: int
    seals: tuple[tuple[str, str, str], ...]


@dataclass(frozen=True, slots=True)
class PurgeOutcome:
    """What a `purge` or `purge-index` job removed.

    Attributes:
        job_id: The job's.
        shard: Shard number.
        tables: Tables or index files that were rewritten.
        files: Blobs, lineage entries and temporary files that were deleted.
        twins: Of a `purge-index`: training rows left that have the features and label of a purged one.
    """

    job_id: str
    shard: int
    tables: int
    files: int = 0
    twins: int = 0


@dataclass(frozen=True, slots=True)
class LookOutcome:
    """What a `look` job found.

    Attributes:
        job_id: The job's.
        shard: −1.
        found: (file, needles in it), of files that still name a purged row.
        looked: How much was searched, by name.
    """

    job_id: str
    shard: int
    found: tuple[tuple[str, tuple[bytes, ...]], ...]
    looked: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class ShardOutcome:
    """What a job did.

    Attributes:
        job_id: The job's.
        shard: Shard number.
        strategy: What ran.
        blob: New weights; None when no live row is left: the shard leaves the vote.
        exact: Whether the weights equal a from-scratch training.
        upto: Highest tombstone seq covered.
        live: Training rows left.
        first_slice: First slice trained or corrected.
        visits: Sample visits made.
        seconds: Wall time on the worker, I/O included.
        slices: Every checkpoint of an exact run, reused ones with 0 visits; empty for an update.
        checkpoints_read: Checkpoints loaded.
        head: Of an exact run: hash of the code, libraries, hyper-parameters and machine that made it.
        generations: How many generations of rows an exact run was made of.
        rows_read: Rows that were read from storage; a worker that has them in memory reads none.
    """

    job_id: str
    shard: int
    strategy: StrategyName
    blob: str | None
    exact: bool
    upto: int
    live: int
    first_slice: int
    visits: int
    seconds: float
    slices: tuple[SliceRecord, ...] = ()
    checkpoints_read: int = 0
    head: str | None = None
    generations: int = 1
    rows_read: int = 0


@dataclass(frozen=True, slots=True)
class ShardFailure:
    """Why a job did not finish; `retryable` when another attempt may succeed."""

    job_id: str
    shard: int
    error: str
    retryable: bool
    strategy_unavailable: bool = False


@dataclass(frozen=True, slots=True)
class AuditOutcome:
    """What an `audit` job measured.

    Attributes:
        job_id: The job's.
        shard: Shard number.
        number: Which shadow models.
        seconds: Wall time on the worker.
        document: JSON of their `core.shadow.Shadow`.
    """

    job_id: str
    shard: int
    number: int
    seconds: float
    document: str


JobResult = (
    ShardOutcome
    | ShardFailure
    | CalibrationOutcome
    | AuditOutcome
    | ProofOutcome
    | ForeseenOutcome
    | PurgeOutcome
    | LookOutcome
)
