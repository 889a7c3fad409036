"""Source tables that a path names: every file and column of it, or an error that says what is not read."""

from __future__ import annotations

import json
import os
import socket

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st

from hybridmu.errors import ConfigError, DataError, StateError
from hybridmu.server.schemas import Keys
from hybridmu.store.dataset.key_lookup import Lookup
from hybridmu.store.dataset.layout import META
from hybridmu.store.dataset.reshard_import import Predecessor, inherit
from hybridmu.store.dataset.source_table import open_table
from hybridmu.store.dataset.waiting_rows import rewrite
from hybridmu.store.ledger.file_seals import drop_copies, record_copy
from hybridmu.store.storage.parquet import publish_parquet, read_parquet
from tests.support import lake_rows, local_system, open_lake, replaced, settings_dict, table, write


def rows_of(url, columns=("id",)) -> list[dict]:
    return [row for batch in open_table(str(url)).batches(list(columns)) for row in batch.to_pylist()]


def refused(folder, **data) -> str:
    """Return why a first read is refused, after making sure that nothing was written."""
    with pytest.raises((ConfigError, DataError)) as error:
        open_lake(folder, data=data)
    assert [path for path in (folder / "storage").rglob("*") if path.is_file()] == []
    return str(error.value)


# ---------------------------------------------------------------------- tables with a log of their own

LOGS = {
    "delta": ["_delta_log/00000000000000000000.json"],
    "iceberg": ["metadata/v1.metadata.json"],
    "iceberg of pyiceberg": ["metadata/00000-9c12d441.metadata.json"],
    "iceberg compressed": ["metadata/00001-9c12d441.gz.metadata.json"],
    "iceberg of hadoop": ["metadata/version-hint.text"],
    "hudi": [".hoodie/hoodie.properties"],
    "unfinished write": ["_temporary/0/part-0.parquet"],
}


@pytest.mark.parametrize("where", ["folder", "above", "below", "file", "link"])
@pytest.mark.parametrize("kind", LOGS)
def test_a_table_with_a_log_of_its_own_is_refused(tmp_path, kind, where):
    root = tmp_path / "t"
    write(root / "data" / "day=1", table(20), "part-0.parquet")
    for name in LOGS[kind]:
        path = (tmp_path if where == "above" else root / "data" if where == "below" else root) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}")
    (tmp_path / "link").symlink_to(root / "data" / "day=1")
    place = {"file": root / "data" / "day=1" / "part-0.parquet", "link": tmp_path / "link"}.get(where, root)
    message = refused(tmp_path, train=str(place))
    assert f"{place} is part of a" in message
    assert "export" in message


def test_every_verb_refuses_it(tmp_path):
    write(tmp_path, table(60))
    write(tmp_path / "delta", table(20, start=100), "part-0.parquet")
    (tmp_path / "delta" / "_delta_log").mkdir()
    for split in ("train", "validation", "test"):
        data = {"train": str(tmp_path / "train.parquet"), split: str(tmp_path / "delta")}
        assert "Delta" in refused(tmp_path, **data)
    with local_system(tmp_path) as system:
        system.train()
        for verb in (system.ingest, system.correct):
            with pytest.raises(DataError, match="a Delta table"):
                verb(tmp_path / "delta")


def test_a_hudi_partition_is_known_by_its_mark(tmp_path):
    write(tmp_path / "t", table(20))
    (tmp_path / "t" / ".hoodie_partition_metadata").write_text("")
    assert "a Hudi table" in refused(tmp_path, train=str(tmp_path / "t"))


@pytest.mark.parametrize("kind", LOGS)
@pytest.mark.parametrize("link", ["a file", "a folder", "a folder above", "another link"])
def test_a_link_into_a_table_with_a_log_of_its_own_is_refused(tmp_path, kind, link):
    write(tmp_path / "logged" / "data" / "day=1", table(20, start=20), "p.parquet")
    for name in LOGS[kind]:
        path = tmp_path / "logged" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}")
    plain, inside = tmp_path / "plain", tmp_path / "logged" / "data" / "day=1"
    write(plain, table(20))
    if link == "a file":
        (plain / "x.parquet").symlink_to("../logged/data/day=1/p.parquet")
    elif link == "a folder":
        (plain / "x").symlink_to(inside)
    elif link == "a folder above":
        (tmp_path / "there").symlink_to(tmp_path / "logged")
        (plain / "x").symlink_to("../there/data/day=1")
    else:  # what lies in that table is itself a link out of it
        (inside / "p.parquet").rename(tmp_path / "elsewhere.parquet")
        (inside / "p.parquet").symlink_to(tmp_path / "elsewhere.parquet")
        (plain / "x.parquet").symlink_to(inside / "p.parquet")
    message = refused(tmp_path, train=str(plain))
    assert f"{plain} is part of a" in message
    assert "export" in message


# ---------------------------------------------------------------------- which files


def test_links_within_a_folder_are_followed(tmp_path):
    made = table(30)
    write(tmp_path / "t", made.slice(0, 10))
    write(tmp_path / "other" / "deep", made.slice(10, 10), "a.parquet")
    write(tmp_path / "other", made.slice(20), "b.parquet")
    (tmp_path / "t" / "folder").symlink_to(tmp_path / "other" / "deep")
    (tmp_path / "t" / "file").symlink_to("../other/b.parquet")
    assert sorted(row["id"] for row in rows_of(tmp_path / "t")) == list(range(30))


@pytest.mark.parametrize("name", ["b.parquet", "sub/b", "_SUCCESS", "sub"])
@pytest.mark.parametrize("kind", ["link to nothing", "pipe", "socket"])
def test_what_is_neither_file_nor_folder_is_named(tmp_path, monkeypatch, kind, name):
    write(tmp_path / "t", table(20))
    path = tmp_path / "t" / name
    path.parent.mkdir(exist_ok=True)
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        monkeypatch.chdir(path.parent)  # the name of a socket may not be long
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
    else:
        path.symlink_to(tmp_path / "nowhere")
    assert f"{path} is neither a file nor a folder" in refused(tmp_path, train=str(tmp_path / "t"))
    if kind != "link to nothing":
        assert f"{path} is neither a file nor a folder" in refused(tmp_path, train=str(path))


def test_a_link_back_is_named(tmp_path):
    write(tmp_path / "t" / "a" / "b", table(20))
    (tmp_path / "t" / "a" / "b" / "c").symlink_to(tmp_path / "t")
    assert f"{tmp_path}/t/a/b/c leads back" in refused(tmp_path, train=str(tmp_path / "t"))
    (tmp_path / "t" / "a" / "b" / "c").unlink()
    (tmp_path / "t" / "a" / "b" / "c").symlink_to("c")
    assert f"can't list {tmp_path}/t" in refused(tmp_path, train=str(tmp_path / "t"))


@pytest.mark.parametrize(
    "name", ["_x.parquet", ".x.parquet", "x.parq", "part-0", "a/b/c.parquet", "_a/.b/c", "x=1.parquet"]
)
def test_every_parquet_file_is_read_whatever_its_name(tmp_path, name):
    made = table(30)
    write(tmp_path / "t", made.slice(0, 10), "first.parquet")
    write((tmp_path / "t" / name).parent, made.slice(10), (tmp_path / "t" / name).name)
    assert sorted(row["id"] for row in rows_of(tmp_path / "t")) == list(range(30))


def test_what_tools_leave_beside_a_table_is_passed_over(tmp_path):
    write(tmp_path / "t", table(10))
    for name in ("_SUCCESS", "_metadata", "_common_metadata", ".part-0.parquet.crc", "_committed_17", ".DS_Store"):
        (tmp_path / "t" / name).write_text("")
    assert len(rows_of(tmp_path / "t")) == 10


@pytest.mark.parametrize(
    "name", ["part.crc", "_SUCCESS", "_metadata", "_common_metadata", "_committed_1", "sub/.DS_Store"]
)
def test_rows_under_the_name_of_what_tools_leave_are_not_passed_over(tmp_path, name):
    write(tmp_path / "t", table(10))
    write((tmp_path / "t" / name).parent, table(10, start=10), (tmp_path / "t" / name).name)
    assert f"{tmp_path / 't' / name} is a Parquet file" in refused(tmp_path, train=str(tmp_path / "t"))


def test_a_summary_of_the_whole_table_is_passed_over(tmp_path):
    found: list[pq.FileMetaData] = []
    pq.write_table(table(10), tmp_path / "first", metadata_collector=found)
    found[0].set_file_path("train.parquet")
    write(tmp_path / "t", table(10))
    pq.write_metadata(table(10).schema, tmp_path / "t" / "_metadata", metadata_collector=found)
    pq.write_metadata(table(10).schema, tmp_path / "t" / "_common_metadata")
    assert pq.read_metadata(tmp_path / "t" / "_metadata").num_rows == 10
    assert len(rows_of(tmp_path / "t")) == 10


@pytest.mark.parametrize("content", [b"", b"id,label\n1,2\n", b"PAR1 no PAR1"])
@pytest.mark.parametrize("name", ["notes.txt", "z.parquet", "b/more.parquet"])
def test_a_file_that_is_no_parquet_is_named(tmp_path, name, content):
    write(tmp_path / "t", table(10), "a.parquet")
    path = tmp_path / "t" / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    message = refused(tmp_path, train=str(tmp_path / "t"))
    assert f"can't read {path}" in message
    assert "move" in message


def test_a_file_with_damaged_pages_is_named(tmp_path):
    write(tmp_path / "t", table(500), "a.parquet")
    write(tmp_path / "t", table(500, start=500), "b.parquet", write_page_checksum=True)
    data = bytearray((tmp_path / "t" / "b.parquet").read_bytes())
    data[400] ^= 255
    (tmp_path / "t" / "b.parquet").write_bytes(data)
    assert f"can't read {tmp_path / 't' / 'b.parquet'}" in refused(tmp_path, train=str(tmp_path / "t"))


def test_each_mistake_has_a_message_of_its_own(tmp_path):
    (tmp_path / "empty").mkdir()
    assert "holds no table file" in refused(tmp_path, train=str(tmp_path / "empty"))
    assert "does not exist\n" in refused(tmp_path, train=str(tmp_path / "nowhere.parquet"))
    assert "patterns are not expanded" in refused(tmp_path, train=str(tmp_path / "*.parquet"))
    assert "holds a NUL" in refused(tmp_path, train=f"{tmp_path}/a\0b")
    write(tmp_path, table(10).slice(0, 0))
    assert "the train table has no rows" in refused(tmp_path)
    write(tmp_path, pa.table({}))
    assert "train table has no rows" in refused(tmp_path)
    write(tmp_path, table(10).select(["id", "label"]))
    assert "no feature column" in refused(tmp_path)
    write(tmp_path, table(50))
    write(tmp_path, table(10).slice(0, 0), "test.parquet")
    assert "the test table has no rows" in refused(tmp_path, test=str(tmp_path / "test.parquet"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_may_not_be_read(tmp_path):
    (tmp_path / "t").mkdir(mode=0o000)
    assert "can't list" in refused(tmp_path, train=str(tmp_path / "t"))


# ---------------------------------------------------------------------- partition folders


def hive(folder, made: pa.Table, column: str, values) -> None:
    for number, value in enumerate(values):
        part = made.slice(number * 20, 20)
        write(folder / f"{column}={value}", part, f"part-{number}.parquet")


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["1", "-2", "30"], [1, -2, 30]),
        (["01", "2", "3"], ["01", "2", "3"]),
        (["1", "two", "3"], ["1", "two", "3"]),
        (["1", "__HIVE_DEFAULT_PARTITION__", "3"], [1, None, 3]),
        (["a%2Fb", "c=d", "e f"], ["a/b", "c=d", "e f"]),
        (["2024-01-01", "2024-01-02", "x"], ["2024-01-01", "2024-01-02", "x"]),
        ([str(2**63), "1", "2"], [str(2**63), "1", "2"]),
    ],
)
def test_folders_named_column_equals_value_are_a_column(tmp_path, values, expected):
    hive(tmp_path / "t", table(60), "p", values)
    found = {row["id"]: row["p"] for row in rows_of(tmp_path / "t", ["id", "p"])}
    assert found == {number: expected[number // 20] for number in range(60)}


@pytest.mark.parametrize("role", ["feature", "group", "label"])
def test_a_partition_column_in_every_role(tmp_path, role):
    made = table(60) if role != "label" else table(60).drop_columns(["label"])
    hive(tmp_path / "t", made, "p", ["0", "1", "2"])
    data = {"group": {"group": "p"}, "label": {"label": "p"}}.get(role, {})
    lake = open_lake(tmp_path, data={"train": str(tmp_path / "t"), **data})
    assert {row["id"]: row["p"] for row in lake_rows(lake)} == {number: number // 20 for number in range(60)}
    assert ("p" in [column.name for column in lake.manifest.encoder.columns]) == (role == "feature")


def test_a_partition_column_that_contradicts_itself(tmp_path):
    hive(tmp_path / "a", table(60), "x1", ["0", "1", "2"])
    assert "has the column 'x1', and lies in a folder of that name" in refused(tmp_path, train=str(tmp_path / "a"))
    hive(tmp_path / "b", table(60), "p", ["0", "1"])
    write(tmp_path / "b", table(20, start=40))
    assert "lies in other partition folders" in refused(tmp_path, train=str(tmp_path / "b"))
    write(tmp_path / "c" / "p=1" / "p=2", table(20))
    assert "two folders" in refused(tmp_path, train=str(tmp_path / "c"))
    write(tmp_path / "d" / "=x", table(20))
    assert "a folder of =x/train.parquet names no column" in refused(tmp_path, train=str(tmp_path / "d"))


@pytest.mark.parametrize("names", [["p=%E9", "p=%EA"], ["%E9=1", "%E9=2"], ["p=a", "p=%C3"], ["p=%ED%A0%80", "p=b"]])
def test_percent_signs_that_stand_for_no_text_are_refused(tmp_path, names):
    for number, name in enumerate(names):
        write(tmp_path / "t" / name, table(20, start=20 * number))
    message = refused(tmp_path, train=str(tmp_path / "t"), group="p")
    assert "stand for no text" in message
    assert "%" in message.split("got: ")[1]


@pytest.mark.parametrize("names", [["p=a%", "p=a%25"], ["p=%41", "p=A"], ["p=1", "%70=1"]])
def test_folders_that_differ_are_not_one_group(tmp_path, names):
    for number, name in enumerate(names):
        write(tmp_path / "t" / name, table(20, start=20 * number))
    assert "two folders that differ mean the same value" in refused(tmp_path, train=str(tmp_path / "t"), group="p")


def folders(path, made: pa.Table, column: str, values: list[str]) -> str:
    """Write one row or more under each of some folders."""
    rows = len(made) // len(values)
    for number, value in enumerate(values):
        write(path / f"{column}={value}", made.slice(number * rows, rows))
    return str(path)


@pytest.mark.parametrize(
    ("column", "data"),
    [
        ("zip", {}),
        ("zip", {"categories": {"zip": ["01", "12", "90"]}}),
        ("zip", {"group": "zip"}),
        ("label", {"features": ["x0"], "classes": ["01", "12", "90"]}),
        ("id", {"features": ["x0"]}),
    ],
    ids=["feature", "category", "group", "label", "id"],
)
@pytest.mark.sampled
def test_names_of_folders_have_the_type_of_the_first_table(tmp_path, column, data):
    made = table(60) if column == "zip" else table(60).drop_columns([column])
    many = [f"0{number}" for number in range(20)] if column == "id" else ["01", "12"]
    data = {**data, "train": folders(tmp_path / "train", made.slice(0, 20), column, many)}
    data["test"] = folders(tmp_path / "test", made.slice(20, 2), column, ["12", "90"])
    new = folders(tmp_path / "new", made.slice(40, 1), column, ["90"])
    with local_system(tmp_path, data=data) as system:
        system.train()
        system.ingest(new, wait=True)
        found = [row[column] for row in lake_rows(system.site.lake)]
        assert sorted(set(found)) == sorted({*many, "90"})
        if column == "id" or "group" in data:
            assert system.forget(**{"ids" if column == "id" else "groups": ["90"]}, wait=True)["keys"] == 1
        wrong = folders(tmp_path / "wrong", table(20).append_column("zip", pa.array([90] * 20)), "day", ["1"])
        if column == "zip":
            with pytest.raises(DataError, match="'zip' has another type in the new table"):
                system.ingest(wrong)


def test_names_of_folders_that_are_no_integers_do_not_become_some(tmp_path):
    made = table(60)
    data = {"group": "zip", "train": folders(tmp_path / "train", made.slice(0, 40), "zip", ["10", "12"])}
    data["test"] = folders(tmp_path / "test", made.slice(40), "zip", ["01"])
    message = refused(tmp_path, **data)
    assert "'zip' has another type in the test table" in message
    assert "instead of into the names of folders" in message


@pytest.mark.parametrize("data", [{"categories": {"zip": ["10", "12"]}}, {"hash_buckets": {"zip": 4}},
                                  {"label": "zip", "features": ["x0"], "classes": ["10", "12"]}])  # fmt: skip
def test_names_of_folders_are_text_where_that_is_declared(tmp_path, data):
    url = folders(tmp_path / "train", table(40), "zip", ["10", "12"])
    lake = open_lake(tmp_path, data={**data, "train": url})
    assert {row["zip"] for row in lake_rows(lake)} == {"10", "12"}


def test_a_group_that_no_folder_names_gets_its_type_later(tmp_path):
    made = table(60)
    data = {"group": "zip", "train": folders(tmp_path / "t", made.slice(0, 40), "zip", ["__HIVE_DEFAULT_PARTITION__"])}
    new = folders(tmp_path / "new", made.slice(40), "zip", ["-7"])
    with local_system(tmp_path, data=data) as system:
        system.train()
        system.ingest(new, wait=True)
        assert system.site.lake.manifest.group_type == "int64"
        assert system.forget(groups=[-7], wait=True)["keys"] == 1


def test_a_folder_below_0_does_not_fit_keys_without_sign(tmp_path):
    write(tmp_path, table(40).append_column("zip", pa.array([2**63 + 1] * 40, UINT64)))
    new = folders(tmp_path / "new", table(20, start=50), "zip", ["-7"])
    with local_system(tmp_path, data={"group": "zip"}) as system:
        system.train()
        with pytest.raises(DataError, match="'zip'"):
            system.ingest(new)


# ---------------------------------------------------------------------- types of several files


def two_files(folder, first: pa.Table, later: pa.Table) -> str:
    write(folder / "t", first, "a.parquet")
    write(folder / "t", later, "b.parquet")
    return str(folder / "t")


def halves(values, later) -> tuple[pa.Table, pa.Table]:
    made = table(40)
    return (
        made.slice(0, 20).append_column("m", pa.array(values * 20)),
        made.slice(20).append_column("m", pa.array(later * 20)),
    )


INT8, INT64, UINT64 = pa.int8(), pa.int64(), pa.uint64()
F32, F64 = pa.float32(), pa.float64()


@pytest.mark.parametrize(
    ("first", "later"),
    [
        (([1], INT8), ([2**40], INT64)),
        (([2**40], INT64), ([1], INT8)),
        (([0.5], F32), ([0.1], F64)),
        (([1], INT64), ([0.5], F64)),
        (([0.5], F32), ([2**53], INT64)),
        (([-1], INT8), ([5], UINT64)),
        ((["a"], pa.large_string()), (["b"], pa.string())),
        (([[1, 2]], pa.list_(INT8, 2)), ([[0.5, 1]], pa.large_list(F64))),
        (([None], pa.null()), ([3], INT64)),
        (([3], INT64), ([None], pa.null())),
    ],
)
def test_types_that_differ_between_files_keep_every_value(tmp_path, first, later):
    parts = [part.set_column(part.schema.get_field_index("m"), "m", pa.array(values * 20, type_))
             for part, (values, type_) in zip(halves([1], [1]), (first, later), strict=True)]  # fmt: skip
    url = two_files(tmp_path, *parts)
    found = open_table(url)
    if pa.types.is_list(found.types["m"]):
        found = found.with_types({"m": pa.list_(found.types["m"].value_type, 2)})
    values = [row["m"] for batch in found.batches(["m"]) for row in batch.to_pylist()]
    assert values == first[0] * 20 + later[0] * 20


@pytest.mark.parametrize(
    ("first", "later"),
    [
        (([True], pa.bool_()), ([1], INT64)),
        (([1], INT64), ([True], pa.bool_())),
        (([True], pa.bool_()), ([0.5], F64)),
        ((["1"], pa.string()), ([1], INT64)),
        (([0.5], F64), ([2**53 + 1], INT64)),
        (([2**53 + 1], INT64), ([0.5], F64)),
        (([-1], INT64), ([2**63], UINT64)),
        (([2**63], UINT64), ([-1], INT64)),
        (([[1, 2]], pa.list_(INT8, 2)), ([[1, 2, 3]], pa.list_(INT8, 3))),
        (([[1, 2]], pa.list_(INT8)), ([[1, 2, 3]], pa.list_(INT8))),
        (([[1, 2]], pa.list_(INT8, 2)), ([[1, 2, 3]], pa.list_(INT8))),
    ],
)
def test_a_cast_that_would_change_a_value_names_file_column_and_types(tmp_path, first, later):
    parts = [part.set_column(part.schema.get_field_index("m"), "m", pa.array(values * 20, type_))
             for part, (values, type_) in zip(halves([1], [1]), (first, later), strict=True)]  # fmt: skip
    message = refused(tmp_path, train=two_files(tmp_path, *parts))
    assert "column 'm'" in message
    assert ".parquet" in message
    assert str(9007199254740993) not in message  # a value may be somebody's


def test_a_column_that_a_file_lacks_is_never_dropped(tmp_path):
    first, later = halves([1.0], [2.0])
    for parts in ((first, later.drop_columns(["m"])), (first.drop_columns(["m"]), later)):
        message = refused(tmp_path, train=two_files(tmp_path, *parts))
        assert "lacks columns ['m']" in message
        assert ".parquet" in message
    assert len(lake_rows(open_lake(tmp_path, data={"train": str(tmp_path / "t"), "features": ["x0"]}))) == 40


EMPTY = {
    "pandas' empty column": pa.nulls(20, F64),
    "another type": pa.nulls(20, pa.list_(pa.string())),
    "lists of nothing": pa.nulls(20, pa.list_(pa.null())),
    "null": pa.nulls(20),
}
FULL = {
    "text": pa.array(["a"] * 20),
    "integers": pa.array([2**53 + 1] * 20),
    "booleans": pa.array([True, False] * 10),
    "lists": pa.array([[1, 2**53 + 1]] * 20),
}


@pytest.mark.parametrize("empty", EMPTY)
@pytest.mark.parametrize("full", FULL)
@pytest.mark.parametrize("first", ["empty", "full"])
@pytest.mark.sampled
def test_a_file_without_a_value_in_a_column_has_any_type(tmp_path, full, empty, first):
    made, values = table(40), [EMPTY[empty], FULL[full]]
    values = values if first == "empty" else values[::-1]
    url = two_files(tmp_path, *(made.slice(20 * n, 20).append_column("m", value) for n, value in enumerate(values)))
    found = open_table(url)
    assert found.type_of("m") == FULL[full].type
    found = found.with_types({"m": pa.list_(INT64, 2)} if full == "lists" else {})
    assert [row["m"] for batch in found.batches(["m"]) for row in batch.to_pylist()] == [
        value for part in values for value in part.to_pylist()
    ]
    fill = {"text": "a", "integers": 0, "booleans": True, "lists": 1}[full]
    assert len(lake_rows(open_lake(tmp_path, data={"train": url, "fills": {"m": fill}}))) == 40


@pytest.mark.parametrize("value", [0.0, float("nan")])
def test_one_value_is_enough_for_a_type(tmp_path, value):
    late = pa.array([None] * 19 + [value], F64)
    made = table(40)
    url = two_files(
        tmp_path, made.slice(0, 20).append_column("m", late), made.slice(20).append_column("m", pa.array(["a"] * 20))
    )
    assert "column 'm' has another type in" in refused(tmp_path, train=url)


def test_a_file_without_rows_has_any_types(tmp_path):
    made = table(40, groups=5)
    nothing = pa.table({name: pa.array([], pa.binary()) for name in made.column_names})
    for name in ("a.parquet", "c.parquet"):
        write(tmp_path / "t", nothing, name)
    write(tmp_path / "t", made, "b.parquet")
    lake = open_lake(tmp_path, data={"train": str(tmp_path / "t"), "group": "person"})
    assert len(lake_rows(lake)) == 40


@pytest.mark.parametrize("people", [["a", "b"], [2**53 + 1, 7]])
@pytest.mark.sampled
def test_people_of_a_file_are_kept_beside_a_file_without_any(tmp_path, people):
    made = table(40, groups=5)
    nobody, some = (
        replaced(made.slice(20 * n, 20), "person", values)
        for n, values in enumerate([pa.nulls(20, F64), pa.array(people * 10)])
    )
    url = two_files(tmp_path, nobody, some)
    with local_system(tmp_path, data={"train": url, "group": "person"}) as system:
        system.train()
        assert system.forget(groups=[people[0]], wait=True)["keys"] == 1


def test_a_later_table_without_a_value_in_a_column_has_any_type(tmp_path):
    made = table(60).append_column("m", pa.array(["a", None] * 30))
    write(tmp_path, made.slice(0, 40))
    write(tmp_path, replaced(made.slice(40), "m", pa.nulls(20, F64)), "new.parquet")
    with local_system(tmp_path, data={"fills": {"m": "x"}}) as system:
        system.train()
        system.ingest(tmp_path / "new.parquet", wait=True)
        assert [row["m"] for row in sorted(lake_rows(system.site.lake), key=lambda row: row["id"])][40:] == [None] * 20
        write(
            tmp_path,
            replaced(table(20, start=90).append_column("m", made["m"].slice(0, 20)), "m", pa.array([0.5] * 20)),
        )
        with pytest.raises(DataError, match="'m' has another type in the new table"):
            system.ingest(tmp_path / "train.parquet")


@pytest.mark.parametrize("column", ["id", "person"])
def test_keys_are_of_one_type_in_all_files(tmp_path, column):
    made = table(40, groups=5)
    other = pa.array([str(value) for value in range(20, 40)]) if column == "id" else pa.array(range(20))
    url = two_files(tmp_path, made.slice(0, 20), replaced(made.slice(20), column, other))
    assert f"column '{column}' has another type in {url}" in refused(tmp_path, train=url, group="person")


@pytest.mark.parametrize(
    ("nothing", "people"),
    [(pa.nulls(20), [3, 4]), (pa.array([None] * 20, pa.float64()), ["a", "b"])],
    ids=["null", "pandas"],
)
@pytest.mark.sampled
def test_groups_can_be_named_from_the_first_one_on(tmp_path, nothing, people):
    made = table(60, groups=5)
    write(tmp_path, replaced(made.slice(0, 20), "person", nothing))
    write(tmp_path, replaced(made.slice(20, 20), "person", nothing), "still.parquet")
    write(tmp_path, replaced(made.slice(40), "person", pa.array(people * 10)), "new.parquet")
    with local_system(tmp_path, data={"group": "person"}) as system:
        system.train()
        system.ingest(tmp_path / "still.parquet", wait=True)
        assert system.site.lake.manifest.group_type == "null"
        system.ingest(tmp_path / "new.parquet", wait=True)
        assert system.forget(groups=[people[0]], wait=True)["keys"] == 1
        assert system.forget(groups=[str(people[1])], wait=True)["state"] in {"SERVED", "PURGED"}
        other = pa.array(["x"] * 20 if people[0] == 3 else [1] * 20)
        write(tmp_path, replaced(table(20, groups=5, start=90), "person", other), "other.parquet")
        with pytest.raises(DataError, match="'person' has another type in the new table"):
            system.ingest(tmp_path / "other.parquet")


def test_a_group_that_waits_is_not_unknown_before_its_type_is_known(tmp_path):
    made = table(60, groups=5)
    write(tmp_path, replaced(made.slice(0, 40), "person", pa.nulls(40)))
    write(tmp_path, replaced(made.slice(40), "person", pa.array([3] * 20)), "new.parquet")
    with local_system(tmp_path, data={"group": "person"}) as system:
        system.train()
        system.ingest(tmp_path / "new.parquet")
        for person in (3, "3"):
            with pytest.raises(StateError, match="still being ingested"):
                system.forget(groups=[person], ignore_unknown=True, ids=[0])


# ---------------------------------------------------------------------- columns


@pytest.mark.parametrize("frame", ["shuffled", "named index", "two levels"])
def test_an_index_of_pandas_is_no_feature(tmp_path, frame):
    made = table(40).to_pandas().sample(frac=1.0, random_state=1)
    made = made.set_index(pd.Index(np.arange(40), name="order")) if frame == "named index" else made
    made = made.set_index([made["id"].to_numpy(), np.arange(40)]) if frame == "two levels" else made
    made.to_parquet(tmp_path / "train.parquet")
    lake = open_lake(tmp_path)
    assert [column.name for column in lake.manifest.encoder.columns] == ["x0", "x1", "x2", "x3"]


def test_an_index_of_pandas_may_be_the_id_or_a_named_feature(tmp_path):
    table(40).to_pandas().sample(frac=1.0, random_state=1).set_index("id").to_parquet(tmp_path / "train.parquet")
    assert sorted(row["id"] for row in lake_rows(open_lake(tmp_path))) == list(range(40))
    made = table(40).to_pandas()
    made.set_index(pd.Index(np.arange(40)[::-1] % 7, name="order")).to_parquet(tmp_path / "train.parquet")
    other = settings_dict(tmp_path)["storage_url"] + "-2"
    lake = open_lake(tmp_path, storage_url=other, data={"features": ["x0", "order"]})
    assert [column.name for column in lake.manifest.encoder.columns] == ["x0", "order"]


@pytest.mark.parametrize("index", ["a", ["id", "a"], ["a", "b"], "range"])
@pytest.mark.sampled
def test_a_column_that_is_an_index_is_not_left_out_without_a_word(tmp_path, index):
    made = table(60).rename_columns({"x0": "a", "x1": "b"}).to_pandas()
    order = pd.RangeIndex(60, name="a")
    made = made.drop(columns="a").set_index(order) if index == "range" else made.set_index(index)
    made.to_parquet(tmp_path / "train.parquet")
    with local_system(tmp_path) as system:
        warnings = system.train()["warnings"]
        left = [warning for warning in warnings if "an index of pandas is no feature" in warning]
        assert len(left) == 1
        assert f"{'a'!r}{', ' + repr('b') if index == ['a', 'b'] else ''} of {tmp_path}" in left[0]
        assert "a" not in [column.name for column in system.site.lake.manifest.encoder.columns]


@pytest.mark.parametrize("index", [None, "id", "label", "unnamed", "declared"])
@pytest.mark.sampled
def test_an_index_that_is_no_loss_is_none_to_speak_of(tmp_path, index):
    made = table(60).to_pandas()
    if index == "unnamed":
        made = made.set_index(pd.Index([f"k{n}" for n in range(60)]))
    elif index == "id":
        made = made.sample(frac=1.0, random_state=1).set_index("id")
    elif index is not None:
        made = made.set_index("x0" if index == "declared" else index)
    made.to_parquet(tmp_path / "train.parquet")
    data = {"features": ["x1", "x2"]} if index == "declared" else {}
    with local_system(tmp_path, data=data) as system:
        assert not [warning for warning in system.train()["warnings"] if "pandas" in warning]


@pytest.mark.parametrize("role", ["id", "group", "label", "feature"])
def test_an_index_that_pandas_wrote_as_a_range_is_asked_for(tmp_path, role):
    made = table(60, groups=3).to_pandas()
    name = {"group": "person", "feature": "x0"}.get(role, role)
    made.drop(columns=name).set_index(pd.RangeIndex(60, name=name)).to_parquet(tmp_path / "train.parquet")
    message = refused(tmp_path, group="person", features=["x0", "x1"])
    assert name in message
    assert "write df.reset_index()" in message
    write(tmp_path, table(60, groups=3), "first.parquet")
    data = {"train": str(tmp_path / "first.parquet"), "test": str(tmp_path / "train.parquet")}
    message = refused(tmp_path, group="person", **data)
    assert f"the test table lacks columns ['{name}']" in message
    assert "write df.reset_index()" in message


@pytest.mark.parametrize(
    "data",
    [
        b"{",
        b"[]",
        b'{"index_columns": 3}',
        b'{"index_columns": [{"kind": "range"}]}',
        b'{"index_columns": [{"name": ["id"]}]}',
        b"[" * 100_000,
        b"\xff",
    ],
)
def test_metadata_that_only_looks_like_that_of_pandas(tmp_path, data):
    write(tmp_path, table(40).replace_schema_metadata({b"pandas": data}))
    assert len(lake_rows(open_lake(tmp_path))) == 40


@pytest.mark.parametrize(
    "names",
    [
        {"id": "_id", "person": "_group", "label": "_content", "x0": "_slice"},
        {
            "id": "_slice",
            "person": "=_id",
            "label": "_id",
            "x0": "==_id",
            "x1": "source",
            "x2": "_Id",
            "x3": "_group",
        },
    ],
    ids=["ours", "almost ours"],
)
@pytest.mark.sampled
def test_our_own_names_can_be_the_users(tmp_path, names):
    made = table(60, groups=6)
    made = made.rename_columns([names.get(name, name) for name in made.column_names])
    write(tmp_path, made.slice(0, 40))
    write(tmp_path, made.slice(40), "new.parquet")
    data = {"id": names["id"], "group": names["person"], "label": names["label"]}
    with local_system(tmp_path, data=data) as system:
        system.train()
        system.ingest(tmp_path / "new.parquet", wait=True)
        people = made[names["person"]].to_pylist()
        assert system.forget(groups=[people[0]], wait=True)["state"] in {"SERVED", "PURGED"}
        corrected = next(number for number, person in enumerate(people) if person != people[0])
        system.correct(one_row(tmp_path, made.slice(corrected, 1)), wait=True)
        found = lake_rows(system.site.lake)
        for name in made.column_names:
            kept = [row["=" + name if name.lstrip("=") in META else name] for row in found]
            left = [value for person, value in zip(people, made[name].to_pylist(), strict=True) if person != people[0]]
            assert sorted(kept) == sorted(left)
        row = {name: value for name, value in made.slice(0, 1).to_pylist()[0].items() if name not in data.values()}
        assert len(system.predict([row])["predictions"]) == 1


def one_row(folder, row: pa.Table):
    pq.write_table(row, folder / "row.parquet")
    return folder / "row.parquet"


def test_names_that_tables_may_have(tmp_path):
    odd = ["X0", "x0.y", "ü\u202e", "a\0b", "y" * 3000, " x0", "id ", "a b", "[b]"]
    made = table(40)
    for number, name in enumerate(odd):
        made = made.append_column(name, pa.array(np.arange(40) + number * 1.0))
    write(tmp_path, made)
    lake = open_lake(tmp_path)
    assert [column.name for column in lake.manifest.encoder.columns] == ["x0", "x1", "x2", "x3", *odd]
    assert {row["id"]: [row[name] for name in odd] for row in lake_rows(lake)} == {
        i: [i + float(number) for number in range(len(odd))] for i in range(40)
    }
    rows = lake.rows("train", 0, set())
    assert rows.x.shape[1] == 4 + len(odd)


def test_names_that_tables_may_not_have(tmp_path):
    made = table(40)
    write(tmp_path, made.append_column("", made["x0"]))
    assert "a feature column has no name" in refused(tmp_path)
    write(tmp_path, made.append_column("x0", made["x1"]))
    assert "two columns named 'x0'" in refused(tmp_path)
    assert len(lake_rows(open_lake(tmp_path, data={"features": ["x1"]}))) == 40


def test_metadata_and_dictionaries_of_a_source_are_not_kept(tmp_path):
    names = pa.array([f"somebody-{number}" for number in range(40)])
    made = table(40, groups=5).append_column("name", names.dictionary_encode())
    field = pa.field("x0", pa.float32(), metadata={"most": "somebody-39"})
    schema = made.schema.set(made.schema.get_field_index("x0"), field)
    made = made.cast(schema).replace_schema_metadata({"people": "somebody-7"})
    write(tmp_path, made.slice(0, 30))
    write(tmp_path, made.slice(30), "new.parquet")
    with local_system(tmp_path, data={"group": "person"}) as system:
        system.train()
        new = system.ingest(tmp_path / "new.parquet")
        files = [system.site.storage.path(name) for name in (*system.site.lake.names(), new["source"])
                 if system.site.storage.exists(name)]  # fmt: skip
        assert len(files) > 5
        for file in files:
            schema = pq.read_schema(file)
            assert not any(pa.types.is_dictionary(found.type) for found in schema)
            assert b"somebody" not in b"".join(
                value for found in (schema, *schema) for value in (found.metadata or {}).values()
            )


@pytest.mark.parametrize("column", ["id", "person"])
def test_keys_that_no_request_could_name_do_not_come_in(tmp_path, column):
    made = table(40, groups=5)
    keys = pa.array(["x" * 65_536, "", "\0", *(f"p{n}" for n in range(37))])
    write(tmp_path, replaced(made, column, keys))
    assert len(lake_rows(open_lake(tmp_path, data={"group": "person"}))) == 40
    keys = pa.array(["x" * 65_537, *(f"p{n}" for n in range(39))])
    write(tmp_path, replaced(made, column, keys))
    with pytest.raises(DataError, match="an id or group is too long"):
        open_lake(tmp_path, data={"group": "person"}, storage_url=str(tmp_path / "other"))


TEXT = st.text(st.characters(codec="utf-8"), max_size=12)
KEYS = st.one_of(
    st.lists(st.integers(-(2**63), 2**63 - 1), min_size=2, max_size=6, unique=True).map(lambda v: pa.array(v, INT64)),
    st.lists(st.integers(0, 2**64 - 1), min_size=2, max_size=6, unique=True).map(lambda v: pa.array(v, UINT64)),
    st.lists(TEXT, min_size=2, max_size=6, unique=True).map(lambda v: pa.array(v, pa.string())),
)


@settings(max_examples=12)
@given(ids=KEYS, groups=KEYS, names=st.lists(TEXT, min_size=3, max_size=3, unique=True))
def test_whatever_comes_in_can_be_named(tmp_path_factory, ids, groups, names):
    """Every key of a table that is accepted is found again, as itself and as text, and passes the HTTP interface."""
    folder = tmp_path_factory.mktemp("lake")
    id_, group, label = (name or "c" for name in names)
    rows = min(len(ids), len(groups))
    if len({id_, group, label, "x"}) < 4 or rows < 2 or "\0" in id_ + group + label:  # no text of a file has one
        return
    made = {id_: ids[:rows], group: groups[:rows], label: [n % 2 for n in range(rows)], "x": np.arange(rows) * 1.0}
    write(folder, pa.table(made))
    lake = open_lake(folder, data={"id": id_, "group": group, "label": label})
    for kind, column in (("id", ids[:rows]), ("group", groups[:rows])):
        for value in column.to_pylist():
            sent = json.loads(json.dumps({f"{kind}s": [value, str(value)]}))
            for named in getattr(Keys.model_validate(sent), f"{kind}s"):
                found, unknown = Lookup(lake).find([(kind, named)])
                assert len(found) == 1
                assert not unknown


def test_a_waiting_copy_of_an_older_release_loses_its_dictionaries(tmp_path):
    """Such a copy holds the names of all rows beside them: what is taken out of it, and what comes of it, is plain."""
    made = table(60, groups=6)
    write(tmp_path, made.slice(0, 30))
    write(tmp_path, made.slice(30), "new.parquet")
    with local_system(tmp_path, data={"group": "person"}) as system:
        system.train()
        new = system.ingest(tmp_path / "new.parquet")
        storage, lake = system.site.storage, system.site.lake
        copy = read_parquet(storage, new["source"])
        old = replaced(copy, "person", copy["person"].combine_chunks().dictionary_encode())
        with storage.staging() as folder:
            pq.write_table(old, folder / "old.parquet", write_page_checksum=True)
            publish_parquet(storage, folder / "old.parquet", new["source"])

        def record(seal: str) -> None:  # as the first start of this release does
            with system.database.engine.begin() as connection:
                drop_copies(connection, sa.select(sa.literal("")))
                record_copy(connection, new["source"], seal)

        record(lake.seal_of(new["source"]))
        system.forget(groups=["p1"])
        people = made.slice(30)["person"].to_pylist()
        assert rewrite(lake, system.ingestions.get(new["ingest_id"]), system.guard, record) == people.count("p1") > 0
        left = pq.read_table(storage.path(new["source"]))
        assert left.schema.field("person").type == pa.string()
        assert left["person"].to_pylist() == [person for person in people if person != "p1"]
        assert b"p1" not in storage.read(new["source"])
        system.wait_for_rows(new["ingest_id"])
        lake.refresh()
        grown = [name for shard in range(4) for name in lake.files("train", shard) if "g0001" in name]
        assert sum(pq.read_metadata(storage.path(name)).num_rows for name in grown) == len(left)
        assert all(pq.read_schema(storage.path(name)).field("person").type == pa.string() for name in grown)


def test_a_successor_takes_over_names_and_types(tmp_path):
    names = {"id": "_id", "person": "_group"}
    made = table(60, groups=6)
    made = made.rename_columns([names.get(name, name) for name in made.column_names])
    small = replaced(made.slice(0, 30), "_id", made["_id"].slice(0, 30).cast(pa.int16()))
    write(tmp_path, replaced(small, "_group", pa.nulls(30)))
    write(tmp_path, replaced(made.slice(30), "x0", pa.array(range(30))), "new.parquet")
    data = {"id": "_id", "group": "_group"}
    with local_system(tmp_path, data=data) as system:
        system.train()
        system.ingest(tmp_path / "new.parquet", wait=True)
        old = system.site.lake
        old.refresh()
        new = open_lake(tmp_path, read=False, data=data, sisa={"shards": 3}, storage_url=str(tmp_path / "successor"))
        manifest = inherit(new, Predecessor("s", "n", 2, old, {}, 0), system.guard)
        assert (manifest.id_type, manifest.group_type) == ("int16", "string")
        before, after = ({row["=_id"]: (row["=_group"], row["x0"], row["_content"]) for row in lake_rows(lake)}
                         for lake in (old, new))  # fmt: skip
        assert before == after
        assert len(after) == 60
        assert not Lookup(new).find([("group", made["_group"][30].as_py()), ("id", 3)])[1]
