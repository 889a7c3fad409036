"""Frozen values that cross a process border. No behaviour beyond derived properties.

Slices are numbered 1..R as in the literature; a tuple indexed by slice holds slice i at position i − 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

KeyKind = Literal["id", "group"]
StrategyName = Literal["retrain", "rewind", "dpus", "dpus-optimised", "dpus-newton"]
Errand = Literal["calibrate", "audit", "prove", "purge", "purge-index", "look"]  # jobs that change no weights
StrategyChoice = Literal["auto", "retrain", "rewind", "dpus", "dpus-optimised", "dpus-newton"]
UPDATES: frozenset[str] = frozenset({"rewind", "dpus", "dpus-optimised", "dpus-newton"})  # done by updaters, not exact


class RequestState(StrEnum):
    """Life of a request; it only moves forward, FAILED and CANCELLED aside."""

    RECEIVED = "RECEIVED"
    PLANNED = "PLANNED"
    APPLIED = "APPLIED"
    SERVED = "SERVED"
    PURGED = "PURGED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"


class IngestState(StrEnum):
    """Life of an ingestion: its rows are in storage, in a published version, in every answer; FAILED aside."""

    RECEIVED = "RECEIVED"
    APPLIED = "APPLIED"
    SERVED = "SERVED"
    FAILED = "FAILED"


class ForwardState(StrEnum):
    """Life of a request's copy for a linked model: it waits, that model has it, or that model is no more."""

    WAITING = "WAITING"
    DELIVERED = "DELIVERED"
    RETIRED = "RETIRED"


@dataclass(frozen=True, slots=True)
class Tombstone:
    """A revoked key: rows that carry it are dead from commit on.

    Attributes:
        seq: Commit order over the whole ledger, 1, 2, …
        kind: Whether the key is a row id or a group.
        key: 16-byte keyed digest of the id or group (never the raw value).
        shard: Shard that holds the rows.
        slice: Slice that holds the rows.
        request_id: The request that brought it.
        rows: Training rows that no earlier tombstone had revoked.
    """

    seq: int
    kind: KeyKind
    key: bytes
    shard: int
    slice: int
    request_id: str
    rows: int = 1


@dataclass(frozen=True, slots=True)
class RowKey:
    """The keys of one row in the lake.

    Attributes:
        id: Digest of its id.
        group: Digest of its group; None where it has none.
        training: Whether it lies in the training table.
    """

    id: bytes
    group: bytes | None = None
    training: bool = True


@dataclass(frozen=True, slots=True)
class ResolvedKey:
    """Where a key of a request lives, before it is a tombstone.

    Attributes:
        kind: Id or group.
        key: 16-byte digest.
        shard: Shard that holds the rows.
        slice: Their slice; a group has one such entry per slice, since later data of it lies in later slices.
        rows: Every row of that slice that carries the key, revoked ones included.
        mac: HMAC of the raw id or group, for the guard.
        mac_key: Which guard key made it.
    """

    kind: KeyKind
    key: bytes
    shard: int
    slice: int
    rows: tuple[RowKey, ...]
    mac: bytes = b""
    mac_key: str = ""


@dataclass(frozen=True, slots=True)
class NamedKey:
    """A key as linked models tell each other of it: never the raw id or group.

    Attributes:
        kind: Id or group.
        key: 16-byte digest, the same in all linked models; empty where only the guard's entry is left of it.
        mac: HMAC for the guard.
        mac_key: Which guard key made it.
    """

    kind: KeyKind
    key: bytes
    mac: bytes
    mac_key: str


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a request came from that was accepted by a linked model.

    Attributes:
        system: Random name of that model's system.
        name: Its name for people.
        request_id: The request there.
        deadline_at: When it must be exact and purged, in seconds since the epoch, UTC.
    """

    system: str
    name: str
    request_id: str
    deadline_at: float | None = None

    @property
    def text(self) -> str:
        """Return what the ledger keeps of it."""
        return f"{self.system}:{self.request_id}"


@dataclass(frozen=True, slots=True)
class ForgetRequest:
    """One deletion request as the ledger knows it. Times are seconds since the epoch, UTC.

    Attributes:
        request_id: Its name.
        state: How far it is.
        strategy: What the caller asked for.
        keys: Ids and groups that it revoked.
        received_at: When it was committed.
        caller: Who asked.
        deadline_at: When it must be exact and purged.
        quarantined_at: When no replica let the touched shards vote any more, where the policy wants that.
        applied_at: When a version without the rows was published.
        served_at: When no replica answered with an older version any more.
        exact_at: When every touched shard equalled a training without the rows.
        purged_at: When no file held the rows any more.
        version_before: What was served when it was planned.
        version_after: The first version without the rows.
        version_exact: The first version that is exact for it.
        certificate: Number of its certificate.
        reason: Why it failed, or is not purged yet.
        already_forgotten: Keys of the call that were revoked before.
        ignored_unknown: Keys of the call that do not exist and were ignored.
        origin: `SYSTEM:REQUEST` of the linked model that passed it on; None when it was asked here.
    """

    request_id: str
    state: RequestState
    strategy: StrategyChoice
    keys: int
    received_at: float
    caller: str = ""
    deadline_at: float | None = None
    quarantined_at: float | None = None
    applied_at: float | None = None
    served_at: float | None = None
    exact_at: float | None = None
    purged_at: float | None = None
    version_before: int | None = None
    version_after: int | None = None
    version_exact: int | None = None
    certificate: int | None = None
    reason: str | None = None
    already_forgotten: int = 0
    ignored_unknown: int = 0
    origin: str | None = None


@dataclass(frozen=True, slots=True)
class Touched:
    """A shard that deletions wait for.

    Attributes:
        shard: Number.
        first: Tombstone number that the first of them needs out.
        last: That of the last one.
    """

    shard: int
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Ingestion:
    """New data for a trained system, as the ledger knows it. Times are seconds since the epoch, UTC.

    Attributes:
        ingest_id: Its name.
        state: How far it is.
        source: Name in storage of the copy that was checked; the file is gone once the rows are in the lake.
        slices: How many slices its generation has.
        epochs: Epochs of each of them.
        rows: Rows that came in.
        skipped: Rows that were left out, because their id or group is forgotten.
        received_at: When it was committed.
        caller: Who asked.
        after_request: Its rows come in only when this request is PURGED (a correction).
        generation: Number of the generation that it made; None until then, or when every row was left out.
        version: The first version that knows its rows.
        applied_at: When that version was published.
        served_at: When no replica answered with an older version any more.
        reason: Why it failed or waits.
    """

    ingest_id: str
    state: IngestState
    source: str
    slices: int
    epochs: int
    rows: int
    skipped: int
    received_at: float
    caller: str = ""
    after_request: str | None = None
    generation: int | None = None
    version: int | None = None
    applied_at: float | None = None
    served_at: float | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class ShardStats:
    """What the planner knows of one touched shard.

    Attributes:
        shard: Its number, 0-based.
        epochs: e_i, epochs that each slice is trained for once `revoked` is out.
        rows: n_{s,i}, rows in the last exact model, per slice.
        revoked: |U_{s,i}|, those not yet removed exactly, per slice (all open deletions together).
        newly_revoked: Those of `revoked` that no approximate update has removed yet, per slice.
        clean: Whether the checkpoint after slice i exists for the live rows without `revoked`.
        trajectory: Whether every checkpoint of the last exact run exists (the approximate update needs them).
        error_spent: Predicted forget-loss error of approximate removals since the last exact retrain.
        class_excess: By how much the share of one class's rows that is revoked exceeds that of all rows, beyond chance,
            for the worst class; None: nobody looked.
    """

    shard: int
    epochs: tuple[int, ...]
    rows: tuple[int, ...]
    revoked: tuple[int, ...]
    newly_revoked: tuple[int, ...]
    clean: tuple[bool, ...]
    trajectory: bool = True
    error_spent: float = 0.0
    class_excess: float | None = None

    @property
    def live(self) -> int:
        """Rows left after the removal."""
        return sum(self.rows) - sum(self.revoked)


@dataclass(frozen=True, slots=True)
class ShardPlan:
    """What will happen to one shard, and why.

    Attributes:
        shard: Shard number.
        strategy: Chosen strategy.
        first_slice: First slice that is trained again (R + 1 when none is).
        revoked: Rows to remove.
        sample_visits: Training visits of the chosen strategy (retrain: W_s; update: gradients and fine-tuning).
        workload_ratio: ρ_s, retraining visits over those of the whole shard.
        estimated_seconds: Predicted seconds on one worker.
        interval: Lower and upper bound of the prediction.
        alternatives: Strategy → predicted seconds, for every one that was available.
        rule: The rule that decided.
        reasons: Sentences with the numbers, in the order in which the rules were asked.
        alpha: Step of the approximate subtraction; 0 for a retrain.
        predicted_error: Forget-loss error that the approximate update adds to the shard's account.
        calibration: What canaries say of the update that was chosen or weighed; None: it was never calibrated.
    """

    shard: int
    strategy: StrategyName
    first_slice: int
    revoked: int
    sample_visits: int
    workload_ratio: float
    estimated_seconds: float
    interval: tuple[float, float]
    alternatives: tuple[tuple[str, float], ...]
    rule: str
    reasons: tuple[str, ...]
    alpha: float = 0.0
    predicted_error: float = 0.0
    calibration: CalibrationEstimate | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """A frozen decision over all touched shards; `shards` is in dispatch order, longest first."""

    shards: tuple[ShardPlan, ...]
    makespan_seconds: float
    workers: int
    updaters: int
    warnings: tuple[str, ...] = ()

    def explain(self) -> str:
        """Return the whole plan as text, one block per shard."""
        lines = [
            f"{len(self.shards)} shard(s), about {self.makespan_seconds:.2f} s on {self.workers} worker(s) "
            f"and {self.updaters} updater(s)"
        ]
        for shard in self.shards:
            low, high = shard.interval
            lines.append(
                f"shard {shard.shard}: {shard.strategy} by the {shard.rule} rule, {shard.revoked} row(s), "
                f"from slice {shard.first_slice}, {shard.sample_visits} visits, "
                f"{shard.estimated_seconds:.3f} s [{low:.3f}, {high:.3f}]"
            )
            lines += [f"  - {reason}" for reason in shard.reasons]
        return "\n".join([*lines, *(f"warning: {w}" for w in self.warnings)])


@dataclass(frozen=True, slots=True)
class SliceRecord:
    """One checkpoint of one sub-model: after which slice, under which lineage, in which blob."""

    slice: int
    lineage_key: str
    blob: str
    visits: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class ShardJob:
    """One unit of work for a shard actor or an updater.

    Attributes:
        job_id: Names this attempt; an outcome carries it back.
        shard: Shard number.
        strategy: What to run: a strategy that makes weights, or an errand: `calibrate` fits α by canary deletions,
            `audit` makes shadow models, `prove` makes evidence, `purge` and `purge-index` remove rows and old files,
            `look` searches.
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
        stones: Of a `prove`: the shard's tombstones that are out exactly and not purged.
        history: Of a `prove`: the shard's sub-models, oldest first.
        requests: Of a `prove`: requests that need evidence of this shard.
        going: Of a `prove`: requests whose rows are about to be purged.
        held: Of a `prove`: (kind, key) whose rows a legal hold keeps.
        keep: Of a `purge`: blobs and lineage keys that the served version stands on.
        gone: Of a `purge-index`: (shard, id digest) of the rows.
        content: Of a `purge-index`: content digests of those in the training table.
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
        return self.strategy in UPDATES | {"audit", "purge-index", "look"}

    @property
    def method(self) -> str:
        """Return the name of the worker's method."""
        return "update" if self.strategy in UPDATES else self.strategy.replace("-", "_")


@dataclass(frozen=True, slots=True)
class RequestNeed:
    """What a request waits for on one shard: tombstones up to this number."""

    request_id: str
    upto: int


@dataclass(frozen=True, slots=True)
class PastSubModel:
    """A shard's sub-model, the version that brought it, and the strategy that made it."""

    version: int
    strategy: StrategyName
    sub: SubModel


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
class SubModel:
    """The state of one shard inside a version.

    Attributes:
        shard: Shard number.
        blob: Weights; None for an emptied shard.
        exact: Whether the weights equal a from-scratch training on the live rows.
        removed_upto: Tombstones of this shard with seq ≤ this are out, exactly or approximately.
        exact_upto: Tombstones with seq ≤ this were out in the last exact run.
        checkpoints: Those of the last exact run that were there when it ended, in slice order.
        error_spent: Predicted error of approximate removals since the last exact run.
        head: Hash of the code, libraries, hyper-parameters and machine of the last exact run.
        generations: How many generations of rows the last exact run was made of.
    """

    shard: int
    blob: str | None
    exact: bool
    removed_upto: int
    exact_upto: int
    checkpoints: tuple[SliceRecord, ...]
    error_spent: float = 0.0
    head: str | None = None
    generations: int = 1

    def trajectory(self, slices: int) -> tuple[str, ...]:
        """Return the blobs of the last exact run, slice 1 first; empty unless all of them are known."""
        return tuple(record.blob for record in self.checkpoints) if len(self.checkpoints) == slices else ()


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """An immutable version: one sub-model per shard, in shard order."""

    version: int
    created_at: float
    shards: tuple[SubModel, ...]


@dataclass(frozen=True, slots=True)
class CostObservation:
    """A measured outcome the cost model learns from.

    Attributes:
        strategy: What ran.
        visits: Sample visits made.
        checkpoints: Checkpoints read and written.
        seconds: Wall time on the worker, I/O included.
        rows: Rows read from storage: the live ones for an update and the first retrain of a process, later none.
    """

    strategy: str
    visits: int
    checkpoints: int
    seconds: float
    rows: int = 0


@dataclass(frozen=True, slots=True, order=True)
class CalibrationCell:
    """Deletions that one set of canaries stands for.

    Attributes:
        first_slice: First touched slice.
        share: Revoked rows over the rows of the shard.
    """

    first_slice: int
    share: float


@dataclass(frozen=True, slots=True)
class CalibrationCurve:
    """What one update did to one shard's canaries, along the grid of steps of `core.calibration.ALPHAS`.

    Attributes:
        strategy: The update.
        shard: Shard of the canaries.
        cell: What they stand for.
        slices: R when it was measured.
        gaps: Forget-loss gap of the canaries against the exact oracle, per step.
        deviations: Standard deviation of a single canary's gap, per step.
        accuracy_changes: Sub-model accuracy minus the oracle's on rows never trained on, in [−1, 1], per step.
        canaries: How many there were.
        keys: Digests of their ids and groups: the revocation of one spoils the curve.
        seconds: What measuring all updates on these canaries took.
    """

    strategy: StrategyName
    shard: int
    cell: CalibrationCell
    slices: int
    gaps: tuple[float, ...]
    deviations: tuple[float, ...]
    accuracy_changes: tuple[float, ...]
    canaries: int
    keys: tuple[bytes, ...] = ()
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class CalibrationBucket:
    """α and its error for one cell, fitted from the curves of the shards that deleted canaries.

    Attributes:
        strategy: Which update was calibrated.
        first_slice: First touched slice of the canaries.
        share: Canaries over rows of the shard.
        alpha: The fitted step.
        error: Predicted size of a deletion's forget-loss gap at that step (root mean square), plus accuracy lost.
        accuracy_change: Sub-model accuracy minus the oracle's on rows never trained on, in [−1, 1].
        canaries: How many rows it rests on, in all shards.
        spread: What has to be added to `error` so that nine of ten deletions stay below.
        alpha_range: Steps that the same canaries would allow as well, lowest and highest.
        shards: How many shards deleted canaries.
        deviation: Standard deviation of a single row's gap; a deletion of fewer rows than were canaries in a shard
            spreads more.
    """

    strategy: StrategyName
    first_slice: int
    share: float
    alpha: float
    error: float
    accuracy_change: float
    canaries: int = 0
    spread: float = 0.0
    alpha_range: tuple[float, float] = (0.0, 0.0)
    shards: int = 1
    deviation: float = 0.0


@dataclass(frozen=True, slots=True)
class Calibration:
    """All buckets.

    Attributes:
        buckets: What was fitted.
        waiting: Cells without a bucket, since no canary was deleted yet, or those of it were revoked; they are measured
            when nothing else is to do.
    """

    buckets: tuple[CalibrationBucket, ...] = ()
    waiting: tuple[CalibrationCell, ...] = ()


@dataclass(frozen=True, slots=True)
class CalibrationEstimate:
    """What the buckets around a deletion say of it.

    Attributes:
        alpha: Step of the subtraction.
        alpha_range: Steps that the canaries would allow as well, lowest and highest.
        error: Predicted size of the forget-loss gap.
        spread: What is added so that nine of ten deletions stay below; the quality guard counts the sum.
        canaries: Canaries of all buckets that were used.
        shards: Shards that deleted them: the fewest of any bucket.
        cells: The buckets that were used.
        outside: How the deletion lies outside of the calibrated range; empty when it does not.
    """

    alpha: float
    alpha_range: tuple[float, float]
    error: float
    spread: float
    canaries: int
    shards: int
    cells: tuple[CalibrationCell, ...]
    outside: tuple[str, ...] = ()

    @property
    def bound(self) -> float:
        """Return the error that the quality guard counts."""
        return self.error + self.spread


@dataclass(frozen=True, slots=True)
class CalibrationOutcome:
    """What a `calibrate` job measured on its shard; no curve of a cell for which the shard has too few rows."""

    job_id: str
    shard: int
    curves: tuple[CalibrationCurve, ...]
    seconds: float = 0.0


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


JobResult = ShardOutcome | ShardFailure | CalibrationOutcome | AuditOutcome | ProofOutcome | PurgeOutcome | LookOutcome
