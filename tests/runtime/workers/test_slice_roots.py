"""Roots that are kept while rows leave give the lineage of a fresh count, and hash again what changed alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hybridmu.core.kernel.rows import Rows
from hybridmu.core.proof.lineage import chain
from hybridmu.runtime.workers import slice_roots
from hybridmu.runtime.workers.slice_roots import SliceRoots

SALT = b"\3" * 32
EPOCHS = (2, 1, 3, 1)
HEAD = "ab" * 24


def rows_of(count: int, slices: int = 3) -> Rows:
    random = np.random.default_rng(count)
    ids, groups, content = (random.integers(0, 256, (count, 16), dtype=np.uint8) for _ in range(3))
    numbers = np.sort(random.integers(1, slices + 1, count)).astype(np.int32)
    return Rows(torch.empty(0), torch.empty(0), numbers, ids, groups, content)


@pytest.mark.parametrize("count", [0, 1, 60])
def test_any_sequence_of_masks_has_the_lineage_of_a_fresh_count(count):
    rows, random = rows_of(count), np.random.default_rng(7)
    roots = SliceRoots(rows, SALT)
    for share in (1.0, 0.9, 0.9, 0.5, 1.0, 0.0, 0.3):  # rows may come back: a withdrawn request
        mask = random.random(count) < share
        assert roots.lineage(HEAD, mask, EPOCHS) == chain(HEAD, rows.where(mask), EPOCHS, SALT)


def test_only_the_slice_that_lost_a_row_is_hashed_again(monkeypatch):
    rows = rows_of(60)
    hashed: list[int] = []

    def counting(leaves):
        hashed.append(len(leaves))
        return real(leaves)

    real = slice_roots.root
    monkeypatch.setattr(slice_roots, "root", counting)
    roots, mask = SliceRoots(rows, SALT), np.ones(60, dtype=np.bool_)
    roots.lineage(HEAD, mask, EPOCHS)
    assert sum(hashed) == 60
    hashed.clear()
    gone = int(np.flatnonzero(rows.slice == 2)[3])
    mask[gone] = False
    roots.lineage(HEAD, mask, EPOCHS)
    assert hashed == [int((rows.slice == 2).sum()) - 1]
    hashed.clear()
    roots.lineage(HEAD, mask, EPOCHS)
    assert hashed == []
