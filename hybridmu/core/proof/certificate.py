"""Certificates of deletion: a signed document, linked to the one before, that anyone can check without our data.

The Ed25519 signature (RFC 8032) covers the canonical bytes of the document without `signature`; `previous` is the
sha256 of the canonical bytes of the whole certificate before. The document's parts, and what must hold of them:
`verifier/document.py`, `verifier/checks.py`. How the evidence is made: `evidence.py`, `merkle.py`, `lineage.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from hybridmu.core.proof.evidence import exact_strategies, refuse_unless
from hybridmu.errors import CertificateRefusedError
from hybridmu.types.keys import RevokedKey
from hybridmu.verifier.checks import distinct, durations, looked
from hybridmu.verifier.document import FORMAT, Predecessor, Purge, Request, Times
from hybridmu.verifier.plain_data import canonical, fingerprint, key_id, moment, parse
from hybridmu.verifier.shard_evidence import Finding, ShardEvidence, findings
from hybridmu.verifier.statements import unshown
from hybridmu.verifier.typed_json import read


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
            weights nor the vote changed, a proof or chain does not hold, one chain does not extend the other, or
            nothing was searched.
        ValueError: `purge` is not what a certificate says of a purge.
    """
    if previous is not None and previous["system"] != system:
        raise CertificateRefusedError(
            "the certificate before is of another system", expected=str(previous["system"]), got=system
        )
    ordered = sorted(shards, key=lambda shard: shard.shard)
    found = [distinct(ordered), *(finding for shard in ordered for finding in findings(shard, exact_strategies()))]
    found += [Finding(bool(keys), "there are forgotten keys"), Finding(bool(shards), "there are touched shards")]
    searched = read(Purge, purge)
    refuse_unless([*found, looked(searched)])
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
    times = _without(durations(facts, moment(issued_at)), "clock_set_back")
    document = {
        "format": FORMAT,
        "number": 1 if previous is None else previous["number"] + 1,
        "previous": None if previous is None else fingerprint(previous),
        "system": system,
        "predecessor": asdict(predecessor) if predecessor else None,
        "request": asdict(facts),
        "keys": [{"kind": key.kind, "mac": key.mac.hex(), "key_id": key.key_id} for key in keys],
        "shards": [asdict(shard) if shard.exactness else _without(shard, "exactness") for shard in ordered],
        "purge": {**_without(searched, "rows_earlier"), **earlier},
        "times": times if told == request else {**times, "clock_set_back": True},
        "not_proven": unshown(ordered, [key.kind for key in keys]),
    }
    plain: dict[str, Any] = parse(canonical(document))
    return plain


def sign(document: Mapping[str, Any], key: Ed25519PrivateKey) -> dict[str, Any]:
    """Return a document with a signature over everything else in it; an old signature is replaced."""
    body = {name: value for name, value in document.items() if name != "signature"}
    public = key.public_key().public_bytes_raw()
    signature = {"key_id": key_id(public), "public_key": public.hex(), "value": key.sign(canonical(body)).hex()}
    return {**body, "signature": signature}


def _without(part: Purge | Times | ShardEvidence, name: str) -> dict[str, Any]:
    return {field: value for field, value in asdict(part).items() if field != name}


def _in_order(request: RequestFacts, issued_at: float) -> tuple[RequestFacts, float]:
    """Return times in the order in which things happened: what a clock that was set back put before them is moved."""
    planned = None if request.planned_at is None else max(request.received_at, request.planned_at)
    applied = max(request.received_at if planned is None else planned, request.applied_at)
    served, exact = max(applied, request.served_at), max(applied, request.exact_at)
    purged = max(served, exact, request.purged_at)
    told = replace(request, planned_at=planned, applied_at=applied, served_at=served, exact_at=exact, purged_at=purged)
    return told, max(purged, issued_at)
