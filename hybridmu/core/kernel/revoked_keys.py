"""Rows that carry a revoked key, by their digests alone.

The first half of this file is `rows.py`. Processes that only look rows up start without PyTorch, so they are two; in
checkpoints' names both count as one.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from hybridmu.core.kernel.partition import Digests, order_words


def carries(ids: Digests, groups: Digests, keys: frozenset[tuple[str, bytes]]) -> npt.NDArray[np.bool_]:
    """Return which rows carry one of the revoked keys.

    Args:
        ids: uint8 [n, 16].
        groups: uint8 [n, 16].
        keys: (kind, digest) pairs.

    Returns:
        bool [n].
    """
    found = np.zeros(len(ids), dtype=np.bool_)
    for kind, column in (("id", ids), ("group", groups)):
        wanted = b"".join(key for k, key in keys if k == kind)
        if wanted and len(column):
            found |= _among(column, np.frombuffer(wanted, dtype=np.uint8).reshape(-1, 16))
    return found


def _among(column: Digests, wanted: Digests) -> npt.NDArray[np.bool_]:
    """Return which digests are among the wanted ones: halves are compared first, since most rows differ in them."""
    halves, known = order_words(column), np.sort(order_words(wanted))
    found: npt.NDArray[np.bool_] = known[np.minimum(np.searchsorted(known, halves), len(known) - 1)] == halves
    near = np.flatnonzero(found)
    if len(near):
        found[near] = np.isin(_strings(column[near]), _strings(wanted))
    return found


def _strings(keys: Digests) -> npt.NDArray[np.bytes_]:
    # Fixed-width byte strings sort and compare fast, but numpy strips trailing NULs: a sentinel byte prevents that.
    padded = np.concatenate([keys, np.ones((len(keys), 1), dtype=np.uint8)], axis=1)
    return np.ascontiguousarray(padded).view("S17").reshape(-1)
