"""Certificates of deletion: a signed document, linked to the one before, that anyone can check without our data.

The format is `hybridmu-certificate/1`. Canonical bytes are JSON with sorted keys, no spaces, UTF-8. The Ed25519
signature (RFC 8032) covers the canonical bytes of the document without `signature`; `previous` is the sha256 of the
canonical bytes of the whole certificate before. What the evidence means: `evidence.py`, `merkle.py`, `lineage.py`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from pydantic import AfterValidator, Field, ValidationError

from hybridmu.core.proof.evidence import Count, Document, Finding, Hash, ShardEvidence, findings, refuse_unless
from hybridmu.core.proof.statements import unshown
from hybridmu.errors import CertificateRefusedError
from hybridmu.types import KeyKind

FORMAT = "hybridmu-certificate/1"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def _is_moment(text: str) -> str:
    _parse_moment(text)
    return text


Moment = Annotated[
    str, Field(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z$"), AfterValidator(_is_moment)
]  # ISO-8601, UTC
KeyId = Annotated[str, Field(pattern="^[0-9a-f]{16}$")]


@dataclass(frozen=True, slots=True)
class RequestFacts:
    """What the ledger knows of a fulfilled request. Times are seconds since the epoch, UTC."""

    id: str
    kind: Literal["forget", "correct"]
    received_at: float
    applied_at: float
    served_at: float
    exact_at: float
    purged_at: float
    planned_at: float | None = None
    deadline_at: float | None = None


@dataclass(frozen=True, slots=True)
class RevokedKey:
    """An id or group of the request, as the guard knows it: its HMAC, and which guard key made it."""

    kind: KeyKind
    mac: bytes
    key_id: str


@dataclass(frozen=True, slots=True)
class Findings:
    """Everything that was looked at."""

    items: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Return whether all of it holds."""
        return bool(self.items) and all(finding.ok for finding in self.items)


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

    system: Annotated[str, Field(min_length=1)]
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
    system: Annotated[str, Field(min_length=1)]
    predecessor: Predecessor | None
    request: Request
    keys: Annotated[tuple[Key, ...], Field(min_length=1)]
    shards: Annotated[tuple[ShardEvidence, ...], Field(min_length=1)]
    purge: Purge
    times: Times
    not_proven: Annotated[tuple[str, ...], Field(min_length=1)]
    signature: Signature


def canonical(document: object) -> bytes:
    """Return the canonical bytes of a JSON document.

    Raises:
        ValueError: It is no JSON: NaN, infinity, other types, lone surrogates.
    """
    try:
        text = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
        return text.encode()
    except (TypeError, RecursionError) as error:
        raise ValueError(f"no JSON document: {error}") from None


def parse(data: bytes) -> Any:
    """Return the JSON document in a file; it has canonical bytes.

    Raises:
        ValueError: It is no JSON (NaN, infinity and lone surrogates are none), or a key occurs twice, so that readers
            could see different documents.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            raise ValueError("a key occurs twice in one object")
        return found

    try:
        document = json.loads(data.decode(), object_pairs_hook=unique)
    except RecursionError:
        raise ValueError("no certificate is nested so deeply") from None
    canonical(document)
    return document


def key_id(public_key: bytes) -> str:
    """Return the short name of a public key: 16 hex digits of its sha256."""
    return hashlib.sha256(public_key).hexdigest()[:16]


def fingerprint(document: object) -> str:
    """Return the sha256 of a certificate's canonical bytes, which the next one names."""
    return hashlib.sha256(canonical(document)).hexdigest()


def build(
    *,
    previous: Mapping[str, Any] | None,
    system: str,
    request: RequestFacts,
    keys: Sequence[RevokedKey],
    shards: Sequence[ShardEvidence],
    purge: Mapping[str, Any],
    issued_at: float,
    predecessor: Predecessor | None = None,
) -> dict[str, Any]:
    """Make a certificate, still without its signature.

    Args:
        previous: The certificate before; None for the first.
        system: Random name of the system, the same in all its certificates.
        request: What was asked, and when what was done.
        keys: The ids and groups that were forgotten.
        shards: Evidence of every touched shard.
        purge: What was deleted and how it was looked for, as in `Purge`.
        issued_at: Now, in seconds since the epoch.
        predecessor: The model that the rows were taken from; None: they were read from source tables.

    Returns:
        The document as plain JSON data.

    Raises:
        CertificateRefusedError: The evidence does not show the deletion: rows left a trained slice but neither the
            weights nor the vote changed, a proof or chain does not hold, or one chain does not extend the other.
        ValueError: `purge` is not what a certificate says of a purge.
    """
    if previous is not None and previous["system"] != system:
        raise CertificateRefusedError(
            "the certificate before is of another system", expected=str(previous["system"]), got=system
        )
    ordered = sorted(shards, key=lambda shard: shard.shard)
    found = [_distinct(ordered), *(finding for shard in ordered for finding in findings(shard))]
    found += [Finding(bool(keys), "there are forgotten keys"), Finding(bool(shards), "there are touched shards")]
    refuse_unless(found)
    searched = Purge.model_validate(dict(purge))
    before = sum(len(shard.proofs) for shard in ordered) - searched.rows
    earlier = {"rows_earlier": before} if before > 0 and previous is not None else {}
    told, issued_at = _in_order(request, issued_at)
    facts = Request(
        id=told.id,
        kind=told.kind,
        received_at=moment(told.received_at),
        deadline_at=None if told.deadline_at is None else moment(told.deadline_at),
        planned_at=None if told.planned_at is None else moment(told.planned_at),
        applied_at=moment(told.applied_at),
        served_at=moment(told.served_at),
        exact_at=moment(told.exact_at),
        purged_at=moment(told.purged_at),
    )
    times = _times(facts, moment(issued_at)).model_dump(mode="json", exclude={"clock_set_back"})
    document = {
        "format": FORMAT,
        "number": 1 if previous is None else previous["number"] + 1,
        "previous": None if previous is None else fingerprint(previous),
        "system": system,
        "predecessor": predecessor.model_dump(mode="json") if predecessor else None,
        "request": facts.model_dump(mode="json"),
        "keys": [{"kind": key.kind, "mac": key.mac.hex(), "key_id": key.key_id} for key in keys],
        "shards": [shard.model_dump(mode="json") for shard in ordered],
        "purge": {**searched.model_dump(mode="json", exclude={"rows_earlier"}), **earlier},
        "times": times if told == request else {**times, "clock_set_back": True},
        "not_proven": unshown(ordered),
    }
    plain: dict[str, Any] = parse(canonical(document))
    return plain


def sign(document: Mapping[str, Any], key: Ed25519PrivateKey) -> dict[str, Any]:
    """Return a document with a signature over everything else in it; an old signature is replaced."""
    body = {name: value for name, value in document.items() if name != "signature"}
    public = key.public_key().public_bytes_raw()
    signature = {"key_id": key_id(public), "public_key": public.hex(), "value": key.sign(canonical(body)).hex()}
    return {**body, "signature": signature}


def check(document: object, trusted_public_keys: Collection[bytes] | None = None) -> Findings:
    """Look at everything that a certificate shows, by arithmetic alone.

    Args:
        document: Any JSON data.
        trusted_public_keys: Keys of 32 bytes, one of which must have signed; None: whoever signed is only named.

    Returns:
        One finding per thing looked at; never raises.
    """
    found, certificate = _signed(document, trusted_public_keys)
    if certificate is not None:
        found.append(_timed(certificate))
        found.append(_sequence(certificate))
        found.append(_named(certificate))
        found.append(_searched(certificate))
        found.append(_distinct(certificate.shards))
        found += [finding for shard in certificate.shards for finding in findings(shard)]
    return Findings(tuple(found))


def intact(document: object) -> bool:
    """Return whether a document is a certificate that nobody changed since its key signed it."""
    return all(finding.ok for finding in _signed(document, None)[0])


def check_chain(documents: Sequence[object], trusted_public_keys: Collection[bytes] | None = None) -> Findings:
    """Look at whether certificates are all of one chain from the first on, signed, none missing or changed between.

    The newest ones could still be missing: compare the last number with what the operator says.

    Args:
        documents: Certificates in the order of their numbers.
        trusted_public_keys: As in `check`.

    Returns:
        Findings of every certificate; the evidence inside of them is `check`'s.
    """
    return Findings(tuple(_linked(documents, trusted_public_keys)))


def moment(seconds: float) -> str:
    """Return seconds since the epoch as ISO-8601, UTC, with microseconds."""
    return f"{(_EPOCH + timedelta(seconds=seconds)).replace(tzinfo=None).isoformat(timespec='microseconds')}Z"


def _parse_moment(text: str) -> datetime:
    return datetime.fromisoformat(text.removesuffix("Z") + "+00:00")


def _times(request: Request, issued_at: str) -> Times:
    received, purged = _parse_moment(request.received_at), _parse_moment(request.purged_at)

    def after(text: str) -> float:
        return (_parse_moment(text) - received).total_seconds()

    return Times(
        issued_at=issued_at,
        seconds_to_applied=after(request.applied_at),
        seconds_to_served=after(request.served_at),
        seconds_to_exact=after(request.exact_at),
        seconds_to_purged=after(request.purged_at),
        deadline_kept=None if request.deadline_at is None else purged <= _parse_moment(request.deadline_at),
    )


def _signed(
    document: object, trusted: Collection[bytes] | None, prefix: str = ""
) -> tuple[list[Finding], Certificate | None]:
    claim = f"{prefix}the document is a {FORMAT}"
    try:
        certificate = Certificate.model_validate_json(canonical(document))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        return [Finding(False, claim, f"{where}: {first['msg']}")], None
    except ValueError as error:
        return [Finding(False, claim, str(error))], None
    assert isinstance(document, dict)
    signature = certificate.signature
    public = bytes.fromhex(signature.public_key)
    body = canonical({name: value for name, value in document.items() if name != "signature"})
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(bytes.fromhex(signature.value), body)
        valid = signature.key_id == key_id(public)
    except (InvalidSignature, ValueError):
        valid = False
    claims = [
        Finding(True, claim),
        Finding(valid, f"{prefix}nothing was changed since key {signature.key_id} signed it"),
        Finding(
            (certificate.number == 1) == (certificate.previous is None),
            f"{prefix}it has number {certificate.number} and names the one before, if there is one",
        ),
    ]
    if trusted is not None:
        claims.append(Finding(public in trusted, f"{prefix}key {signature.key_id} is a trusted one"))
    return claims, certificate


def _linked(documents: Sequence[object], trusted: Collection[bytes] | None) -> Iterator[Finding]:
    if not documents:
        yield Finding(False, "there are certificates", "none was given")
    before: Certificate | None = None
    for position, document in enumerate(documents, start=1):
        name = f"certificate {position}"
        found, certificate = _signed(document, trusted, f"{name}: ")
        yield from found
        if certificate is None:
            return
        follows = certificate.number == position
        yield Finding(follows, f"{name} is the next one", "" if follows else f"its number is {certificate.number}")
        if before is not None:
            yield Finding(certificate.system == before.system, f"{name} is of the same system as the one before")
            known = fingerprint(documents[position - 2])
            yield Finding(certificate.previous == known, f"{name} names the one before, unchanged")
        before = certificate


def _timed(certificate: Certificate) -> Finding:
    expected = _times(certificate.request, certificate.times.issued_at)
    expected = expected.model_copy(update={"clock_set_back": certificate.times.clock_set_back})
    return Finding(expected == certificate.times, "the durations follow from the times")


def _in_order(request: RequestFacts, issued_at: float) -> tuple[RequestFacts, float]:
    """Return times in the order in which things happened: what a clock that was set back put before them is moved."""
    planned = None if request.planned_at is None else max(request.received_at, request.planned_at)
    applied = max(request.received_at if planned is None else planned, request.applied_at)
    served, exact = max(applied, request.served_at), max(applied, request.exact_at)
    purged = max(served, exact, request.purged_at)
    told = replace(request, planned_at=planned, applied_at=applied, served_at=served, exact_at=exact, purged_at=purged)
    return told, max(purged, issued_at)


def _sequence(certificate: Certificate) -> Finding:
    r, claim = certificate.request, "the times are in an order in which things can happen"
    steps = [
        *([("received", r.received_at, "planned", r.planned_at)] if r.planned_at is not None else []),
        ("received" if r.planned_at is None else "planned", r.planned_at or r.received_at, "applied", r.applied_at),
        ("applied", r.applied_at, "served", r.served_at),
        ("applied", r.applied_at, "exact", r.exact_at),
        ("served", r.served_at, "purged", r.purged_at),
        ("exact", r.exact_at, "purged", r.purged_at),
        ("purged", r.purged_at, "issued", certificate.times.issued_at),
    ]
    wrong = [
        f"{later} before {earlier}" for earlier, at, later, then in steps if _parse_moment(then) < _parse_moment(at)
    ]
    return Finding(not wrong, claim, ", ".join(wrong))


def _named(certificate: Certificate) -> Finding:
    claim, keys = "every forgotten key is named once, and no more rows than ids are proven", certificate.keys
    if len({(key.kind, key.mac) for key in keys}) != len(keys):
        return Finding(False, claim, "a key is named twice")
    rows = sum(len(shard.proofs) for shard in certificate.shards)
    if all(key.kind == "id" for key in keys) and rows > len(keys):  # an id has one training row
        return Finding(False, claim, f"{len(keys)} id(s), {rows} rows")
    return Finding(True, claim)


def _searched(certificate: Certificate) -> Finding:
    claim, rows = "the purge took all proven rows", sum(len(shard.proofs) for shard in certificate.shards)
    earlier = certificate.purge.rows_earlier or 0
    if earlier and certificate.number == 1:
        return Finding(False, claim, "there is no earlier purge")
    gone = certificate.purge.rows + earlier
    return Finding(gone >= rows, claim, "" if gone >= rows else f"{gone} rows were purged, {rows} are proven")


def _distinct(shards: Sequence[ShardEvidence]) -> Finding:
    numbers = [shard.shard for shard in shards]
    return Finding(numbers == sorted(set(numbers)), "every shard is named once, in order")
