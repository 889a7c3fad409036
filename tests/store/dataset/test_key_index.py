"""Key columns in memory: look-ups find what a look at every row finds, and what left a file leaves memory."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hybridmu.core.kernel.partition import digest
from hybridmu.core.kernel.revoked_keys import carries
from hybridmu.runtime.purge.row_purge import purge_rows
from hybridmu.store.dataset.key_index import KeyColumns, SortedDigests, key_columns
from hybridmu.types import KeySet
from tests.support import open_lake, table, write

# Few values of few bytes: many digests are equal, and more have the same first half.
DIGESTS = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), max_size=30)


def digests(pairs) -> np.ndarray:
    found = np.zeros((len(pairs), 16), dtype=np.uint8)
    for row, (first, last) in enumerate(pairs):
        found[row, 0], found[row, 15] = first, last
    return found


@given(known=DIGESTS, wanted=DIGESTS)
@settings(max_examples=200, deadline=None)
def test_look_ups_are_those_of_a_look_at_every_row(known, wanted):
    found = SortedDigests(digests(known)).having(digests(list(dict.fromkeys(wanted))))
    assert sorted(found.tolist()) == [row for row, pair in enumerate(known) if pair in wanted]


@given(ids=DIGESTS, data=st.data(), some=DIGESTS, others=DIGESTS)
@settings(max_examples=200, deadline=None)
def test_rows_that_carry_a_key(ids, data, some, others):
    size = st.tuples(st.integers(0, 2), st.integers(0, 2))
    groups = data.draw(st.lists(size, min_size=len(ids), max_size=len(ids)))
    rows = KeyColumns(np.ones(len(ids), dtype=np.int32), digests(ids), digests(groups), digests(ids))
    named = {"id": digests(some), "group": digests(others)}
    keys = KeySet((kind, row.tobytes()) for kind, wanted in named.items() for row in wanted)
    mask = np.zeros(len(ids), dtype=np.bool_)
    mask[rows.carrying(keys)] = True
    assert mask.tolist() == carries(rows.ids, rows.groups, keys).tolist()


@pytest.fixture
def lake(tmp_path):
    write(tmp_path, table(60))
    return open_lake(tmp_path, sisa={"shards": 1, "slices": 2})


def test_a_file_is_read_once_until_it_changes(lake):
    (name,) = lake.files("train", 0)
    before = key_columns(lake.storage, name)
    assert key_columns(lake.storage, name) is before
    assert lake.shard("train", 0).outline.ids is before.ids


def test_a_purge_takes_rows_out_of_memory(lake):
    (name,) = lake.files("train", 0)
    before = weakref.ref(key_columns(lake.storage, name))
    gone = KeySet([("id", digest(lake.key, "id", 7))])
    purge_rows(lake, 0, gone)
    after = key_columns(lake.storage, name)
    gc.collect()
    assert before() is None
    assert len(after.slices) == 59
    assert not len(after.carrying(gone))
