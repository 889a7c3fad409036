"""Place of a row and order of its visits: keyed hashes, stable under deletion and growth.

A key (id or group) has one canonical byte form: integer 7 is not the string "7". Its keyed 16-byte digest
decides everything: the first 8 bytes the shard, the last 8 the slice. A row with a group is placed by the
group, so that one person's rows lie in one slice of one shard.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from hybridmu.errors import DataError
from hybridmu.types import KeyKind

Digests = npt.NDArray[np.uint8]
U64 = npt.NDArray[np.uint64]
LONGEST_KEY = 65_536
_INTEGERS = range(-(2**63), 2**64)


def canonical(value: object) -> bytes:
    """Return the canonical bytes of an id or group.

    Args:
        value: An integer or a string.

    Returns:
        A tagged byte string; different types never collide.

    Raises:
        DataError: Any other type, or null.

    Example:
        >>> canonical(7), canonical("7")
        (b'i7', b's7')
    """  # noqa: DOC501 - a function makes it
    if isinstance(value, (int, np.integer)) and not isinstance(value, bool):
        return b"i%d" % int(value)
    if isinstance(value, str):
        return b"s" + value.encode()
    raise _no_key(value)


def check_key(value: object) -> None:
    """Check that a value may be an id or group: the one rule for tables, calls, the command line and HTTP.

    An integer of 64 bits, signed or not, or a text of at most 65,536 characters; an empty one, and one with NUL in it,
    is a text like any other.

    Args:
        value: The value; it is in no message, since it may be somebody's.

    Raises:
        DataError: It may not.
    """  # noqa: DOC501 - a function makes one of them
    if isinstance(value, str):
        if len(value) > LONGEST_KEY:
            raise DataError(
                "an id or group is too long",
                expected=f"at most {LONGEST_KEY:,} characters",
                got=f"{len(value):,} characters",
                remedy="shorten it, or use a hash of it, in the table and in requests",
            )
        if any("\ud800" <= character <= "\udfff" for character in value):
            raise DataError(
                "an id or group is not Unicode text",
                expected="text that UTF-8 can hold",
                got="half of a surrogate pair",
                remedy="decode it in the encoding that it was written in",
            )
    elif isinstance(value, (int, np.integer)) and not isinstance(value, bool):
        if int(value) not in _INTEGERS:
            raise DataError(
                "an id or group is outside of 64 bits",
                expected="an integer from -2^63 to 2^64 - 1",
                remedy="keep longer numbers as text, in the table and in requests",
            )
    else:
        raise _no_key(value)


def _no_key(value: object) -> DataError:
    return DataError(
        "an id or group has the wrong type",
        expected="integer or string, never null in the id column",
        got=type(value).__name__,
        remedy="cast the column to one of these before ingestion, and name a key as it is there",
    )


def digest(key: bytes, kind: KeyKind, value: object) -> bytes:
    """Return the 16-byte keyed digest of one id or group.

    Args:
        key: Partition key, at most 64 bytes.
        kind: Ids and groups are hashed in separate domains.
        value: The id or group.

    Returns:
        16 bytes.
    """
    return hashlib.blake2b(canonical(value), digest_size=16, key=key, person=kind.encode()).digest()


def digests(key: bytes, kind: KeyKind, values: Iterable[object]) -> Digests:
    """Return keyed digests of many values, uint8 [n, 16]."""
    joined = b"".join(digest(key, kind, value) for value in values)
    return np.frombuffer(joined, dtype=np.uint8).reshape(-1, 16)


def place(keys: Digests, shards: int, slices: int) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """Return (shard 0..S−1, slice 1..R) of each digest.

    Args:
        keys: uint8 [n, 16].
        shards: S.
        slices: R.

    Returns:
        Two int32 [n].
    """
    words = np.ascontiguousarray(keys).view("<u8").reshape(-1, 2)
    return (words[:, 0] % np.uint64(shards)).astype(np.int32), (words[:, 1] % np.uint64(slices)).astype(np.int32) + 1


def held_out(keys: Digests, fraction: float) -> npt.NDArray[np.bool_]:
    """Return which placement digests belong to the validation split, bool [n]."""
    words = np.ascontiguousarray(keys).view("<u8").reshape(-1, 2)
    return _mix(words[:, 0] ^ np.uint64(0x76616C69)) < np.uint64(int(fraction * 2**64) if fraction else 0)


def order_words(id_digests: Digests) -> U64:
    """Return the 64-bit word per row from which every epoch's order is derived, uint64 [n]."""
    return np.ascontiguousarray(id_digests).view("<u8").reshape(-1, 2)[:, 0].copy()


def epoch_order(words: U64, seed: int, shard: int, slice_: int, epoch: int) -> npt.NDArray[np.int64]:
    """Return the visiting order of rows in one epoch.

    The relative order of two rows depends on (seed, shard, slice, epoch) and their ids alone, so it survives
    the deletion of any other row.

    Args:
        words: uint64 [n], one per row, rows in canonical order.
        seed: Seed of the system.
        shard: Shard number.
        slice_: Slice in training, 1..R.
        epoch: Epoch within the slice, 0-based.

    Returns:
        int64 [n], a permutation.
    """
    salt = np.uint64(derive(f"order/{seed}/{shard}/{slice_}/{epoch}"))
    return np.argsort(_mix(words ^ salt), kind="stable")


def derive(label: str) -> int:
    """Return a 64-bit integer derived from a label; how every seed is made."""
    return int.from_bytes(hashlib.blake2b(label.encode(), digest_size=8).digest(), "little")


def _mix(x: U64) -> U64:
    """Return the splitmix64 finaliser (Steele, Lea, Flood 2014), a bijection on 64-bit words."""
    with np.errstate(over="ignore"):
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))
