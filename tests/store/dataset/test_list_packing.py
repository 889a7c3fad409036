"""Lists as bytes: packing and unpacking is the identity, in memory and through a file."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybridmu.store.dataset.list_packing import packed, unpacked, unpacked_field
from hybridmu.store.storage.parquet import writing

TYPES = (pa.uint8(), pa.int16(), pa.int64(), pa.float32(), pa.float64())


@st.composite
def tables(draw):
    """A table with lists, cut out of larger buffers and put together from pieces."""
    type_, width = draw(st.sampled_from(TYPES)), draw(st.integers(1, 3))
    one = st.none() | st.lists(st.integers(0, 99), min_size=width, max_size=width)
    rows = draw(st.lists(one, max_size=8))
    whole = pa.table({"v": pa.array(rows, pa.list_(type_, width)), "n": pa.array(range(len(rows)))})
    low, high = (draw(st.integers(0, len(rows))) for _ in range(2))
    pieces = [whole.slice(low), whole.slice(0, high)]
    kept = whole.filter(pa.array(draw(st.lists(st.booleans(), min_size=len(rows), max_size=len(rows))), pa.bool_()))
    return pa.concat_tables(draw(st.sampled_from([[whole], pieces, [pieces[0]], [kept]])))


@given(tables())
def test_unpacking_gives_what_was_packed(table):
    small = packed(table)
    assert pa.types.is_fixed_size_binary(small.schema.field("v").type)
    small.validate(full=True)
    again = unpacked(small)
    again.validate(full=True)
    assert again.equals(table)
    assert unpacked(again) is again
    assert [unpacked_field(field).type for field in small.schema] == table.schema.types


def test_a_child_that_starts_later():
    values = pa.array(np.arange(20, dtype=np.int32)).slice(4)
    table = pa.table({"v": pa.FixedSizeListArray.from_arrays(values, 4).slice(1, 2)})
    assert unpacked(packed(table)).equals(table)


@pytest.mark.parametrize(
    "type_", [pa.list_(pa.uint8()), pa.list_(pa.string(), 2), pa.list_(pa.uint8(), 0), pa.string()]
)
def test_what_is_no_fixed_size_list_of_numbers_stays(type_):
    table = pa.schema([("v", type_)]).empty_table()
    assert packed(table) is table
    assert unpacked(table) is table


def test_the_type_survives_a_file(tmp_path):
    lists = [[1.5, 2.5], None, [3.5, float("inf")]]
    table = pa.table({"v": pa.array(lists, pa.list_(pa.float64(), 2)), "s": ["a", "b", "a"], "n": [1, 2, 3]})
    small = packed(table)
    pq.write_table(small, tmp_path / "t", row_group_size=2, **writing(small.schema))
    assert unpacked(pq.read_table(tmp_path / "t")).equals(table)
    columns = pq.ParquetFile(tmp_path / "t").metadata.row_group(0)
    dictionaries = {columns.column(i).path_in_schema: columns.column(i).has_dictionary_page for i in range(3)}
    assert dictionaries == {"v": False, "s": True, "n": False}
