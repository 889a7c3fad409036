"""Check of a certificate, alone and in its chain: by arithmetic alone, without our data."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from .document import FORMAT, Certificate, Purge, Request, Times
from .plain_data import canonical, fingerprint, key_id, parse, parse_moment
from .shard_evidence import Finding, ShardEvidence, findings
from .statements import admits
from .typed_json import read


@dataclass(frozen=True, slots=True)
class Findings:
    """Everything that was looked at."""

    items: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Return whether all of it holds."""
        return bool(self.items) and all(finding.ok for finding in self.items)


def check(document: object, trusted_public_keys: Collection[bytes] | None = None) -> Findings:
    """Look at everything that a certificate shows, by arithmetic alone.

    Args:
        document: Any JSON data.
        trusted_public_keys: Keys of 32 bytes, one of which must have signed; None: the signer is only named.

    Returns:
        One finding per thing looked at; never raises.
    """
    found, certificate = _signed(document, trusted_public_keys)
    if certificate is not None:
        found.append(_timed(certificate))
        found.append(_sequence(certificate))
        found.append(_named(certificate))
        found.append(_searched(certificate))
        found.append(looked(certificate.purge))
        found.append(_admitted(certificate))
        found.append(distinct(certificate.shards))
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


def durations(request: Request, issued_at: str) -> Times:
    """Return what follows from the times of a request."""
    received, purged = parse_moment(request.received_at), parse_moment(request.purged_at)

    def after(text: str) -> float:
        return (parse_moment(text) - received).total_seconds()

    return Times(
        issued_at=issued_at,
        seconds_to_applied=after(request.applied_at),
        seconds_to_served=after(request.served_at),
        seconds_to_exact=after(request.exact_at),
        seconds_to_purged=after(request.purged_at),
        deadline_kept=None if request.deadline_at is None else purged <= parse_moment(request.deadline_at),
    )


def _signed(
    document: object, trusted: Collection[bytes] | None, prefix: str = ""
) -> tuple[list[Finding], Certificate | None]:
    claim = f"{prefix}the document is a {FORMAT}"
    try:
        certificate = read(Certificate, parse(canonical(document)))
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
    expected = durations(certificate.request, certificate.times.issued_at)
    expected = replace(expected, clock_set_back=certificate.times.clock_set_back)
    return Finding(expected == certificate.times, "the durations follow from the times")


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
    wrong = [f"{later} before {earlier}" for earlier, at, later, then in steps if parse_moment(then) < parse_moment(at)]
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


def looked(purge: Purge) -> Finding:
    """Return whether a purge says that it searched storage and database, and for something where rows went.

    A purge that finds its rows gone, since one before was interrupted after it took them, rewrites no table and deletes
    no file: those counts may be zero. The search is made again every time.
    """
    claim, searched = "storage and database were searched for what was purged", purge.looked
    places = [
        *((f"{name} of storage", searched.storage.get(name, 0)) for name in ("files", "bytes")),
        ("bytes of the database", searched.database.get("bytes", 0)),
    ]
    if purge.rows:  # rows that an earlier purge took along may leave nothing to look for
        places += [("needles in storage", searched.storage.get("needles", 0))]
        places += [("needles in the database", searched.database.get("needles", 0))]
    nothing = [name for name, count in places if not count]
    return Finding(not nothing, claim, f"none: {', '.join(nothing)}" if nothing else "")


def _admitted(certificate: Certificate) -> Finding:
    claim = "it says what it does not show, in the words of docs/certificate.md"
    ok = admits(certificate.not_proven, certificate.shards, [key.kind for key in certificate.keys])
    return Finding(ok, claim, "" if ok else "it says something else")


def distinct(shards: Sequence[ShardEvidence]) -> Finding:
    """Return whether every shard is named once, in order."""
    numbers = [shard.shard for shard in shards]
    return Finding(numbers == sorted(set(numbers)), "every shard is named once, in order")
