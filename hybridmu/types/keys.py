"""Keys that a deletion names: as a set that tells its rows, and as a certificate tells them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol, Self

from hybridmu.types.names import KeyKind

Key = tuple[KeyKind, bytes]


class Keyed(Protocol):
    """Whatever names rows by one key: a tombstone, a resolved key, a key that linked models tell each other."""

    @property
    def kind(self) -> KeyKind:
        """Return whether the key is a row id or a group."""
        ...

    @property
    def key(self) -> bytes:
        """Return the 16-byte digest of the id or group."""
        ...


@dataclass(frozen=True, slots=True)
class RevokedKey:
    """An id or group of the request, as the guard knows it: its HMAC, and which guard key made it."""

    kind: KeyKind
    mac: bytes
    key_id: str


class KeySet(frozenset[Key]):
    """Set of (kind, digest) pairs; rows that carry one of them are meant.

    It is a frozenset with a name: membership, union and comparison are those of sets, and it crosses process borders
    as one. `core.kernel.revoked_keys.carries` tells which rows carry one of its keys.

    Example:
        >>> keys = KeySet([("id", b"a"), ("group", b"b")])
        >>> ("id", b"a") in keys, ("id", b"b") in keys
        (True, False)
    """

    __slots__ = ()

    @classmethod
    def of(cls, named: Iterable[Keyed]) -> Self:
        """Return the keys of tombstones, or of others that name rows."""
        return cls((one.kind, one.key) for one in named)


NO_KEYS = KeySet()
