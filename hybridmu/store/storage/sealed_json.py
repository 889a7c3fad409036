"""JSON documents with a seal: a hash over their own bytes, so that no changed bit of a small file decides anything.

The seal is the last member of the object and covers every byte before it. The file stays plain JSON.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from hybridmu.errors import CorruptBlobError

_BEFORE, _AFTER = b', "seal": "', b'"}'
_DIGITS = 64
_PIECE = 1 << 20


def sealed(document: Mapping[str, Any]) -> bytes:
    """Return the bytes of a JSON object with its seal; `unsealed` reads them."""
    body = json.dumps(document).encode()
    return body.removesuffix(b"}") + _BEFORE + file_seal(body).encode() + _AFTER


def unsealed(
    data: bytes, name: str, members: Collection[str], remedy: str, *, older: Collection[str] | None = None
) -> dict[str, Any]:
    """Return the object that `sealed` wrote.

    Args:
        data: The file.
        name: How an error calls it.
        members: Those that such a document has, of any release; it may have more.
        remedy: What the reader can do about a damaged one.
        older: Exactly those of a file of an older release, which wrote no seals; None: there never was one.

    Returns:
        The object, without its seal.

    Raises:
        CorruptBlobError: The bytes don't match the seal, or are another document.
    """  # noqa: DOC501 - the ValueErrors end here
    body, digest = _parted(data)
    try:
        if digest is not None and digest != file_seal(body):
            raise ValueError("its bytes do not match its seal")
        found: dict[str, Any] = json.loads(body.decode())
        # An unsealed file must have no member that a changed seal could have become.
        if digest is None and (older is None or not isinstance(found, dict) or set(found) != set(older)):
            raise ValueError("no seal, and other members than such a file has")
        if lacking := sorted(set(members) - set(found)):
            raise ValueError(f"another document: it has no member {lacking[0]!r}")
    except (ValueError, RecursionError) as error:
        raise CorruptBlobError(
            f"{name} is damaged", expected="the bytes that were written", got=str(error)[:200], remedy=remedy
        ) from None
    return found


def file_seal(data: bytes) -> str:
    """Return the hash of a small file, 64 hex digits."""
    return hashlib.blake2b(data, digest_size=_DIGITS // 2, person=b"hybridmu-seal").hexdigest()


def stream_seal(file: Any, key: bytes) -> str:
    """Return the keyed hash of a file of any size, 64 hex digits.

    Args:
        file: Open for reading, at its beginning; read to its end, a mebibyte at a time.
        key: At most 64 secret bytes: without them the hash of a file of one row would tell a guess of that row.
    """
    found = hashlib.blake2b(digest_size=_DIGITS // 2, key=key, person=b"hybridmu-copy")
    while piece := file.read(_PIECE):
        found.update(piece)
    return found.hexdigest()


def path_seal(path: Path, key: bytes) -> str:
    """Return `stream_seal` of a file of this machine."""
    with path.open("rb") as file:
        return stream_seal(file, key)


def _parted(data: bytes) -> tuple[bytes, str | None]:
    """Return (what the seal covers, the seal), or all of a file that has none."""
    start = len(data) - len(_AFTER) - _DIGITS
    if data.endswith(_AFTER) and data[:start].endswith(_BEFORE):
        return data[:start].removesuffix(_BEFORE) + b"}", data[start : start + _DIGITS].decode(errors="replace")
    return data, None
