"""Bloom filters of Parquet: what one still answers for after its rows left.

Split blocks of 32 bytes, hashed with XXH64 (Apache Parquet, BloomFilter.md). A filter also says yes by chance, so a
hit counts only when the rows that are in the file don't explain all of its bits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

_BLOCK_BYTES = 32
_SALT = (0x47B6137B, 0x44974D91, 0x8824AD5B, 0xA2B7289D, 0x705495C7, 0x2DF1424B, 0x9EFC4947, 0x5C6BFB31)
_MASK = (1 << 64) - 1
_P1, _P2, _P3 = 0x9E3779B185EBCA87, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9
_P4, _P5 = 0x85EBCA77C2B2AE63, 0x27D4EB2F165667C5


def answers(bits: bytes, rows: Callable[[], Iterable[bytes]]) -> Callable[[bytes], bool]:
    """Return a function that says whether a filter holds a text which the rows don't account for.

    Args:
        bits: The filter's blocks.
        rows: Yields the values that are in the rows; asked when there is a hit.
    """
    explained: dict[int, int] = {}

    def holds(value: bytes) -> bool:
        block, mask = place(value, len(bits) // _BLOCK_BYTES)
        there = int.from_bytes(bits[block * _BLOCK_BYTES : (block + 1) * _BLOCK_BYTES], "little")
        if there & mask != mask:
            return False
        if not explained:
            explained[-1] = 0
            for row in set(rows()):
                number, by_row = place(row, len(bits) // _BLOCK_BYTES)
                explained[number] = explained.get(number, 0) | by_row
        return explained.get(block, 0) & mask != mask

    return holds


def place(value: bytes, blocks: int) -> tuple[int, int]:
    """Return (number of the block, bits in it) that a filter of so many blocks sets for a value."""
    hashed = xxh64(value)
    low = hashed & 0xFFFFFFFF
    mask = 0
    for word, salt in enumerate(_SALT):
        mask |= 1 << (32 * word + ((low * salt & 0xFFFFFFFF) >> 27))
    return ((hashed >> 32) * blocks) >> 32, mask


def xxh64(data: bytes) -> int:
    """Return the XXH64 hash of a text under seed 0.

    Example:
        >>> hex(xxh64(b"abc"))
        '0x44bc2cf5ad770999'
    """
    at, size = 0, len(data)
    if size >= 32:
        lanes = [(_P1 + _P2) & _MASK, _P2, 0, -_P1 & _MASK]
        while at + 32 <= size:
            lanes = [_round(lane, _word(data, at + 8 * i, 8)) for i, lane in enumerate(lanes)]
            at += 32
        found = sum(_rotated(lane, by) for lane, by in zip(lanes, (1, 7, 12, 18), strict=True)) & _MASK
        for lane in lanes:
            found = ((found ^ _round(0, lane)) * _P1 + _P4) & _MASK
    else:
        found = _P5
    found = (found + size) & _MASK
    for _ in range((size - at) // 8):
        found = (_rotated(found ^ _round(0, _word(data, at, 8)), 27) * _P1 + _P4) & _MASK
        at += 8
    if at + 4 <= size:
        found = (_rotated(found ^ (_word(data, at, 4) * _P1 & _MASK), 23) * _P2 + _P3) & _MASK
        at += 4
    for byte in data[at:]:
        found = _rotated(found ^ (byte * _P5 & _MASK), 11) * _P1 & _MASK
    found = (found ^ found >> 33) * _P2 & _MASK
    found = (found ^ found >> 29) * _P3 & _MASK
    return found ^ found >> 32


def _round(lane: int, word: int) -> int:
    return _rotated((lane + word * _P2) & _MASK, 31) * _P1 & _MASK


def _rotated(value: int, by: int) -> int:
    return (value << by | value >> (64 - by)) & _MASK


def _word(data: bytes, at: int, size: int) -> int:
    return int.from_bytes(data[at : at + size], "little")
