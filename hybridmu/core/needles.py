"""Searching bytes for many needles at once: how a purge looks for what must be gone."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

_PREFIX = 4
_CHUNK = 1 << 22


def search(data: bytes, needles: Collection[bytes]) -> set[bytes]:
    """Return the needles that occur in the data, at any offset.

    Candidates are found by their first four bytes over all offsets at once, then compared whole.

    Args:
        data: Anything.
        needles: Each at least 4 bytes long; shorter ones occur by chance.

    Raises:
        ValueError: A needle is too short.

    Example:
        >>> search(b"..abcdef..", [b"bcde", b"xyzw"])
        {b'bcde'}
    """
    if any(len(needle) < _PREFIX for needle in needles):
        raise ValueError(f"a needle is shorter than {_PREFIX} bytes")
    by_prefix: dict[int, list[bytes]] = {}
    for needle in set(needles):
        by_prefix.setdefault(int.from_bytes(needle[:_PREFIX], "little"), []).append(needle)
    wanted = np.array(sorted(by_prefix), dtype=np.uint32)
    found: set[bytes] = set()
    for start in range(0, max(0, len(data) - _PREFIX + 1), _CHUNK):
        raw = np.frombuffer(data, dtype=np.uint8, offset=start, count=min(_CHUNK + _PREFIX - 1, len(data) - start))
        words = raw[:-3].astype(np.uint32)
        for shift in range(1, _PREFIX):
            words |= raw[shift : len(raw) - 3 + shift].astype(np.uint32) << np.uint32(8 * shift)
        at = np.searchsorted(wanted, words) if len(wanted) else np.empty(0, dtype=np.int64)
        hits = np.flatnonzero(wanted[np.minimum(at, len(wanted) - 1)] == words) if len(wanted) else ()
        for hit in hits:
            offset = start + int(hit)
            for needle in by_prefix[int(words[hit])]:
                if needle not in found and data.startswith(needle, offset):
                    found.add(needle)
    return found
