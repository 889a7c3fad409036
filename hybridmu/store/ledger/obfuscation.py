"""Bytes in a form in which a search for what they name does not find them; this hides nothing from a reader."""

from __future__ import annotations

import hashlib
import secrets

_NONCE = 16


def mask(data: bytes) -> bytes:
    """Return other bytes each time, from which `unmask` makes the same."""
    nonce = secrets.token_bytes(_NONCE)
    return nonce + _xor(nonce, data)


def unmask(data: bytes) -> bytes:
    """Return what was masked."""
    return _xor(data[:_NONCE], data[_NONCE:])


def _xor(nonce: bytes, data: bytes) -> bytes:
    stream = hashlib.shake_256(nonce).digest(len(data))
    return (int.from_bytes(data) ^ int.from_bytes(stream)).to_bytes(len(data))
