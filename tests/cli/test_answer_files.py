"""`hybridmu predict --output`: rows of every format in, answers in every format out; and keys out of tables."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest
import yaml
from typer.testing import CliRunner

import hybridmu
from hybridmu.cli.answer_files import check_answer_file, write_answers
from hybridmu.cli.main import app
from hybridmu.cli.row_files import read_keys
from hybridmu.errors import DataError, RequestError
from hybridmu.store.dataset.source_table import open_table
from tests.support import settings_dict, table

ROWS = table(12, ids="str", groups=5, start=700).drop_columns(["label"])
ROWS = ROWS.set_column(0, "id", pa.array([f"{n:03d}" for n in range(12)]))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("answers")
    pq.write_table(table(60, ids="str", groups=20), folder / "train.parquet")
    config = settings_dict(folder, data={"group": "person"}, sisa={"shards": 1, "slices": 1, "epochs": 1})
    (folder / "c.yaml").write_text(yaml.safe_dump(config))
    with hybridmu.connect(config, executor="local") as system:
        system.train()
    listed = ROWS.to_pylist()
    pq.write_table(ROWS, folder / "rows.parquet")
    pacsv.write_csv(ROWS, folder / "rows.csv")
    with pa.ipc.new_file(folder / "rows.arrow", ROWS.schema) as writer:
        writer.write_table(ROWS)
    (folder / "rows.json").write_text(json.dumps(listed))
    (folder / "rows.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in listed))
    return folder


def predict(folder: Path, *words: str, **options: Any) -> dict[str, Any]:
    done = CliRunner().invoke(app, ["predict", *words, "-c", str(folder / "c.yaml"), "--json"], **options)
    assert isinstance(done.exception, SystemExit | None), done.exception
    return json.loads(done.stdout)


def answers(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".json":
        return json.loads(path.read_text())
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text().splitlines()]
    found = open_table(str(path))
    return [row for batch in found.batches(found.names) for row in batch.to_pylist()]


@pytest.mark.parametrize("given", ["parquet", "csv", "arrow", "json", "jsonl"])
def test_every_format_in_gives_every_format_out(folder, given, tmp_path):
    plain = predict(folder, str(folder / f"rows.{given}"))["predictions"]
    for made in ("parquet", "csv", "feather", "json", "jsonl") if given == "parquet" else (given,):
        output = tmp_path / f"answers.{made}"
        said = predict(folder, str(folder / f"rows.{given}"), "--output", str(output))
        assert said == {"version": 1, "rows": 12, "output": str(output)}
        found = answers(output)
        assert [row["id"] for row in found] == ROWS["id"].to_pylist()
        assert [row["label"] for row in found] == [one["label"] for one in plain]
        for name in ("0", "1", "2"):
            assert [row[f"probability_{name}"] for row in found] == pytest.approx(
                [one["probabilities"][name] for one in plain], abs=1e-6
            )
        assert sorted(tmp_path.iterdir()) == [output]
        output.unlink()


def test_json_lines_on_standard_input(folder, tmp_path):
    lines = (folder / "rows.jsonl").read_text()
    assert len(predict(folder, "-", input=lines)["predictions"]) == 12
    assert predict(folder, "-", "--output", str(tmp_path / "a.csv"), input=lines)["rows"] == 12
    assert "line 3 of standard input" in predict(folder, "-", input='{"x0": 1}\n\n{"x0": \n')["what"]


def test_a_wrong_row_leaves_what_was_there(folder, tmp_path):
    spoilt = ROWS.set_column(2, "x0", pa.array([*[1.0] * 11, None]))
    pacsv.write_csv(spoilt, tmp_path / "rows.csv")
    (tmp_path / "a.csv").write_text("before")
    said = predict(folder, str(tmp_path / "rows.csv"), "--output", str(tmp_path / "a.csv"))
    assert said["what"].startswith("row 12: column 'x0'")
    assert (tmp_path / "a.csv").read_text() == "before"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.csv", "rows.csv"]


def test_a_file_that_can_t_be_written_is_said_before_any_row_is_read(tmp_path):
    for wrong in ("a.txt", "a", "nowhere/a.csv"):
        with pytest.raises(RequestError):
            check_answer_file(tmp_path / wrong, "-")


def test_answers_never_take_the_place_of_the_rows(folder, tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "link.csv").symlink_to(folder / "rows.csv")
    for rows, output in (
        (folder / "rows.csv", folder / "rows.csv"),
        (folder / "rows.csv", tmp_path / "link.csv"),
        (tmp_path, tmp_path / "deep" / "a.csv"),
    ):
        with pytest.raises(RequestError, match="would be part of"):
            check_answer_file(output, str(rows))
    check_answer_file(tmp_path / "deep" / "a.csv", str(tmp_path / "link.csv"))


def test_no_rows_are_an_empty_list(tmp_path):
    schema = pa.schema([("label", pa.int64())])
    assert write_answers(pa.RecordBatchReader.from_batches(schema, []), tmp_path / "a.json") == 0
    assert json.loads((tmp_path / "a.json").read_text()) == []


def test_keys_come_from_a_column_of_a_table(folder, tmp_path):
    for given in ("parquet", "csv", "arrow"):
        assert read_keys(str(folder / f"rows.{given}"), "id") == ROWS["id"].to_pylist()
    pq.write_table(pa.table({"id": [7, 8]}), tmp_path / "ids")
    assert read_keys(str(tmp_path / "ids"), "id") == [7, 8]
    (tmp_path / "ids.csv").write_text("id\n007\n8\n")
    assert read_keys(str(tmp_path / "ids.csv"), "id") == ["007", "8"]
    (tmp_path / "ids.csv").write_text("id,n\n7,1\n,2\n")
    with pytest.raises(DataError, match=r"row 2 of .* has no key"):
        read_keys(str(tmp_path / "ids.csv"), "id")
    for column in ("person", None):
        with pytest.raises(DataError, match="has no column of these keys"):
            read_keys(str(tmp_path / "ids.csv"), column)
    pq.write_table(pa.table({"id": [7.0, 8.0]}), tmp_path / "ids")
    with pytest.raises(DataError, match="can't be an id"):
        read_keys(str(tmp_path / "ids"), "id")


def test_people_of_a_table_are_planned_for(folder):
    pq.write_table(pa.table({"person": ["p1", "p2"]}), folder / "people.parquet")
    words = ["plan", "--groups", str(folder / "people.parquet"), "-c", str(folder / "c.yaml"), "--json"]
    done = CliRunner().invoke(app, words)
    people = table(60, ids="str", groups=20)["person"].to_pylist()
    found = json.loads(done.stdout)
    assert sum(shard["revoked"] for shard in found["shards"]) == people.count("p1") + people.count("p2")
