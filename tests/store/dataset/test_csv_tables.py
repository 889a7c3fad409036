"""Tables in CSV: every value comes in as it is spelled or as the number that it is; what is no CSV is refused."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest
from hypothesis import strategies as st

from hybridmu.errors import DataError
from hybridmu.store.dataset.ingest import ingest
from hybridmu.store.dataset.source_table import SourceTable, open_table
from tests.doors.fuzz import inputs, tried
from tests.support import lake_rows, open_lake, table

_TEXTS = st.sampled_from([
    "007",
    "7",
    "-0",
    "+7",
    " 7",
    "1e3",
    ".5",
    "NA",
    "nan",
    "true",
    "",
    "a,b",
    'a"b',
    "a\nb",
    "é",
])
_COLUMNS: dict[str, tuple[st.SearchStrategy[Any], pa.DataType]] = {
    "whole": (st.integers(-(2**63), 2**63 - 1), pa.int64()),
    "large": (st.integers(2**63, 2**64 - 1), pa.uint64()),
    "real": (st.floats(allow_nan=False, allow_infinity=False).filter(lambda x: "e+" not in repr(x)), pa.float64()),
    "truth": (st.sampled_from(["true", "false"]), pa.bool_()),
    "text": (_TEXTS | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\0")), pa.string()),
}


def opened(folder: Path, text: str | bytes, name: str = "t.csv") -> SourceTable:
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return open_table(str(folder / name))


def values(found: SourceTable, name: str) -> list[Any]:
    return [value for batch in found.batches([name]) for value in batch.column(0).to_pylist()]


@inputs(60)
def test_every_value_is_the_one_that_was_written(count: int, tmp_path: Path) -> None:
    def through(columns: dict[str, list[Any]]) -> None:
        with (tmp_path / "t.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, quoting=csv.QUOTE_ALL)
            writer.writerow(columns)
            writer.writerows(zip(*columns.values(), strict=True))
        found = open_table(str(tmp_path / "t.csv"))
        assert found.rows == len(columns["text"])
        for name, written in columns.items():
            made = [value == "true" for value in written] if name == "truth" else written
            if name == "text":  # whatever it looks like, it can be had as it is spelled
                found = found.with_types({name: pa.string()})
            elif found.type_of(name) == pa.float64():
                made = list(map(float, written))
            else:
                assert found.type_of(name) == _COLUMNS[name][1]
            assert values(found, name) == made

    rows = st.integers(1, 5).flatmap(
        lambda n: st.fixed_dictionaries({k: st.lists(v, min_size=n, max_size=n) for k, (v, _) in _COLUMNS.items()})
    )
    tried(count, rows, through)


@pytest.mark.parametrize(
    ("spelled", "type_", "read"),
    [
        (["1", "-7", ""], "int64", [1, -7, None]),
        (["1", "007"], "string", ["1", "007"]),
        (["1", "-0"], "double", [1.0, -0.0]),
        (["1", "+7"], "string", ["1", "+7"]),
        ([" 1", "2\t"], "int64", [1, 2]),
        (["1", "NA", '""'], "int64", [1, None, None]),
        (["a", "NA", '""', ""], "string", ["a", "NA", "", None]),
        (["1.5", "nan", "1e3", ".5", "2."], "double", [1.5, None, 1000.0, 0.5, 2.0]),
        (["18446744073709551615", "0"], "uint64", [2**64 - 1, 0]),
        (["18446744073709551616", "0"], "string", ["18446744073709551616", "0"]),
        (["-1", "9223372036854775808"], "string", ["-1", "9223372036854775808"]),
        (["True", "false", "NULL"], "bool", [True, False, None]),
        (["2026-01-01", "2026-01-02"], "string", ["2026-01-01", "2026-01-02"]),
        (["0x1f", "1_0"], "string", ["0x1f", "1_0"]),
        (["12,5"], None, None),
        (["", ""], "null", [None, None]),
    ],
)
def test_what_a_column_is(tmp_path, spelled, type_, read):
    text = "\n".join(["a,b", *(f"{value},x" for value in spelled)])
    if type_ is None:
        with pytest.raises(DataError, match="3 value"):
            opened(tmp_path, text)
        return
    found = opened(tmp_path, text)
    assert str(found.type_of("a")) == type_
    assert values(found, "a") == read


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b"", "empty file"),
        ('a,b\n1,"x\n3,4\n', "unexpected end of data"),
        ('a,b\n1,"x\n2,"y"\n3,4\n', "expected after"),
        ("a,b\n1,2\n3\n", "1 value(s) in row 2"),
        ("a,b\n1,2,3\n", "3 value(s) in row 1"),
        ("a;b\n1;2\n", "without a comma"),
        ("a,b\n1,\xff\n".encode("latin-1"), "utf-8"),
        ("a,b\n1,2\n".encode("utf-16"), "utf-8"),
    ],
)
def test_what_is_no_csv_is_refused_without_its_values(tmp_path, text, says):
    with pytest.raises(DataError) as error:
        opened(tmp_path, text)
    assert says in str(error.value)
    assert "t.csv" in str(error.value)


def test_two_columns_of_one_name_are_refused(tmp_path):
    with pytest.raises(DataError, match="two columns named 'a'"):
        opened(tmp_path, "a,a,b\n1,2,3\n").type_of("a")


def test_a_type_is_that_of_all_files(tmp_path):
    opened(tmp_path / "t", "zip,n\n12345,1\n", "1.csv")
    opened(tmp_path / "t", "zip,n\n01234,1.5\n", "2.csv")
    found = open_table(str(tmp_path / "t"))
    assert values(found, "zip") == ["12345", "01234"]
    assert values(found, "n") == [1.0, 1.5]


def test_files_of_two_formats_are_no_table(tmp_path):
    opened(tmp_path / "t", "a,b\n1,2\n", "1.csv")
    for name, write in (("2.parquet", pq.write_table), ("2.txt", lambda _, path: path.write_text("a"))):
        write(pa.table({"a": [1], "b": [2]}), tmp_path / "t" / name)
        with pytest.raises(DataError, match="not of one format"):
            open_table(str(tmp_path / "t"))
        (tmp_path / "t" / name).unlink()


def test_the_format_is_what_the_file_says_not_its_name(tmp_path):
    made = pa.table({"a": [1], "b": ["x"]})
    pq.write_table(made, tmp_path / "parquet.csv")
    with pa.ipc.new_file(tmp_path / "arrow.parquet", made.schema) as writer:
        writer.write_table(made)
    with pa.ipc.new_stream(tmp_path / "stream", made.schema) as writer:
        writer.write_table(made)
    for name in ("parquet.csv", "arrow.parquet", "stream"):
        assert [batch.to_pylist() for batch in open_table(str(tmp_path / name)).batches(["a", "b"])] == [
            made.to_pylist()
        ]
    cut = (tmp_path / "stream").read_bytes()[:-8]
    (tmp_path / "cut").write_bytes(cut)
    with pytest.raises(DataError, match="has no end"):
        open_table(str(tmp_path / "cut"))


@pytest.mark.parametrize("ids", ["int", "str"])
def test_a_lake_from_csv_or_arrow_is_the_lake_from_parquet(tmp_path, ids):
    made = table(60, groups=9, ids=ids)
    for name in ("parquet", "csv", "arrow"):
        (tmp_path / name).mkdir()
    pq.write_table(made, tmp_path / "parquet" / "train.parquet")
    pacsv.write_csv(made, tmp_path / "csv" / "train.csv")
    with pa.ipc.new_file(tmp_path / "arrow" / "train.arrow", made.schema) as writer:
        writer.write_table(made)
    lakes = [
        open_lake(tmp_path / name, data={"train": str(tmp_path / name / f"train.{name}"), "group": "person"})
        for name in ("parquet", "arrow", "csv")
    ]
    names = ("id", "_id", "_group", "_content", "shard")
    rows = [[[row[name] for name in names] for row in lake_rows(lake)] for lake in lakes]
    assert rows[0] == rows[1] == rows[2]


def test_a_later_csv_means_what_the_first_table_means(tmp_path):
    """Text that looks like numbers is text where the first table had text."""
    opened(tmp_path, "id,label,zip\n" + "".join(f"0{n},{'ab'[n % 2]},0{n}\n" for n in range(9)), "train.csv")
    opened(tmp_path, "id,label,zip\n" + "".join(f"{n},{'ab'[n % 2]},{n}\n" for n in range(10, 19)), "test.csv")
    data = {"train": str(tmp_path / "train.csv"), "test": str(tmp_path / "test.csv")}
    lake = open_lake(tmp_path, data=data)
    assert sorted(row["id"] for row in lake_rows(lake, "test")) == [str(n) for n in range(10, 19)]
    assert lake.manifest.id_type == "string"
    opened(tmp_path, "id,label,zip\n" + "".join(f"{n},{'ab'[n % 2]},{n}\n" for n in range(9)), "train.csv")
    opened(tmp_path, "id,label,zip\n007,a,1\n", "test.csv")
    with pytest.raises(DataError, match="'id' has another type"):
        open_lake(tmp_path, data=data, storage_url=str(tmp_path / "other"))


def test_features_that_are_hardly_meant_so_are_warned_of(tmp_path):
    ages = ["12", "34", "?"] * 20
    lines = [f"{n},{'ab'[n % 2]},{ages[n]},user{n}@mail,{'xy'[n % 2]}" for n in range(60)]
    opened(tmp_path, "\n".join(["id,label,age,mail,kind", *lines]), "train.csv")
    lake = open_lake(tmp_path, read=False, data={"train": str(tmp_path / "train.csv")})
    told: list[str] = []
    ingest(lake, warn=told.append)
    assert [next(name for name in ("age", "mail", "kind") if repr(name) in text) for text in told] == ["age", "mail"]
    assert "20 of its 60 values are no plain numbers" in told[0]
    assert "user" not in "".join(told).replace("storage_url", "")
