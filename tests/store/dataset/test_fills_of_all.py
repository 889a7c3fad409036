"""`data.fills: {"*": VALUE}`: a stand-in for every column that may be null and has none of its own."""

from __future__ import annotations

import pyarrow as pa
import pytest

from hybridmu.errors import DataError
from tests.support import open_lake, table, write

ROWS = 40
MIXED = (
    table(ROWS, features=2)
    .append_column("flag", pa.array([True, None] * (ROWS // 2)))
    .append_column("city", pa.array(["a", "b"] * (ROWS // 2)))
    .append_column("list", pa.array([[1.0, 2.0], None] * (ROWS // 2)))
    .append_column(pa.field("sure", pa.int64(), nullable=False), pa.array(range(ROWS)))
)


def fills(folder, fills, made=MIXED):
    write(folder, made)
    lake = open_lake(folder, data={"fills": fills})
    return {column.name: column.fill for column in lake.manifest.encoder.columns}


def test_a_number_fills_numbers_lists_and_truth_values(tmp_path):
    found = fills(tmp_path, {"*": 0, "x1": 7.5})
    assert found == {"x0": 0, "x1": 7.5, "flag": False, "city": None, "list": 0, "sure": None}
    assert found["flag"] is False


def test_a_text_fills_texts(tmp_path):
    made = MIXED.drop_columns(["flag", "list"])
    assert fills(tmp_path, {"*": "none"}, made) == {"x0": None, "x1": None, "city": "none", "sure": None}


def test_what_does_not_fit_is_said_of_its_column(tmp_path):
    with pytest.raises(DataError, match=r"data\.fills does not fit column 'flag'"):
        fills(tmp_path, {"*": 0.5})
    text = MIXED.set_column(MIXED.column_names.index("city"), "city", pa.array(["a", None] * (ROWS // 2)))
    with pytest.raises(DataError, match=r"(?s)column 'city' has 20 null.*a text for text"):
        fills(tmp_path, {"*": 0}, text)


def test_a_later_table_is_filled_as_the_first_was(tmp_path):
    """Whether its own columns may be null has no say."""
    strict = pa.schema([field.with_nullable(field.name != "x0") for field in MIXED.schema])
    write(tmp_path, MIXED)
    write(tmp_path, MIXED.cast(strict), "test.parquet")
    lake = open_lake(tmp_path, data={"fills": {"*": 0}, "test": str(tmp_path / "test.parquet")})
    assert sum(map(sum, lake.manifest.rows["test"])) == ROWS
