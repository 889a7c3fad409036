"""Columns of the lake as arrays, however Arrow holds them."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from hybridmu.store.dataset.layout import digest_column, number_column

CHUNKS = st.lists(st.lists(st.integers(0, 2**31 - 1), max_size=5), max_size=4)


@given(CHUNKS, st.sampled_from([pa.int32(), pa.int64(), pa.uint32()]), st.integers(0, 6))
def test_numbers_are_those_of_the_column(chunks, type_, start):
    column = pa.chunked_array([pa.array(chunk, type_) for chunk in chunks], type_).slice(start)
    found = number_column(pa.table({"n": column}), "n")
    assert found.dtype == np.int32
    assert found.tolist() == column.to_pylist()


@given(st.lists(st.lists(st.binary(min_size=16, max_size=16), max_size=5), max_size=4), st.integers(0, 6))
def test_digests_are_those_of_the_column(chunks, start):
    column = pa.chunked_array([pa.array(chunk, pa.binary(16)) for chunk in chunks], pa.binary(16)).slice(start)
    found = digest_column(pa.table({"d": column}), "d")
    assert found.shape == (len(column), 16)
    assert [row.tobytes() for row in found] == column.to_pylist()
