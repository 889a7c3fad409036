"""Outcomes of jobs: what workers give back."""

from __future__ import annotations

from dataclasses import dataclass

from hybridmu.types.calibration import CalibrationOutcome
from hybridmu.types.names import StrategyName
from hybridmu.types.quality import Quality
from hybridmu.types.versions import SliceRecord


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
    """What a `ProveJob` found.

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
class ForeseeRowsOutcome:
    """What a `ForeseeRowsJob` worked out.

    Attributes:
        job_id: The job's.
        shard: Shard number.
        seals: (table, its seal now, its seal without the rows).
    """

    job_id: str
    shard: int
    seals: tuple[tuple[str, str, str], ...]


@dataclass(frozen=True, slots=True)
class ForeseeIndexOutcome:
    """What a `ForeseeIndexJob` worked out.

    Attributes:
        job_id: The job's.
        seals: (index file, its seal now, its seal without the rows).
    """

    job_id: str
    seals: tuple[tuple[str, str, str], ...]


@dataclass(frozen=True, slots=True)
class PurgeRowsOutcome:
    """What a `PurgeRowsJob` removed.

    Attributes:
        job_id: The job's.
        shard: Shard number.
        tables: Tables that were rewritten.
        files: Blobs, lineage entries and temporary files that were deleted.
    """

    job_id: str
    shard: int
    tables: int
    files: int


@dataclass(frozen=True, slots=True)
class PurgeIndexOutcome:
    """What a `PurgeIndexJob` removed.

    Attributes:
        job_id: The job's.
        tables: Index files that were rewritten.
        twins: Training rows left that have the features and label of a purged one.
    """

    job_id: str
    tables: int
    twins: int


@dataclass(frozen=True, slots=True)
class SearchOutcome:
    """What a `SearchJob` found.

    Attributes:
        job_id: The job's.
        found: (file, needles in it), of files that still name a purged row.
        looked: How much was searched, by name.
    """

    job_id: str
    found: tuple[tuple[str, tuple[bytes, ...]], ...]
    looked: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class ShardOutcome:
    """What a job that makes a sub-model did.

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
    """Why a job did not finish; `retryable` when another attempt may succeed. `shard` is None where a job has none."""

    job_id: str
    shard: int | None
    error: str
    retryable: bool
    strategy_unavailable: bool = False


@dataclass(frozen=True, slots=True)
class AuditOutcome:
    """What an `AuditJob` measured.

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


@dataclass(frozen=True, slots=True)
class EvaluationOutcome:
    """What an `EvaluateJob` measured.

    Attributes:
        job_id: The job's.
        quality: Of the version.
    """

    job_id: str
    quality: Quality


ShardResult = ShardOutcome | CalibrationOutcome | ProofOutcome | ForeseeRowsOutcome | PurgeRowsOutcome
UpdaterResult = (
    ShardOutcome | AuditOutcome | EvaluationOutcome | ForeseeIndexOutcome | PurgeIndexOutcome | SearchOutcome
)
JobResult = ShardResult | UpdaterResult | ShardFailure
