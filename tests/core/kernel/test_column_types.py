"""Every Arrow type in every role: it comes in and is encoded, or is refused with a remedy; the docs say which."""

from __future__ import annotations

import datetime
import decimal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hybridmu.core.kernel.column_types import SUPPORTED, check_role, exact, kept, kind_of
from hybridmu.errors import DataError
from hybridmu.store.dataset.key_lookup import Lookup
from tests.support import lake_rows, local_system, open_lake, replaced, table

OWN_DATA = Path(__file__).parents[3] / "docs" / "own-data.md"
ROLES = ("id", "group", "label", "feature")
INT, TEXT = pa.int32(), pa.string()
UNION = pa.union([pa.field("i", INT), pa.field("s", TEXT)], "sparse")


class Tagged(pa.ExtensionType):
    """An extension type of somebody's own."""

    def __init__(self) -> None:
        super().__init__(pa.int64(), "tests.tagged")

    def __arrow_ext_serialize__(self) -> bytes:
        return b""

    @classmethod
    def __arrow_ext_deserialize__(cls, storage_type, serialized):
        return cls()


# Constant of pyarrow → types with values that stand for a row each. A new type in a later pyarrow needs a line here.
EXAMPLES = {
    "NA": [(pa.null(), None)],
    "BOOL": [(pa.bool_(), lambda n: n % 2 == 0)],
    **{name: [(getattr(pa, name.lower())(), lambda n: n)]
       for name in ("INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64")},
    "HALF_FLOAT": [(pa.float16(), np.float16)],
    "FLOAT": [(pa.float32(), float)],
    "DOUBLE": [(pa.float64(), float)],
    **{f"DECIMAL{bits}": [(getattr(pa, f"decimal{bits}")(9, 0), decimal.Decimal)] for bits in (32, 64, 128, 256)},
    "DATE32": [(pa.date32(), lambda n: datetime.date(2024, 1, 1 + n % 28))],
    "DATE64": [(pa.date64(), lambda n: datetime.date(2024, 1, 1 + n % 28))],
    "TIMESTAMP": [(pa.timestamp("us"), lambda n: n), (pa.timestamp("ns", "UTC"), lambda n: n)],
    "TIME32": [(pa.time32("s"), lambda n: n)],
    "TIME64": [(pa.time64("us"), lambda n: n)],
    "DURATION": [(pa.duration("s"), lambda n: n)],
    "INTERVAL_MONTH_DAY_NANO": [(pa.month_day_nano_interval(), lambda n: (n, 0, 0))],
    "INTERVAL_MONTHS": [],  # no factory in pyarrow
    "INTERVAL_DAY_TIME": [],
    "STRING": [(pa.string(), str), (pa.dictionary(pa.int8(), pa.string()), str)],
    "LARGE_STRING": [(pa.large_string(), str)],
    "STRING_VIEW": [(pa.string_view(), str)],
    "BINARY": [(pa.binary(), lambda n: b"%d" % n)],
    "LARGE_BINARY": [(pa.large_binary(), lambda n: b"%d" % n)],
    "BINARY_VIEW": [(pa.binary_view(), lambda n: b"%d" % n)],
    "FIXED_SIZE_BINARY": [(pa.binary(2), lambda n: b"%02d" % n)],
    **{name: [(make(value), lambda n: [n, 1]), (make(TEXT), lambda n: [str(n)] * 2)]
       for value in (INT,)
       for name, make in {"LIST": pa.list_, "LARGE_LIST": pa.large_list, "LIST_VIEW": pa.list_view,
                          "LARGE_LIST_VIEW": pa.large_list_view, "FIXED_SIZE_LIST": lambda v: pa.list_(v, 2)}.items()},
    "STRUCT": [(pa.struct([("a", INT)]), lambda n: {"a": n})],
    "MAP": [(pa.map_(TEXT, INT), lambda n: [("a", n)])],
    "SPARSE_UNION": [(UNION, None)],
    "DENSE_UNION": [(pa.union([pa.field("i", INT)], "dense"), None)],
    "DICTIONARY": [(pa.dictionary(pa.int32(), value), lambda n: n) for value in (INT, pa.uint64())],
    "RUN_END_ENCODED": [(pa.run_end_encoded(pa.int32(), pa.int64()), None)],
    "extensions": [
        (pa.uuid(), lambda n: n.to_bytes(16, "big")),
        (pa.json_(), str),
        (pa.bool8(), lambda n: n % 2),
        (pa.fixed_shape_tensor(pa.float32(), [2]), lambda n: [n, 1]),
        (pa.opaque(pa.binary(), "a", "b"), lambda n: b"x"),
        (Tagged(), lambda n: n),
    ],
    "nested": [
        (pa.list_(pa.list_(INT)), lambda n: [[n]]),
        (pa.list_(pa.bool_()), lambda n: [True]),
        (pa.list_(pa.dictionary(pa.int8(), pa.float32())), None),
        (pa.list_(pa.decimal128(5, 0)), lambda n: [decimal.Decimal(n)]),
        (pa.struct([("d", pa.dictionary(pa.int8(), TEXT))]), None),
    ],
}  # fmt: skip
CASES = [(type_, make) for examples in EXAMPLES.values() for type_, make in examples]


def test_every_type_of_this_pyarrow_has_an_example():
    constants = {name.removeprefix("Type_") for name in dir(pa.lib) if name.startswith("Type_")}
    assert constants - set(EXAMPLES) == set()


def column(type_: pa.DataType, make, rows: range) -> pa.Array | None:
    """Return values of a type, one per row; None where pyarrow can't make some."""
    if make is None:
        return pa.nulls(len(rows), type_) if pa.types.is_null(type_) else None
    if isinstance(type_, pa.BaseExtensionType):
        storage = column(type_.storage_type, make, rows)
        return pa.ExtensionArray.from_storage(type_, storage)
    return pa.array([make(n) for n in rows], type_)


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize(("type_", "make"), CASES, ids=[str(type_)[:40] for type_, _ in CASES])
def test_every_type_comes_in_and_is_encoded_or_is_refused_with_a_remedy(tmp_path, type_, make, role):
    name = {"id": "id", "group": "person", "label": "label", "feature": "x0"}[role]
    rows = range(40) if role != "label" else range(2)
    values = column(type_, make, rows)
    read = type_ if values is None else as_read(values)
    if values is None or read is None:  # Parquet has no such column, so none comes in
        assert kind_of(type_) is None
        with pytest.raises(DataError, match="remedy"):
            check_role(name, role, type_)
        return
    kind = kind_of(read)
    made = table(40, groups=5)
    values = pa.concat_arrays([values] * 20) if role == "label" else values
    made = made.set_column(made.column_names.index(name), name, values)
    pq.write_table(made, tmp_path / "train.parquet")
    data = {"group": "person"}
    if kind is None or role not in SUPPORTED[kind].roles:
        with pytest.raises(DataError, match=f"'{name}'.*can't be a[\\s\\S]*remedy"):
            open_lake(tmp_path, data=data)
        return
    lake = open_lake(tmp_path, data=data)
    loaded = [lake.rows("train", shard, set()) for shard in range(4)]
    assert sum(len(rows.y) for rows in loaded) == 40
    assert all(bool(rows.x.isfinite().all()) for rows in loaded)
    found = {row["id"]: row[name] for row in lake_rows(lake)}
    ids = made["id"].to_pylist()
    if kind != "list":
        assert [found[id_] for id_ in ids] == made[name].to_pylist()
    if role in {"id", "group"} and kind != "null":
        keys = sorted(set(made[name].to_pylist()))
        assert len({key.key for key in Lookup(lake).find([(role, key) for key in keys])[0]}) == len(keys)


def as_read(values: pa.Array) -> pa.DataType | None:
    """Return the type of a column when it was written to Parquet, None where it can't be."""
    sink = pa.BufferOutputStream()
    try:
        pq.write_table(pa.table({"c": values}), sink)
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid, pa.ArrowTypeError):
        return None
    return pq.read_schema(pa.BufferReader(sink.getvalue())).field("c").type


@pytest.mark.parametrize(("type_", "make"), CASES, ids=[str(type_)[:40] for type_, _ in CASES])
def test_what_the_lake_keeps_is_plain(type_, make):
    if kind_of(type_) is None:
        return
    plain = kept(type_)
    assert kept(plain) == plain
    assert not pa.types.is_dictionary(plain)
    values = column(type_, make, range(5))
    target = pa.list_(plain.value_type, 2) if pa.types.is_list(plain) else plain
    assert exact("c", values, target, "a file").to_pylist() == values.to_pylist()


def test_the_documentation_says_what_is_supported():
    text = OWN_DATA.read_text()
    head = "| Arrow type | " + " | ".join(ROLES) + " | kept as |"
    lines = [
        f"| {found.types} | {' | '.join(found.roles.get(role, '–') for role in ROLES)} | {found.kept} |"
        for found in SUPPORTED.values()
    ]
    for line in (head, *lines):
        assert line in text, f"docs/own-data.md lacks the line {line}"


# ---------------------------------------------------------------------- lists of one length


@pytest.mark.parametrize(
    "make", [pa.list_, pa.large_list, lambda value: pa.list_(value, 3)], ids=["list", "large", "fixed"]
)
@pytest.mark.parametrize("value", [pa.int16(), pa.float64()], ids=str)
@pytest.mark.sampled
def test_lists_of_one_length_train_serve_and_grow_as_fixed_ones(tmp_path, make, value):
    def lists(rows: range) -> pa.Table:
        made = table(len(rows), start=rows.start)
        return made.append_column("v", pa.array([None if n % 9 == 0 else [n, 1, 2] for n in rows], make(value)))

    pq.write_table(lists(range(40)), tmp_path / "train.parquet")
    pq.write_table(lists(range(40, 60)), tmp_path / "new.parquet")
    with local_system(tmp_path, data={"fills": {"v": 7}}) as system:
        system.train()
        (v,) = [found for found in system.site.lake.manifest.encoder.columns if found.kind == "list"]
        assert v.width == 4
        system.ingest(tmp_path / "new.parquet", wait=True)
        row = {f"x{n}": 0.5 for n in range(4)}
        assert system.predict([{**row, "v": [1, 2, 3]}, {**row, "v": None}])["version"] == 2
        for wrong in ([1, 2], [1, 2, 3, 4], [1, None, 2], 5, "abc"):
            with pytest.raises(DataError, match="'v'"):
                system.predict([{**row, "v": wrong}])
        other = pa.array([[1]] * 5, pa.list_(value))
        pq.write_table(replaced(lists(range(70, 75)), "v", other), tmp_path / "bad.parquet")
        with pytest.raises(
            DataError, match=r"column 'v' of .*bad.parquet has 5 row\(s\) whose list has another length"
        ):
            system.ingest(tmp_path / "bad.parquet")


def test_a_served_row_has_whole_numbers_where_every_generation_had(tmp_path):
    def rows(start: int, numbers: pa.DataType) -> pa.Table:
        made = table(40, start=start).append_column("n", pa.array([n % 5 for n in range(40)], numbers))
        return made.append_column("v", pa.array([[n, 1] for n in range(40)], pa.list_(pa.int8())))

    pq.write_table(rows(0, pa.int16()), tmp_path / "train.parquet")
    pq.write_table(rows(40, pa.float32()), tmp_path / "new.parquet")
    whole = {**{f"x{n}": 0.5 for n in range(4)}, "n": 2.0, "v": [1, 2.0]}
    with local_system(tmp_path) as system:
        system.train()
        assert system.predict([whole])["version"] == 1
        for column, part in {"n": 0.3, "v": [1, 0.3]}.items():
            with pytest.raises(DataError, match=f"'{column}' has a number that is not whole"):
                system.predict([{**whole, column: part}])
        system.ingest(tmp_path / "new.parquet", wait=True)
        assert system.predict([{**whole, "n": 0.3}])["version"] == 2
        with pytest.raises(DataError, match="'v' has a number that is not whole"):
            system.predict([{**whole, "v": [1, 0.3]}])
    for table_of_a_shard in (tmp_path / "storage/lake/g0001/train").iterdir():
        table_of_a_shard.write_bytes(b"")
    with local_system(tmp_path) as system:
        assert system.predict([{**whole, "v": [1, 0.3]}])["version"] == 2, "weights answer without the tables"


@pytest.mark.parametrize(
    ("lists", "declared", "says"),
    [
        ([[1, 2]] * 39 + [[1]], {}, "column 'v' of {train} has 1 row(s) whose list has another length"),
        ([[1, 2]] * 40, {"v": 3}, "has 40 row(s) whose list has another length"),
        ([None] * 40, {}, "declare data.lists: {v: LENGTH}"),
        ([[]] * 40, {}, "declare data.lists: {v: LENGTH}"),
        ([[1, 2]] * 40, {"x0": 3}, "data.lists does not fit column 'x0'"),
        ([[1, 2]] * 40, {"y": 3}, "data.lists names columns that are not features"),
        ([[1, None]] * 3 + [[1, 2]] * 37, {}, "has 3 row(s) with nulls inside its lists"),
    ],
)
def test_lists_that_are_not_of_one_length(tmp_path, lists, declared, says):
    path = tmp_path / "train.parquet"
    pq.write_table(table(40).append_column("v", pa.array(lists, pa.list_(pa.int8()))), path)
    with pytest.raises(DataError) as error:
        open_lake(tmp_path, data={"lists": declared, "fills": {"v": 0}})
    assert says.replace("{train}", str(path)) in str(error.value)


def test_a_declared_length_stands_in_where_the_first_rows_are_null(tmp_path):
    pq.write_table(table(40).append_column("v", pa.nulls(40, pa.list_(pa.int8()))), tmp_path / "train.parquet")
    lake = open_lake(tmp_path, data={"lists": {"v": 2}, "fills": {"v": 0}})
    assert lake.manifest.encoder.columns[-1].width == 3


def test_text_that_is_not_utf_8_is_an_error(tmp_path):
    raw = pa.array([b"\xff\xfe"] * 40, pa.binary())
    text = pa.Array.from_buffers(pa.string(), 40, raw.buffers())
    pq.write_table(table(40).append_column("s", text), tmp_path / "train.parquet")
    with pytest.raises(DataError, match=r"'s' of .*train.parquet holds text that is not UTF-8"):
        open_lake(tmp_path)
