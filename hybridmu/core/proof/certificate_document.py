"""The certificate's document `hybridmu-certificate/1`: its parts, checked one by one when it is read."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from hybridmu.core.proof.evidence import Count, Document, Hash, ShardEvidence
from hybridmu.core.proof.plain_certificate import parse_moment
from hybridmu.types import KeyKind

FORMAT = "hybridmu-certificate/1"


def _is_moment(text: str) -> str:
    parse_moment(text)
    return text


Moment = Annotated[
    str, Field(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z$"), AfterValidator(_is_moment)
]  # ISO-8601, UTC
KeyId = Annotated[str, Field(pattern="^[0-9a-f]{16}$")]
SystemName = Annotated[str, Field(pattern="^[0-9a-f]{1,64}$")]


class Request(Document):
    """`request` of the document."""

    id: Annotated[str, Field(min_length=1)]
    kind: Literal["forget", "correct"]
    received_at: Moment
    deadline_at: Moment | None
    planned_at: Moment | None
    applied_at: Moment
    served_at: Moment
    exact_at: Moment
    purged_at: Moment


class Key(Document):
    """One of `keys`."""

    kind: KeyKind
    mac: Hash
    key_id: KeyId


class Searched(Document):
    """`looked` of the purge: how much was searched, by name."""

    storage: dict[str, Count]
    database: dict[str, Count]


class Purge(Document):
    """`purge`: of the batch of requests that were purged together.

    `rows_earlier` is there where an earlier purge took rows of this request along, with those of another request.
    """

    rows: Count
    rows_earlier: Annotated[Count, Field(ge=1)] | None = None
    tables: Count
    files: Count
    duplicates_left: Count
    looked: Searched


class Times(Document):
    """`times`: what follows from those of the request, in seconds since it was received.

    `clock_set_back` is there where the system's clock was: then a time that came out before an earlier step was moved
    to that step, so that the order of what was done stays told.
    """

    issued_at: Moment
    seconds_to_applied: float
    seconds_to_served: float
    seconds_to_exact: float
    seconds_to_purged: float
    deadline_kept: bool | None
    clock_set_back: Literal[True] | None = None


class Predecessor(Document):
    """`predecessor`: the model whose live rows this one's first generation was made of."""

    system: SystemName
    version: Annotated[Count, Field(ge=1)]
    tombstones: Count
    rows: Count
    root: Hash


class Signature(Document):
    """`signature`."""

    key_id: KeyId
    public_key: Hash
    value: Annotated[str, Field(pattern="^[0-9a-f]{128}$")]


class Certificate(Document):
    """The whole document."""

    format: Literal["hybridmu-certificate/1"]
    number: Annotated[Count, Field(ge=1)]
    previous: Hash | None
    system: SystemName
    predecessor: Predecessor | None
    request: Request
    keys: Annotated[tuple[Key, ...], Field(min_length=1)]
    shards: Annotated[tuple[ShardEvidence, ...], Field(min_length=1)]
    purge: Purge
    times: Times
    not_proven: Annotated[tuple[str, ...], Field(min_length=1)]
    signature: Signature
