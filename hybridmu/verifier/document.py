"""The certificate's document `hybridmu-certificate/1`: its parts, checked one by one when it is read."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Literal

from .plain_data import parse_moment
from .shard_evidence import Count, Hash, Positive, ShardEvidence
from .typed_json import Rule

FORMAT = "hybridmu-certificate/1"
_MOMENT = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{6}Z")


def _is_moment(text: str) -> bool:
    try:
        return bool(_MOMENT.fullmatch(text) and parse_moment(text))
    except ValueError:
        return False


Moment = Annotated[str, Rule("a moment, ISO-8601 with microseconds and Z", _is_moment)]
KeyId = Annotated[str, Rule("16 hex digits", re.compile("[0-9a-f]{16}").fullmatch)]
SystemName = Annotated[str, Rule("1 to 64 hex digits", re.compile("[0-9a-f]{1,64}").fullmatch)]
_SOME = Rule("one at least", len)


@dataclass(frozen=True)
class Request:
    """`request` of the document."""

    id: Annotated[str, _SOME]
    kind: Literal["forget", "correct"]
    received_at: Moment
    deadline_at: Moment | None
    planned_at: Moment | None
    applied_at: Moment
    served_at: Moment
    exact_at: Moment
    purged_at: Moment


@dataclass(frozen=True)
class Key:
    """One of `keys`."""

    kind: Literal["id", "group"]
    mac: Hash
    key_id: KeyId


@dataclass(frozen=True)
class Searched:
    """`looked` of the purge: how much was searched, by name."""

    storage: dict[str, Count]
    database: dict[str, Count]


@dataclass(frozen=True)
class Purge:
    """`purge`: of the batch of requests that were purged together.

    `rows_earlier` is there where an earlier purge took rows of this request along, with those of another request.
    """

    rows: Count
    tables: Count
    files: Count
    duplicates_left: Count
    looked: Searched
    rows_earlier: Positive | None = None


@dataclass(frozen=True)
class Times:
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


@dataclass(frozen=True)
class Predecessor:
    """`predecessor`: the model whose live rows this one's first generation was made of."""

    system: SystemName
    version: Positive
    tombstones: Count
    rows: Count
    root: Hash


@dataclass(frozen=True)
class Signature:
    """`signature`."""

    key_id: KeyId
    public_key: Hash
    value: Annotated[str, Rule("128 hex digits", re.compile("[0-9a-f]{128}").fullmatch)]


@dataclass(frozen=True)
class Certificate:
    """The whole document."""

    format: Literal["hybridmu-certificate/1"]
    number: Positive
    previous: Hash | None
    system: SystemName
    predecessor: Predecessor | None
    request: Request
    keys: Annotated[tuple[Key, ...], _SOME]
    shards: Annotated[tuple[ShardEvidence, ...], _SOME]
    purge: Purge
    times: Times
    not_proven: Annotated[tuple[str, ...], _SOME]
    signature: Signature
