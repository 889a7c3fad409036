"""Requests and certificates about a person or a row."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from hybridmu.core.kernel.partition import digest
from hybridmu.store.certificates import Certificates
from hybridmu.store.keyring import Keyring
from hybridmu.system.session import Session
from hybridmu.types import KeyKind


def requests_about(session: Session, kind: KeyKind, text: str) -> list[str]:
    """Return the ids of the requests that named an id or group: those not purged yet, then those with a certificate.

    Args:
        session: Of the system.
        kind: Whether it is an id or a group.
        text: The id or group; where it reads as a number, both forms are looked for.
    """
    digests = {digest(session.lake.key, kind, form) for form in _forms(text)}
    stones = sorted(
        (stone for shard in session.ledger.tombstones().values() for stone in shard), key=lambda stone: stone.seq
    )
    waiting = [stone.request_id for stone in stones if stone.kind == kind and stone.key in digests]
    documents = Certificates(session.site.storage).all()
    numbers = set(certificates_about(session.keyring, documents, kind, text))
    done = [str(document["request"]["id"]) for document in documents if document["number"] in numbers]
    return [*dict.fromkeys([*waiting, *done])]


def certificates_about(keyring: Keyring, documents: Sequence[dict[str, Any]], kind: KeyKind, text: str) -> list[int]:
    """Return the numbers of the certificates that are about an id or group.

    Args:
        keyring: Has the guard keys.
        documents: The certificates.
        kind: Whether it is an id or a group.
        text: The id or group.
    """
    macs = {mac.hex() for some in keyring.macs(kind, _forms(text)).values() for mac in some}
    return [d["number"] for d in documents if any(k["kind"] == kind and k["mac"] in macs for k in d["keys"])]


def _forms(text: str) -> list[object]:
    # 7 and "7" are two ids; what the column holds may be gone with the tables.
    forms: list[object] = [text]
    with suppress(ValueError):
        forms.append(int(text))
    return forms
