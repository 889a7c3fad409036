"""Lists of ids and files of rows: read as they are, or refused with the line."""

from __future__ import annotations

import io
import json
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from typer.testing import CliRunner

import hybridmu
from hybridmu.cli.input_files import read_lines
from hybridmu.cli.main import app
from hybridmu.cli.row_files import read_rows
from hybridmu.core.kernel.table_encoder import Column
from hybridmu.errors import DataError, HybridMUError, RequestError
from tests.system.test_exactness import SGD, config_for

NAMES = [
    "alice",
    "alice ",
    " alice",
    "bob",
    "a\u2028b",
    "a",
    "b",
    "x\x0by",
    "x",
    "y",
    "v\x85w",
    "José",
    "tab\there",
    "q",
]
COLUMNS = (Column("a", "number", 1), Column("b", "hash", 4))
NAMES += ["f\x0cg", "\x1c1", "\xa0nbsp", "lone\rcr"]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_a_line_is_a_line(tmp_path, end, encoding):
    (tmp_path / "ids.txt").write_bytes(end.join(["", *NAMES, "", ""]).encode(encoding))
    assert read_lines(str(tmp_path / "ids.txt")) == NAMES


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ("p1\nJosé\n".encode("latin-1"), "byte 0xe9 at offset 6, in line 2"),
        ("p1\np2\n".encode("utf-16-le"), "a NUL in line 1"),
        ("\ufeffp1\n".encode("utf-16-le") + b"x", "is not UTF-16"),
        (b"p1\np\x002\n", "a NUL in line 2"),
        (b"\xef\xbb\xbf\xff", "0xff"),
        (b"PAR1 something", "is a Parquet file"),
    ],
)
def test_what_is_no_text_is_refused_with_its_line(tmp_path, data, says):
    file = tmp_path / "ids.txt"
    file.write_bytes(data)
    with pytest.raises(RequestError) as error:
        read_lines(str(file))
    assert says in str(error.value)
    assert str(file) in str(error.value)
    with pytest.raises(HybridMUError):
        read_rows(str(file), COLUMNS)


def test_a_folder_and_a_name_with_nul(tmp_path):
    for wrong in (str(tmp_path), "a\0b"):
        with pytest.raises(RequestError, match="can't read"):
            read_lines(wrong)


def test_rows_come_from_json_or_parquet(tmp_path):
    rows = [{"a": 1.5, "b": "é"}, {"a": 2.0, "b": "x"}]
    for encoding in ("utf-8", "utf-8-sig", "utf-16"):
        (tmp_path / "rows.json").write_bytes(json.dumps(rows, ensure_ascii=False).encode(encoding))
        assert read_rows(str(tmp_path / "rows.json"), COLUMNS) == rows
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    assert read_rows(str(tmp_path / "rows.parquet"), COLUMNS) == rows
    damaged = (tmp_path / "rows.parquet").read_bytes()[:-20]
    (tmp_path / "damaged.parquet").write_bytes(damaged)
    with pytest.raises(HybridMUError, match="a Parquet file"):
        read_rows(str(tmp_path / "damaged.parquet"), COLUMNS)
    for text, says in (
        ("a,b\n1,2\n", "CSV"),
        ("a;b\n", "CSV"),
        ("[", "Expecting"),
        ("", "Expecting"),
        ("[" * 99999, "JSON"),
    ):
        (tmp_path / "rows.txt").write_text(text)
        with pytest.raises(RequestError, match=says):
            read_rows(str(tmp_path / "rows.txt"), COLUMNS)


NOT_UTF8 = pa.StringArray.from_buffers(2, pa.py_buffer(np.array([0, 1, 2], np.int32)), pa.py_buffer(b"\xff\xfe"))
UNSAYABLE = {
    "a year beyond 9999": pa.array([2**61, 1], pa.timestamp("us")),
    "a year beyond 9999 in a zone": pa.array([2**60, 1], pa.timestamp("us", tz="UTC")),
    "milliseconds": pa.array([2**60, 1], pa.timestamp("ms")),
    "a far day": pa.array([2**30, 1], pa.int32()).cast(pa.date32()),
    "another far day": pa.array([86_400_000 * 10**8, 0], pa.int64()).cast(pa.date64()),
    "a long duration": pa.array([2**62, 1], pa.duration("us")),
    "text that is no UTF-8": NOT_UTF8,
}


@pytest.mark.parametrize("what", UNSAYABLE)
def test_a_column_that_python_has_no_values_for_is_named_or_not_read(tmp_path, what):
    """Nobody asks for it, or it is the caller's mistake; it never ends in a traceback."""
    file = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"a": [1.0, 2.0], "b": ["x", "y"], "c": UNSAYABLE[what]}), file)
    assert read_rows(str(file), COLUMNS) == [{"a": 1.0, "b": "x"}, {"a": 2.0, "b": "y"}]
    for kind in ("number", "hash"):
        with pytest.raises(DataError, match="column 'c'"):
            read_rows(str(file), (*COLUMNS, Column("c", kind, 4)))


def test_a_table_of_rows_has_the_columns_that_are_asked_for(tmp_path):
    file = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"a": [1.0], "l": [[1, 2]], "n": pa.nulls(1)}), file)
    with pytest.raises(DataError, match="column 'b' is missing"):
        read_rows(str(file), COLUMNS)
    numbers, none = Column("l", "list", 3, fill=0), Column("n", "number", 2, fill=0)
    assert read_rows(str(file), (COLUMNS[0], numbers, none)) == [{"a": 1.0, "l": [1, 2], "n": None}]
    with pytest.raises(DataError, match=r"column 'l' of .* another length"):
        read_rows(str(file), (Column("l", "list", 3),))


def test_rows_lie_where_a_training_table_may_lie(tmp_path):
    """Only the log of such a table knows which of its rows are live; a folder without one is a table as in training."""
    folder = tmp_path / "table"
    folder.mkdir()
    for name, value in (("1.parquet", 1.0), ("2.parquet", 2.0)):
        pq.write_table(pa.table({"a": [value], "b": ["x"]}), folder / name)
    assert read_rows(str(folder), COLUMNS) == [{"a": 1.0, "b": "x"}, {"a": 2.0, "b": "x"}]
    for log, format_ in (("_delta_log", "Delta"), (".hoodie", "Hudi"), ("metadata/v1.metadata.json", "Iceberg")):
        (folder / log).mkdir(parents=True)
        for source in (folder, folder / "1.parquet"):
            with pytest.raises(DataError, match=format_):
                read_rows(str(source), COLUMNS)
        (folder / log).rmdir()
    with pytest.raises(DataError, match="Parquet"):
        read_rows(str(tmp_path / "table" / "metadata"), COLUMNS)


def test_parquet_on_standard_input_is_refused(tmp_path, monkeypatch):
    pq.write_table(pa.table({"a": [1.0], "b": ["x"]}), tmp_path / "rows.parquet")
    with (tmp_path / "rows.parquet").open("rb") as file:
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(file))
        with pytest.raises(RequestError, match="standard input is a Parquet file"):
            read_rows("-", COLUMNS)


@pytest.mark.parametrize(
    "text", ['[{"a": 1, "a": 2}]', '{"rows": [], "a": 1, "a": 1}', '[{"x": {"a": 1, "\\u0061": 2}}]']
)
def test_a_name_that_stands_twice_is_said(tmp_path, text):
    (tmp_path / "rows.json").write_text(text)
    with pytest.raises(RequestError, match="the name 'a' stands twice"):
        read_rows(str(tmp_path / "rows.json"), COLUMNS)


# ---------------------------------------------------------------------- through the command line


def table(names: list[str]) -> pa.Table:
    rows = 3 * len(names)
    values = [(7 * n) % 11 / 5 - 1 for n in range(rows)]
    persons = [names[n % len(names)] for n in range(rows)]
    made = {"id": range(rows), "person": persons, "x0": values, "x1": values[::-1], "x2": values}
    return pa.table({**made, "label": [("no", "yes")[n % 2] for n in range(rows)]})


@pytest.fixture(scope="module")
def people(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("people")
    pq.write_table(table(NAMES), folder / "train.parquet")
    config = config_for(
        folder, folder / "train.parquet", shards=2, slices=1, epochs=1, batch=8, optimizer=SGD, groups=1
    )
    config["data"] |= {"group": "person", "features": ["x0", "x1", "x2"]}
    (folder / "c.yaml").write_text(yaml.safe_dump(config))
    with hybridmu.connect(config, executor="local") as system:
        system.train()
    return folder


def plan(folder: Path, data: bytes, *arguments: str, flag: str = "--groups") -> dict[str, Any]:
    (folder / "list.txt").write_bytes(data)
    command = ["plan", flag, str(folder / "list.txt"), "-c", str(folder / "c.yaml"), "--json", *arguments]
    done = CliRunner().invoke(app, command)
    assert "Traceback" not in done.output
    return json.loads(done.stdout)


def revoked(found: dict[str, Any]) -> int:
    return sum(shard["revoked"] for shard in found["shards"])


@pytest.mark.parametrize("name", [name for name in NAMES if "\r" not in name])
def test_each_person_can_be_named_by_a_file(people, name):
    assert revoked(plan(people, f"{name}\n".encode())) == 3


def test_a_byte_order_mark_is_no_part_of_a_name(people):
    assert revoked(plan(people, b"\xef\xbb\xbfbob\r\nq\r\n")) == 6
    assert revoked(plan(people, "bob\nJosé\n".encode("utf-16"))) == 6


@pytest.mark.parametrize(
    "name", ["bob ", '"bob"', "'bob'", "\ufeffbob", "\u200bbob", unicodedata.normalize("NFD", "José")]
)
def test_another_spelling_of_a_known_name_is_never_left_out(people, name):
    for arguments in ([], ["--ignore-unknown"]):
        found = plan(people, f"q\n{name}\n".encode(), *arguments)
        assert "known in another spelling" in found["what"]
    assert plan(people, b"q\nnobody \n")["error"] == "UnknownKeysError"
    assert revoked(plan(people, b"q\nnobody \n", "--ignore-unknown")) == 3


def test_spaces_around_numbers_mean_nothing(people):
    assert revoked(plan(people, b" 5\n7 \n\t8\r\n  \n", flag="--ids")) == 3
    assert plan(people, b"05\n", flag="--ids")["error"] == "UnknownKeysError"
    assert plan(people, b"id\n5\n", flag="--ids")["unknown"] == ["id"]
    assert plan(people, b"5,alice\n7,bob\n", "--ignore-unknown", flag="--ids")["error"] == "UnknownKeysError"


def test_rows_in_parquet_are_classified(people):
    rows = [{"x0": 0.5, "x1": 0.5, "x2": 0.5}]
    pq.write_table(pa.Table.from_pylist(rows), people / "rows.parquet")

    def predict(source: str, **options: Any) -> Any:
        done = CliRunner().invoke(app, ["predict", source, "-c", str(people / "c.yaml"), "--json"], **options)
        assert isinstance(done.exception, SystemExit | None), done.exception
        return json.loads(done.stdout)

    assert predict(str(people / "rows.parquet")) == predict("-", input=json.dumps(rows))
    (people / "rows.csv").write_text("x0,x1,x2\n.5,.5,0.5\n")
    assert predict(str(people / "rows.csv")) == predict("-", input=json.dumps(rows))
    assert predict("-", input="x0,x1,x2\n1,2,3\n")["got"] == "what looks like CSV"
    for wrong in ("7", "{}", '"x"', "[1]", "[[1]]", "null"):
        assert "error" in predict("-", input=wrong)
    assert "is not UTF-16" in predict("-", input=b"\xff\xfe\xff")["what"]
