"""Partition folders of a source table (`column=value`): columns of every row below them."""

from __future__ import annotations

import pyarrow as pa
import pytest

from hybridmu.errors import DataError
from tests.source_tables import UINT64, refused, rows_of
from tests.support import lake_rows, local_system, open_lake, table, write


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
