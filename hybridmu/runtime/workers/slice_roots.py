"""Merkle roots of a shard's slices, kept while rows leave: only the slices that lost a row are hashed again."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from hybridmu.core.kernel.rows import Rows
from hybridmu.core.proof.lineage import Lineage, Link
from hybridmu.core.proof.merkle import make_leaves, root
from hybridmu.verifier.shard_evidence import rechain

Mask = npt.NDArray[np.bool_]


class SliceRoots:
    """Hashes of the rows of one shard; no key and no feature of a row is kept.

    Args:
        rows: Outline of all rows, tombstoned ones included.
        salt: 32 secret bytes of the lake.
    """

    def __init__(self, rows: Rows, salt: bytes) -> None:
        self._leaves = make_leaves(salt, rows.ids, rows.content)
        self._slices = rows.slice
        self._known: dict[int, tuple[Mask, str]] = {}

    def lineage(self, head: str, mask: Mask, epochs: Sequence[int]) -> Lineage:
        """Return the lineage of some of the rows.

        Args:
            head: Hash of the static part, hex.
            mask: Which rows, bool [n].
            epochs: e_i per slice.
        """
        bounds = np.searchsorted(self._slices, np.arange(len(epochs) + 1), side="right").tolist()
        links = []
        for slice_, count in enumerate(epochs, start=1):
            mine = slice(bounds[slice_ - 1], bounds[slice_])
            links.append(Link(slice_, count, int(mask[mine].sum()), self._root(slice_, mine, mask[mine])))
        return Lineage(head, tuple(links), rechain(head, links))

    def _root(self, slice_: int, mine: slice, mask: Mask) -> str:
        known, found = self._known.get(slice_, (None, ""))
        if known is None or not np.array_equal(known, mask):
            found = root(self._leaves[mine][mask]).hex()
            self._known[slice_] = mask.copy(), found
        return found
