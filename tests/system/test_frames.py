"""Frames in, frames out: what a caller gives is what he gets back, with the answers that a list of rows gets."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

import hybridmu
from hybridmu.errors import DataError, RequestError
from hybridmu.serving.table_answers import BLOCK_ROWS, VERSION
from tests.support import local_system, replaced, table, write


def with_more(made: pa.Table) -> pa.Table:
    numbers = np.arange(len(made))
    return made.append_column("whole", pa.array(numbers)).append_column("flag", pa.array(numbers % 3 == 0))


ROWS = with_more(table(70, start=500))
NAMES = ["id", "label", "probability_0", "probability_1", "probability_2"]


@pytest.fixture(scope="module")
def system(tmp_path_factory) -> Iterator[hybridmu.System]:
    folder = tmp_path_factory.mktemp("frames")
    write(folder, with_more(table(90, groups=30)))
    data = {"group": "person", "fills": {"x3": 0}}
    with local_system(folder, data=data, sisa={"shards": 2, "slices": 1}) as made:
        made.train()
        yield made


@pytest.fixture(scope="module")
def listed(system) -> dict[str, Any]:
    return system.predict(ROWS.to_pylist())


def same(found: pa.Table, listed: dict[str, Any], rows: pa.Table = ROWS) -> None:
    assert found.column_names == NAMES
    assert found["id"] == rows["id"]
    assert found["label"].to_pylist() == [one["label"] for one in listed["predictions"]]
    for name in ("0", "1", "2"):
        ours = np.array([one["probabilities"][name] for one in listed["predictions"]], dtype=np.float32)
        np.testing.assert_allclose(found[f"probability_{name}"].to_numpy(), ours, atol=1e-6)


@pytest.mark.parametrize("size", [7, 70])
def test_arrow(system, listed, size):
    batches = ROWS.to_batches(size)
    found = system.predict(pa.Table.from_batches(batches))
    same(found, listed)
    assert found.schema.metadata == {VERSION: b"1"}
    reader = system.predict(pa.RecordBatchReader.from_batches(ROWS.schema, batches))
    assert isinstance(reader, pa.RecordBatchReader)
    same(reader.read_all(), listed)
    one = system.predict(batches[0])
    assert isinstance(one, pa.RecordBatch)
    assert one.num_rows == size
    assert isinstance(system.predict(batches[0].slice(0, 0)), pa.RecordBatch)


def test_numbers_that_mean_the_same(system, listed):
    """A whole number may be a double, and a truth value 0 or 1, as in JSON."""
    rows = replaced(ROWS, "whole", ROWS["whole"].cast(pa.float64()))
    same(system.predict(replaced(rows, "flag", rows["flag"].cast(pa.int8()))), listed)


def test_pandas_with_its_index_and_its_ids(system, listed):
    frame = ROWS.to_pandas()
    frame.index = pd.Index([f"i{n}" for n in range(70)], name="mine")
    frame["id"] = frame["id"].astype("Int64")
    found = system.predict(frame)
    assert found.index.equals(frame.index)
    assert found["id"].equals(frame["id"])
    same(pa.Table.from_pandas(found.astype({"id": "int64"}), preserve_index=False).replace_schema_metadata(), listed)
    assert found.attrs == {"version": 1}
    frame["x3"] = frame["x3"].where(frame["x3"] > 0)  # NaN is null, as in a file that pandas writes
    assert len(system.predict(frame)) == 70
    assert "id" not in system.predict(frame.drop(columns="id"))


def test_polars(system, listed):
    import polars as pl

    found = system.predict(pl.from_arrow(ROWS))
    assert isinstance(found, pl.DataFrame)
    same(found.to_arrow(), listed)


def test_rows_that_come_one_by_one(system, listed):
    assert len(ROWS) < BLOCK_ROWS
    reader = system.predict_rows(row for row in ROWS.to_pylist())
    same(reader.read_all(), listed)
    assert system.predict_rows([]).read_all().num_rows == 0


def whole(found: pa.Table | pa.RecordBatchReader) -> pa.Table:
    return found.read_all() if isinstance(found, pa.RecordBatchReader) else found


def wrong(column: str, place: int, value: Any) -> pa.Table:
    values = ROWS[column].to_pylist()
    values[place] = value
    return replaced(ROWS, column, pa.array(values))


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        (ROWS.drop_columns(["x2"]), "^column 'x2' is missing"),
        (wrong("x2", 41, None), "^row 42: column 'x2' has 1 null"),
        (wrong("x1", 0, float("nan")), "^row 1: column 'x1' has 1 row.* NaN"),
        (wrong("x1", 69, 1e300), "^row 70: column 'x1'"),
        (replaced(ROWS, "x0", pa.array(["a"] * 70)), "^column 'x0' has another type"),
        (replaced(ROWS, "x0", pa.array([True] * 70)), "^column 'x0' has another type"),
        (wrong("whole", 7, 0.5), "^row 8: column 'whole' has a number that is not whole"),
        (replaced(ROWS, "flag", pa.array([0] * 69 + [2])), "^row 70: column 'flag' has a wrong value"),
        (ROWS.append_column("x0", ROWS["x0"]), "^two columns are named 'x0'"),
    ],
)
def test_a_row_that_is_wrong_is_named(system, rows, says):
    for given in (rows, pa.RecordBatchReader.from_batches(rows.schema, rows.to_batches(9))):
        with pytest.raises(DataError, match=says):
            whole(system.predict(given))


def test_in_lists_too(system):
    rows = wrong("x2", 41, None).to_pylist()
    with pytest.raises(DataError, match=r"^rows\[41\]: column 'x2' has a null"):
        system.predict(rows)
    with pytest.raises(DataError, match=r"^row 42: column 'x2' has a null"):
        system.predict_rows(rows).read_all()
    rows[41]["x2"], rows[60]["id"] = 0.0, "text"
    with pytest.raises(DataError, match="ids are not of one type"):
        system.predict_rows(rows)
    del rows[60]["id"]
    with pytest.raises(DataError, match=r"^row 61 has no id"):
        system.predict_rows(rows)


def test_cells_of_several_types_in_pandas_name_their_column_and_not_their_value(system):
    frame = ROWS.to_pandas()
    frame["x1"] = frame["x1"].astype(object)
    frame.loc[3, "x1"] = "alice"
    with pytest.raises(DataError, match="column 'x1' can't be read") as error:
        system.predict(frame)
    assert "alice" not in str(error.value)


@pytest.mark.parametrize("value", [pa.chunked_array([[1]]), pd.Series([1.0]), "rows", {"x0": 1}, 7, None])
def test_what_is_no_frame_is_refused(system, value):
    with pytest.raises(RequestError):
        system.predict(value)


def test_no_frame_library_is_imported_by_us():
    sources = Path(hybridmu.__file__).parent.rglob("*.py")
    assert not [path for path in sources if re.search(r"^\s*(import|from) (pandas|polars)", path.read_text(), re.M)]
