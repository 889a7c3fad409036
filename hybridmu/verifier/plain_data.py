"""Certificates as plain data: canonical bytes, what names them and their keys, and moments.

Canonical bytes are JSON with sorted keys, no spaces, UTF-8.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SHOWN = 80


class DoubledNameError(ValueError):
    """A name stands twice in one object; its text says which."""


def each_once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object's pairs as a dictionary; for `json.loads(…, object_pairs_hook=each_once)`.

    Readers see different documents in an object in which a name stands twice, so ours read none.

    Raises:
        DoubledNameError: A name stands twice.

    Example:
        >>> each_once([("a", 1), ("b", 2)])
        {'a': 1, 'b': 2}
    """
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise DoubledNameError(f"the name {ascii(twice)[:_SHOWN]} stands twice in one object")
    return found


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
    try:
        document = json.loads(data.decode(), object_pairs_hook=each_once)
    except RecursionError:
        raise ValueError("no certificate is nested so deeply") from None
    canonical(document)
    return document


def fingerprint(document: object) -> str:
    """Return the sha256 of a certificate's canonical bytes, which the next one names."""
    return hashlib.sha256(canonical(document)).hexdigest()


def key_id(public_key: bytes) -> str:
    """Return the short name of a public key: 16 hex digits of its sha256."""
    return hashlib.sha256(public_key).hexdigest()[:16]


def visible(text: str) -> str:
    r"""Return a text without characters that are not seen, move a cursor or turn others round.

    Example:
        >>> visible("a\x1b[31m\u202eb")
        'a�[31m�b'
    """
    return "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in text)


def moment(seconds: float) -> str:
    """Return seconds since the epoch as ISO-8601, UTC, with microseconds."""
    return f"{(_EPOCH + timedelta(seconds=seconds)).replace(tzinfo=None).isoformat(timespec='microseconds')}Z"


def parse_moment(text: str) -> datetime:
    """Return the time that `moment` wrote."""
    return datetime.fromisoformat(text.removesuffix("Z") + "+00:00")
