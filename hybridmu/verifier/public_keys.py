"""Public keys in files for auditors."""

from __future__ import annotations

import re

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

_BLOCK = re.compile(rb"-----BEGIN PUBLIC KEY-----.*?-----END PUBLIC KEY-----", re.DOTALL)
_HEX = re.compile("[0-9a-fA-F]{64}")


def public_keys(data: bytes) -> list[bytes]:
    """Return the Ed25519 public keys in a file: PEM blocks, or 64 hex digits a line; 32 bytes each.

    Raises:
        ValueError: There is none, or something else.

    Example:
        >>> [key.hex()[:4] for key in public_keys(b"ab" * 32)]
        ['abab']
    """
    if blocks := _BLOCK.findall(data):
        return [public_key(block) for block in blocks]
    lines = data.decode(errors="replace").split()
    if not lines or not all(_HEX.fullmatch(line) for line in lines):
        raise ValueError("there is no public key")
    return [bytes.fromhex(line) for line in lines]


def public_key(pem: bytes) -> bytes:
    """Return the 32 bytes of a public key in PEM.

    Raises:
        ValueError: It is none, or none of Ed25519.
    """
    try:
        key = load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PublicKey):
        raise ValueError("a public key is not one")
    return key.public_bytes_raw()
