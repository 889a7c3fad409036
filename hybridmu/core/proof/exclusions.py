"""Manifests of what must not be trained on again, for those who hold copies of the data. Pure.

A manifest lists keyed digests of forgotten ids and groups, never these themselves: of an unkeyed hash anybody could
look up the guess "was this person forgotten". Its key follows from the guard key by HMAC, so whoever has it can test
guesses against manifests, and can't compute the HMACs in certificates and in the ledger. Digests are sorted, and say
nothing of requests, callers or times.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from hybridmu.core.kernel.partition import canonical as key_bytes
from hybridmu.errors import RequestError
from hybridmu.types import KeyKind
from hybridmu.verifier.document import KeyId, Moment, Signature, SystemName
from hybridmu.verifier.plain_data import canonical, key_id, parse
from hybridmu.verifier.shard_evidence import Count, Hash, Positive
from hybridmu.verifier.typed_json import MalformedError, read

FORMAT = "hybridmu-exclusions/1"
_KEY = re.compile("[0-9a-fA-F]{64}")


@dataclass(frozen=True)
class KeyColumn:
    """A column by which rows are excluded: its name, and whether its values are integers or texts."""

    name: str
    type: Literal["integer", "text"]


@dataclass(frozen=True)
class KeyColumns:
    """`columns` of the document; `group` is None where the table has none."""

    id: KeyColumn
    group: KeyColumn | None


@dataclass(frozen=True)
class DigestList:
    """One of `lists`: digests of one kind, made with one key, sorted."""

    key_id: KeyId
    kind: Literal["id", "group"]
    digests: tuple[Hash, ...]


@dataclass(frozen=True)
class Manifest:
    """The whole document `hybridmu-exclusions/1`.

    Attributes:
        format: Names it.
        system: Random name of the system, as in its certificates.
        version: The version that was made without what is listed.
        issued_at: When this document was made: what was readmitted since is in it, and nothing that came later.
        columns: How rows name what is listed.
        lists: The digests.
        unlisted: Ids and groups that this version is without and that have no digest: they were forgotten under an
            earlier release. A new manifest has them once they were asked to be forgotten again by name.
        later: Ids and groups that were accepted since, and that this version still knows.
        signature: Over everything else.
    """

    format: Literal["hybridmu-exclusions/1"]
    system: SystemName
    version: Positive
    issued_at: Moment
    columns: KeyColumns
    lists: tuple[DigestList, ...]
    unlisted: Count
    later: Count
    signature: Signature


def exclusion_key(guard_key: bytes) -> bytes:
    """Return the key of manifests that follows from a guard key, 32 bytes; it tells nothing of that one."""
    return hmac.digest(guard_key, b"hybridmu exclusions key", "sha256")


def exclusion_key_id(key: bytes) -> str:
    """Return the name of a key of manifests, 16 hex digits, which does not tell the key."""
    return hmac.digest(key, b"hybridmu exclusions key id", "sha256")[:8].hex()


def exclusion_digest(key: bytes, kind: KeyKind, value: object) -> bytes:
    """Return the digest of an id or group, 32 bytes.

    Args:
        key: From `exclusion_key`.
        kind: Ids and groups are kept apart.
        value: In its column's own type: 7 is not "7".

    Raises:
        DataError: It is neither integer nor string.
    """
    return hmac.digest(key, b"hybridmu exclusion %s\0%s" % (kind.encode(), key_bytes(value)), "sha256")


def build(
    *,
    system: str,
    version: int,
    issued_at: str,
    columns: KeyColumns,
    digests: Mapping[tuple[str, KeyKind], Collection[bytes]],
    unlisted: int,
    later: int,
) -> dict[str, Any]:
    """Return a manifest, still without its signature (`certificate.sign`).

    Args:
        system: As in `Manifest`, and so is every other one.
        version: Of the model.
        issued_at: Now, as `plain_data.moment` writes it.
        columns: How rows name what is listed.
        digests: (id of the key, kind) → digests of 32 bytes.
        unlisted: Without a digest.
        later: Not yet in this version.
    """
    lists = [DigestList(name, kind, tuple(sorted(one.hex() for one in digests[name, kind])))
             for name, kind in sorted(digests)]  # fmt: skip
    plain: dict[str, Any] = parse(
        canonical({
            "format": FORMAT,
            "system": system,
            "version": version,
            "issued_at": issued_at,
            "columns": asdict(columns),
            "lists": [asdict(one) for one in lists],
            "unlisted": unlisted,
            "later": later,
        })
    )
    return plain


def read_manifest(data: bytes, trusted: Collection[bytes] | None) -> Manifest:
    """Return the manifest in a file.

    Args:
        data: Its bytes.
        trusted: Public keys of 32 bytes, one of which must have signed it; None: its own, which shows only that nobody
            changed it by mistake.

    Raises:
        RequestError: It is no manifest, it was changed, or somebody else signed it.
    """
    expected = f"a document {FORMAT} that the system signed"
    try:
        document = parse(data)
        manifest = read(Manifest, document)
    except (MalformedError, ValueError) as error:
        raise RequestError("the file is no exclusion manifest", expected=expected, got=str(error)[:200]) from None
    public = bytes.fromhex(manifest.signature.public_key)
    body = {name: value for name, value in document.items() if name != "signature"}
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(bytes.fromhex(manifest.signature.value), canonical(body))
        signed = manifest.signature.key_id == key_id(public)
    except (InvalidSignature, ValueError):
        signed = False
    if not signed:
        raise RequestError("the manifest was changed after it was signed", expected=expected)
    if trusted is not None and public not in trusted:
        raise RequestError(
            "another key signed the manifest",
            expected="one of the operator's public keys",
            got=f"key {manifest.signature.key_id}",
            remedy="ask the operator for the current public key (`hybridmu keys show`)",
        )
    return manifest


def read_keys(data: bytes) -> list[bytes]:
    """Return the keys of manifests in a file: 64 hex digits a line; 32 bytes each.

    Raises:
        RequestError: There is none, or something else.
    """
    lines = data.decode(errors="replace").split()
    if not lines or not all(_KEY.fullmatch(line) for line in lines):
        raise RequestError(
            "the file holds no key of exclusion manifests",
            expected="64 hex digits a line, as `hybridmu exclusions key` prints them",
        )
    return [bytes.fromhex(line) for line in lines]


class Exclusions:
    """Tells which rows of a copy a manifest excludes.

    Args:
        manifest: The manifest.
        keys: Of manifests; those of all its lists.

    Raises:
        RequestError: One is missing.
    """

    def __init__(self, manifest: Manifest, keys: Collection[bytes]) -> None:
        by_name = {exclusion_key_id(key): key for key in keys}
        if lacking := sorted({one.key_id for one in manifest.lists} - by_name.keys()):
            raise RequestError(
                "a key of the manifest is missing: what it lists by that one could not be recognised",
                expected=f"key(s) {', '.join(lacking)}",
                got=", ".join(sorted(by_name)) or "none",
                remedy="ask the operator for all lines that `hybridmu exclusions key` prints",
            )
        self.manifest = manifest
        self._lists = [
            (one.kind, by_name[one.key_id], frozenset(map(bytes.fromhex, one.digests))) for one in manifest.lists
        ]

    def lists(self, kind: KeyKind) -> bool:
        """Return whether anything of this kind is excluded."""
        return any(one == kind and digests for one, _, digests in self._lists)

    def excluded(self, kind: KeyKind, values: Sequence[object]) -> list[bool]:
        """Return which ids or groups are excluded, one a value; null never is.

        Args:
            kind: Ids or groups.
            values: In the types that the manifest names.

        Raises:
            DataError: A value is neither integer, string nor null.

        Example:
            >>> key = bytes(32)
            >>> said = KeyColumns(KeyColumn("id", "integer"), None)
            >>> listed = DigestList(exclusion_key_id(key), "id", (exclusion_digest(key, "id", 7).hex(),))
            >>> manifest = Manifest(FORMAT, "ab", 2, "", said, (listed,), 0, 0, Signature("", "", ""))
            >>> Exclusions(manifest, [key]).excluded("id", [7, 8, "7", None])
            [True, False, False, False]
        """
        mine = [(key, digests) for one, key, digests in self._lists if one == kind]
        return [
            value is not None and any(exclusion_digest(key, kind, value) in digests for key, digests in mine)
            for value in values
        ]
