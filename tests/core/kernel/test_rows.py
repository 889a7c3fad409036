from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from hybridmu.core.kernel.revoked_keys import carries
from hybridmu.core.kernel.rows import Rows
from tests.scenes.shard_in_memory import make_rows

# Few different bytes, at both ends of both halves: halves collide often, and NULs end the digests.
DIGEST = st.lists(st.integers(0, 1), min_size=4, max_size=4).map(
    lambda bits: bytes([bits[0], *bytes(6), bits[1], bits[2], *bytes(6), bits[3]])
)
KEYS = st.sets(st.tuples(st.sampled_from(["id", "group"]), DIGEST), max_size=5)


@given(ids=st.lists(DIGEST, max_size=12), keys=KEYS, data=st.data())
def test_rows_that_carry_a_key_against_brute_force(ids, keys, data):
    groups = data.draw(st.lists(DIGEST, min_size=len(ids), max_size=len(ids)))
    columns = (np.frombuffer(b"".join(column), dtype=np.uint8).reshape(-1, 16) for column in (ids, groups))
    found = carries(*columns, keys)
    assert found.dtype == np.bool_
    assert found.tolist() == [("id", i) in keys or ("group", g) in keys for i, g in zip(ids, groups, strict=True)]


@given(st.lists(st.integers(0, 29), max_size=40))
def test_taking_rows_keeps_their_columns_together(positions):
    rows = make_rows(30)
    at = np.array(positions, dtype=np.int64)
    taken = rows.take(at)
    assert torch.equal(taken.x, rows.x[positions])
    assert torch.equal(taken.y, rows.y[positions])
    for name in ("slice", "ids", "groups", "content"):
        assert np.array_equal(getattr(taken, name), getattr(rows, name)[at])
    nothing = torch.empty(0)
    outline = Rows(nothing, nothing, rows.slice, rows.ids, rows.groups, rows.content).take(at)
    assert len(outline.x) == len(outline.y) == 0
    assert np.array_equal(outline.ids, taken.ids)


def test_a_mask_takes_the_same_rows():
    rows = make_rows(20)
    mask = np.arange(20) % 3 == 0
    assert torch.equal(rows.where(mask).x, rows.take(np.flatnonzero(mask)).x)
    assert rows.where(np.ones(20, dtype=np.bool_)) is rows
