"""Bearer tokens and what they allow. Pure: random bytes and the time come from the caller.

A token reads `hmu_<name of the token>_<secret>`. The secret has 256 random bits, so one round of SHA-256 hides it as
well as a slow hash would, and only that digest is kept. The holder of a token is the *caller* of its requests.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

Scope = Literal["predict", "forget", "audit", "admin"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
SECRET_BYTES = 32
TOKEN_ID_BYTES = 5

_TOKEN = re.compile(r"hmu_([0-9a-f]{10})_([0-9a-f]{64})")
# Compared with when there is no such token, so that the time does not tell which ids exist.
_NOBODY = hashlib.sha256(b"no token hashes to this, it is no secret's length").digest()


@dataclass(frozen=True, slots=True)
class Token:
    """What is kept of a token.

    Attributes:
        token_id: Its public part.
        caller: Who holds it; requests are counted and shown by this name.
        digest: SHA-256 of its secret, 32 bytes.
        scopes: What it allows; `admin` allows everything.
        created_at: Seconds since the epoch, UTC.
        expires_at: When it ends; None: never by itself.
        revoked_at: When it was revoked.
    """

    token_id: str
    caller: str
    digest: bytes
    scopes: frozenset[Scope]
    created_at: float
    expires_at: float | None = None
    revoked_at: float | None = None

    def valid(self, now: float) -> bool:
        """Return whether it counts at this time."""
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)

    def allows(self, *scopes: Scope) -> bool:
        """Return whether it has one of these scopes.

        Example:
            >>> Token("0" * 10, "privacy", b"", frozenset({"forget"}), 0.0).allows("forget", "audit")
            True
        """
        return "admin" in self.scopes or not self.scopes.isdisjoint(scopes)


def written(token_id: bytes, secret: bytes) -> str:
    """Return a token as its holder keeps it.

    Args:
        token_id: `TOKEN_ID_BYTES` random bytes.
        secret: `SECRET_BYTES` random bytes.

    Example:
        >>> written(bytes(5), bytes(32))[:20]
        'hmu_0000000000_00000'
    """
    return f"hmu_{token_id.hex()}_{secret.hex()}"


def token_id(text: str) -> str | None:
    """Return the public part of what a caller presented, or None where it is no token."""
    found = _TOKEN.fullmatch(text)
    return found and found[1]


def digest(text: str) -> bytes:
    """Return what is kept of a token's secret.

    Raises:
        ValueError: It is no token.
    """
    found = _TOKEN.fullmatch(text)
    if found is None:
        raise ValueError("not a token")
    return hashlib.sha256(bytes.fromhex(found[2])).digest()


def holds(text: str, known: Token | None, now: float) -> bool:
    """Return whether a caller presented a token that counts; takes as long for unknown ones.

    Args:
        text: What was presented.
        known: What is kept under its `token_id`.
        now: Seconds since the epoch.
    """
    if token_id(text) is None:
        return False
    same = hmac.compare_digest(digest(text), known.digest if known else _NOBODY)
    return same and known is not None and known.valid(now)


def scopes(names: Iterable[str]) -> frozenset[Scope]:
    """Return names as scopes.

    Raises:
        ValueError: One is unknown, or there is none.
    """
    found: frozenset[Scope] = frozenset(scope for name in names for scope in SCOPES if scope == name)
    unknown = set(names) - found
    if unknown or not found:
        raise ValueError(f"unknown scope(s) {sorted(unknown)}" if unknown else "no scope")
    return found
