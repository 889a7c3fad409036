"""Requests: deletion requests, their keys and needs, new data, and how far each is."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from hybridmu.types.names import KeyKind, StrategyChoice


class RequestState(StrEnum):
    """Life of a request; it only moves forward, FAILED and CANCELLED aside.

    Where another caller has to approve it, it is PROPOSED first, and RECEIVED from the approval on.
    """

    RECEIVED = "RECEIVED"
    PLANNED = "PLANNED"
    APPLIED = "APPLIED"
    SERVED = "SERVED"
    PURGED = "PURGED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    PROPOSED = "PROPOSED"


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
        listed: Its digest for exclusion manifests; empty where an earlier release did not make one.
    """

    kind: KeyKind
    key: bytes
    mac: bytes
    mac_key: str
    listed: bytes = b""


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
        received_at: When it was committed; of one that had to be approved: when it was proposed.
        caller: Who asked.
        deadline_at: When it must be exact and purged.
        planned_at: When it was first taken up, and could no longer be cancelled; None where nothing was to be removed.
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
    planned_at: float | None = None
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
class RequestNeed:
    """What a request waits for on one shard: tombstones up to this number."""

    request_id: str
    upto: int
