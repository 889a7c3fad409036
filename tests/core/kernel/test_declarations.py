"""Declarations of columns: those that do not fit the table are an error before anything is written."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from hybridmu.config import Settings
from hybridmu.core.kernel.table_encoder import Encoder
from hybridmu.errors import ConfigError, DataError
from tests.support import local_system, open_lake, settings_dict, table, write


def made(rows: int = 60) -> pa.Table:
    columns = {
        "n": np.arange(rows) * 1.0,
        "i": np.arange(rows),
        "s": [f"k{i % 3}" for i in range(rows)],
        "b": np.arange(rows) % 2 == 0,
        "v": pa.array([[i, 1.0] for i in range(rows)], pa.list_(pa.float32(), 2)),
    }
    base = table(rows, groups=6).select(["id", "person", "label"])
    for name, values in columns.items():
        base = base.append_column(name, pa.array(values))
    return base


CATEGORIES = {"categories": {"s": ["k0", "k1", "k2"]}}
WRONG = {
    "classes twice": ({"classes": [0, 1, 1, 2]}, ConfigError, "data.classes: the list names 1 twice"),
    "classes mixed": ({"classes": [0, "1", 2]}, ConfigError, "mixes numbers and text"),
    "classes too large": ({"classes": [0, 2**63]}, ConfigError, "needs more than 63 bits"),
    "no classes": ({"classes": []}, ConfigError, "data.classes: the list is empty"),
    "classes of another type": ({"classes": ["a", "b"]}, DataError, "different types"),
    "classes of integers as text": ({"classes": ["00", "01", "02"]}, DataError, "different types"),
    "classes of booleans as text": ({"label": "b", "classes": ["0", "1"]}, DataError, "different types"),
    "classes that no boolean is": ({"label": "b", "classes": [0, 1, 2]}, DataError, "different types"),
    "classes of text as integers": ({"label": "s", "classes": [0, 1]}, DataError, "different types"),
    "a class is missing": ({"classes": [0, 2]}, DataError, "got: 1"),
    "categories of numbers": ({"categories": {"n": ["1"]}}, DataError, "data.categories does not fit column 'n'"),
    "categories of booleans": ({"categories": {"b": ["1"]}}, DataError, "data.categories does not fit column 'b'"),
    "categories of lists": ({"categories": {"v": ["1"]}}, DataError, "data.categories does not fit column 'v'"),
    "no categories": ({"categories": {"s": []}}, ConfigError, "data.categories: the list is empty"),
    "categories twice": ({"categories": {"s": ["k0", "k1", "k2", "k0"]}}, ConfigError, "the list names 'k0' twice"),
    "buckets of numbers": ({"hash_buckets": {"i": 8}}, DataError, "data.hash_buckets does not fit column 'i'"),
    "both": ({**CATEGORIES, "hash_buckets": {"s": 8}}, DataError, "both data.categories and data.hash_buckets"),
    "scale of text": ({"scale": {"s": 2.0}}, DataError, "data.scale does not fit column 's'"),
    "scale of booleans": ({"scale": {"b": 2.0}}, DataError, "data.scale does not fit column 'b'"),
    "scale of nothing": ({"scale": {"n": 0.0}}, DataError, "makes every value of column 'n' zero"),
    "scale to nothing": ({"scale": {"n": 1e-60}}, DataError, "zero in float32"),
    "scale of integers to nothing": ({"scale": {"i": -1e-60}}, DataError, "zero in float32"),
    "scale of lists to nothing": ({"scale": {"v": 1e-46}}, DataError, "zero in float32"),
    "lists of numbers": ({"lists": {"n": 2}}, DataError, "data.lists does not fit column 'n'"),
    "another length": ({"lists": {"v": 3}}, DataError, "data.lists does not fit column 'v'"),
    "fill of text": ({"fills": {"s": 1}}, DataError, "data.fills does not fit column 's'"),
    "fill of numbers": ({"fills": {"n": "x"}}, DataError, "data.fills does not fit column 'n'"),
    "fill of booleans": ({"fills": {"b": 1}}, DataError, "data.fills does not fit column 'b'"),
    "fill too large": ({"fills": {"n": 1e300}}, ConfigError, "data.fills: the number is beyond"),
    "fill outside the categories": ({**CATEGORIES, "fills": {"s": "z"}}, DataError, "data.fills does not fit"),
    "declares no column": ({"fills": {"zz": 0}}, DataError, "not features: ['zz']"),
    "declares the label": ({"fills": {"label": 0}}, DataError, "not features: ['label']"),
    "declares what is no feature": ({"features": ["n"], "scale": {"i": 2}}, DataError, "not features: ['i']"),
    "feature is the label": ({"features": ["n", "label"]}, ConfigError, "names the column of data.label"),
    "feature is the id": ({"features": ["n", "id"]}, ConfigError, "names the column of data.id"),
    "feature is the group": ({"features": ["n", "person"]}, ConfigError, "names the column of data.group"),
    "feature twice": ({"features": ["n", "i", "n"]}, ConfigError, "data.features: the list names 'n' twice"),
    "no feature": ({"features": []}, ConfigError, "data.features: the list is empty"),
    "unknown feature": ({"features": ["n", "zz"]}, DataError, "'zz' is missing"),
    "id is the label": ({"id": "label"}, ConfigError, "data.id and data.label name the same column"),
    "id is the group": ({"group": "id"}, ConfigError, "data.id and data.group name the same column"),
    "label is the group": ({"group": "label"}, ConfigError, "data.label and data.group name the same column"),
    "no id": ({"id": "zz"}, DataError, "data.id names a column that is not in the table"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_what_does_not_fit_is_refused_before_anything_is_written(tmp_path, case):
    data, kind, says = WRONG[case]
    write(tmp_path, made())
    with pytest.raises((DataError, ConfigError)) as error:
        open_lake(tmp_path, data={"group": "person", **data})
    assert says in str(error.value)
    assert isinstance(error.value, kind)
    assert [path for path in (tmp_path / "storage").rglob("*") if path.is_file()] == []


def test_what_fits_is_taken(tmp_path):
    write(tmp_path, made())
    data = {
        "group": "person",
        "fills": {"n": -1, "i": 0.5, "s": "k0", "b": False, "v": 2},
        "scale": {"n": -0.5, "i": 2.0, "v": 0.25},
        "lists": {"v": 2},
        **CATEGORIES,
    }
    lake = open_lake(tmp_path, data=data)
    assert [(column.name, column.width) for column in lake.manifest.encoder.columns] == [
        ("n", 2), ("i", 2), ("s", 4), ("b", 2), ("v", 3)
    ]  # fmt: skip


@pytest.mark.parametrize("declared", [{"hash_buckets": {"s": 0}}, {"scale": {"n": float("nan")}}, {"lists": {"v": 0}},
                                      {"train": ["a", "b"]}, {"test": 3}, {"hash_buckets": {"s": 10**9}}])  # fmt: skip
def test_what_no_table_could_fit_is_refused_with_the_configuration(tmp_path, declared):
    with pytest.raises(ConfigError, match=f"data.{next(iter(declared))}"):
        Settings.parse(settings_dict(tmp_path, data=declared))


def test_a_key_that_older_storages_do_not_know_leaves_their_identity(tmp_path):
    plain, declared = (Settings.parse(settings_dict(tmp_path, data=data)) for data in ({}, {"lists": {"v": 2}}))
    assert "lists" not in plain.identity()["data"]
    assert declared.identity()["data"]["lists"] == {"v": 2}


def test_other_tables_have_the_types_of_the_first(tmp_path):
    write(tmp_path, made())
    for name, values in {"n": [True] * 60, "s": [1] * 60, "b": [1] * 60, "v": [1.0] * 60, "i": ["1"] * 60}.items():
        other = made(60).set_column(made().column_names.index(name), name, pa.array(values))
        write(tmp_path, other, "test.parquet")
        for split in ("test", "validation"):
            with pytest.raises(DataError, match=f"column '{name}' has another type in the {split} table"):
                open_lake(tmp_path, data={"group": "person", split: str(tmp_path / "test.parquet")})


@pytest.mark.parametrize(("found", "later"), [(["0", "1"], [0, 1]), ([0, 1], ["0", "1"]), ([0, 1, 2], [False, True])])
@pytest.mark.parametrize("declared", [True, False])
@pytest.mark.sampled
def test_labels_of_another_kind_are_other_classes(tmp_path, found, later, declared):
    def labelled(values: list, start: int) -> pa.Table:
        labels = pa.array([values[n % len(values)] for n in range(60)])
        return table(60, start=start).drop_columns(["label"]).append_column("label", labels)

    write(tmp_path, labelled(found, 0))
    write(tmp_path, labelled(later, 100), "new.parquet")
    with local_system(tmp_path, data={"classes": found} if declared else {}) as system:
        assert system.train()["classes"] == found
        for verb in (system.ingest, system.correct):
            with pytest.raises(DataError, match="different types"):
                verb(tmp_path / "new.parquet")
    for split in ("validation", "test"):
        data = {split: str(tmp_path / "new.parquet")} | ({"classes": found} if declared else {})
        with pytest.raises(DataError, match="different types"):
            open_lake(tmp_path, data=data, storage_url=str(tmp_path / "other"))


@pytest.mark.parametrize("declared", [True, False])
@pytest.mark.sampled
def test_false_and_true_are_the_classes_0_and_1(tmp_path, declared):
    write(tmp_path, made())
    write(tmp_path, made(90).slice(60), "new.parquet")
    as_numbers = made(120).slice(90)
    as_numbers = as_numbers.set_column(as_numbers.column_names.index("b"), "b", as_numbers["b"].cast(pa.int8()))
    write(tmp_path, as_numbers, "numbers.parquet")
    with local_system(tmp_path, data={"label": "b", **({"classes": [0, 1]} if declared else {})}) as system:
        assert system.train()["classes"] == [0, 1]
        system.ingest(tmp_path / "new.parquet", wait=True)
        system.ingest(tmp_path / "numbers.parquet", wait=True)
        lake = system.site.lake
        lake.refresh()
        rows = [system.site.lake.rows("train", shard, set()) for shard in range(4)]
        assert sum(int(found.y.sum()) for found in rows) == 60


def test_rows_that_an_earlier_release_took_under_other_classes_are_read_as_they_were(tmp_path):
    """It compared labels of integers with classes of text as text; what it stored can still be retrained."""
    encoder = Encoder((), "label", ("0", "1", "2"))
    assert encoder.encode_labels(pa.table({"label": [2, 0, 1]})).tolist() == [2, 0, 1]


def test_a_column_without_values_fits_every_type(tmp_path):
    nothing = made(60).select(["id", "person", "label"])
    for name in ("n", "i", "s", "b", "v"):
        nothing = nothing.append_column(name, pa.nulls(60))
    write(tmp_path, made())
    write(tmp_path, nothing, "test.parquet")
    fills = {"n": 1, "i": 1, "s": "x", "b": True, "v": 0}
    lake = open_lake(tmp_path, data={"group": "person", "fills": fills, "test": str(tmp_path / "test.parquet")})
    assert sum(len(lake.rows("test", shard, set()).y) for shard in range(4)) == 60
    write(tmp_path, nothing)
    with pytest.raises(DataError, match="'n' can't be a feature"):
        open_lake(tmp_path, data={"group": "person", "fills": fills}, storage_url=str(tmp_path / "other"))


def test_served_rows_have_the_types_of_the_first_table(tmp_path):
    write(tmp_path, made())
    row = {"n": 0.5, "i": 3, "s": "k1", "b": True, "v": [1, 2]}
    with local_system(tmp_path, data={"group": "person"}) as system:
        system.train()
        expected = system.predict([row])["predictions"]
        assert system.predict([{**row, "n": np.float64(0.5), "v": [1.0, 2.0]}])["predictions"] == expected
        wrong = {
            "b": [37, 0.5, "true", [True]],
            "n": ["0.5", [1.0], b"1"],
            "i": ["3", {}],
            "s": [1, 0.5, ["k1"]],
            "v": ["12", 1.0, [[1], [2]], ["1", "2"]],
        }
        for name, values in wrong.items():
            for value in values:
                with pytest.raises(DataError, match=f"'{name}'"):
                    system.predict([{**row, name: value}])


def test_numbers_that_float32_does_not_hold_are_told_from_those_that_are_none(tmp_path):
    for values, says in {
        (1e300, 1.0): "1 row(s) with numbers too large for float32",
        (float("inf"), 1e300): "2 row(s) with NaN or infinity",
        (float("nan"), 1.0): "1 row(s) with NaN or infinity",
    }.items():
        for column in (pa.array([*values] + [0.0] * 58), pa.array([[v] for v in values] + [[0.0]] * 58)):
            write(tmp_path, made().append_column("x", column))
            with pytest.raises(DataError) as error:
                open_lake(tmp_path, data={"group": "person"})
            assert f"column 'x' has {says}" in str(error.value)
            assert "data.scale" in str(error.value)
    write(tmp_path, made().append_column("x", pa.array([1e300] + [0.0] * 59)))
    open_lake(tmp_path, data={"group": "person", "scale": {"x": 1e-300}})
