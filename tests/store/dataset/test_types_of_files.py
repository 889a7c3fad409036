"""Types of a column that differ between the files of a table: every value is kept, or an error names it."""

from __future__ import annotations

import pyarrow as pa
import pytest

from hybridmu.errors import DataError, StateError
from hybridmu.store.dataset.source_table import open_table
from tests.source_tables import INT8, INT64, UINT64, refused
from tests.support import lake_rows, local_system, open_lake, replaced, table, write


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
