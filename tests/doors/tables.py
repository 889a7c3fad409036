"""Tables as people have them, and as nobody should: every Arrow type in every role, in one file or in several."""

from __future__ import annotations

import datetime
import decimal
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
from hypothesis import strategies as st

Values = st.SearchStrategy[Any]


@dataclass(frozen=True, eq=False)
class Kind:
    """One way to store a column.

    Attributes:
        values: What a cell holds.
        build: Makes the column of Python values; None is null.
    """

    values: Values
    build: Callable[[list[Any]], pa.Array]


def _of(type_: pa.DataType) -> Callable[[list[Any]], pa.Array]:
    return lambda values: pa.array(values, type=type_)


def _extension(type_: pa.BaseExtensionType) -> Callable[[list[Any]], pa.Array]:
    return lambda values: pa.ExtensionArray.from_storage(type_, pa.array(values, type=type_.storage_type))


def _whole(bits: int, signed: bool = True) -> Values:
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    return st.integers(0, 3) | st.integers(low, high) | st.sampled_from([low, high])


_strange_text = ["", "a", "b", "a ", " a", "A", "é", "e\u0301", "a\u2028b", "a\nb", "\x00", "[/b]", "7", "x" * 1100]
_text = st.sampled_from(_strange_text) | st.text(max_size=4)
_strange_real = [0.0, -0.0, 1e300, 2.0**53 + 2, float("nan"), float("inf")]
_real = st.floats(-3, 3) | st.floats(width=64) | st.sampled_from(_strange_real)
_single = st.floats(-3, 3, width=32) | st.floats(width=32)
_half = st.floats(-3, 3, width=16)
_money = st.decimals(-99, 99, places=2)
_day = st.dates(datetime.date(1971, 1, 1), datetime.date(2100, 1, 1))
_moment = st.datetimes(datetime.datetime(1971, 1, 1), datetime.datetime(2100, 1, 1))

KINDS: dict[str, Kind] = {
    **{f"int{bits}": Kind(_whole(bits), _of(getattr(pa, f"int{bits}")())) for bits in (8, 16, 32, 64)},
    **{f"uint{bits}": Kind(_whole(bits, False), _of(getattr(pa, f"uint{bits}")())) for bits in (8, 16, 32, 64)},
    "half": Kind(_half, _of(pa.float16())),
    "float": Kind(_single, _of(pa.float32())),
    "double": Kind(_real, _of(pa.float64())),
    "bool": Kind(st.booleans(), _of(pa.bool_())),
    "string": Kind(_text, _of(pa.string())),
    "large_string": Kind(_text, _of(pa.large_string())),
    "string_view": Kind(_text, _of(pa.string_view())),
    "binary": Kind(st.binary(max_size=4), _of(pa.binary())),
    "large_binary": Kind(st.binary(max_size=4), _of(pa.large_binary())),
    "binary_view": Kind(st.binary(max_size=4), _of(pa.binary_view())),
    "fixed_binary": Kind(st.binary(min_size=4, max_size=4), _of(pa.binary(4))),
    "decimal": Kind(_money, _of(pa.decimal128(10, 2))),
    "wide_decimal": Kind(_money, _of(pa.decimal256(50, 2))),
    "date": Kind(_day, _of(pa.date32())),
    "time": Kind(st.times(), _of(pa.time64("us"))),
    "timestamp": Kind(_moment, _of(pa.timestamp("us"))),
    "zoned": Kind(_moment.map(lambda moment: moment.replace(tzinfo=datetime.UTC)), _of(pa.timestamp("us", "UTC"))),
    "duration": Kind(st.timedeltas(datetime.timedelta(0), datetime.timedelta(9)), _of(pa.duration("us"))),
    "null": Kind(st.none(), _of(pa.null())),
    "fixed_list": Kind(st.lists(_single, min_size=2, max_size=2), _of(pa.list_(pa.float32(), 2))),
    "list": Kind(st.lists(_real, min_size=2, max_size=2), _of(pa.list_(pa.float64()))),
    "ragged_list": Kind(st.lists(_real, max_size=3), _of(pa.list_(pa.float64()))),
    "large_list": Kind(st.lists(_single, min_size=3, max_size=3), _of(pa.large_list(pa.float32()))),
    "text_list": Kind(st.lists(_text, min_size=2, max_size=2), _of(pa.list_(pa.string()))),
    "struct": Kind(st.fixed_dictionaries({"a": _real}), _of(pa.struct({"a": pa.float64()}))),
    "map": Kind(st.lists(st.tuples(st.just("k"), _real), max_size=1), _of(pa.map_(pa.string(), pa.float64()))),
    "category": Kind(_text, lambda values: pa.array(values, pa.string()).dictionary_encode()),
    "number_category": Kind(_whole(8), lambda values: pa.array(values, pa.int64()).dictionary_encode()),
    "runs": Kind(_text, lambda values: pc.run_end_encode(pa.array(values, pa.string()))),
    "uuid": Kind(st.uuids().map(lambda made: made.bytes), _extension(pa.uuid())),
    "bool8": Kind(st.integers(0, 1), _extension(pa.bool8())),
    "json": Kind(st.just("{}"), _extension(pa.json_())),
    "tensor": Kind(st.lists(_single, min_size=4, max_size=4), _extension(pa.fixed_shape_tensor(pa.float32(), (2, 2)))),
}
_PLAIN = ("int64", "int32", "double", "float", "bool", "string")
# A column's name, its own role apart; most are harmless, or nothing would ever come in.
_strange_names = ["_id", "_group", "_slice", "_content", "source", "shard", "", "a.b", "A", "é", "x" * 300, "[/b]"]
_names = st.sampled_from([*"abcde", "label", "id", "a b", "__index_level_0__", *_strange_names])
_FILES = (
    *("part-0.parquet", "part-1.parquet", "part-2", "_part.parquet", ".part.parquet", "deep/part.parquet", "p.parq"),
    *("k=1/part.parquet", "K.PARQUET"),
)
_STRANGERS = (
    *("_SUCCESS", "readme.txt", "broken.parquet", "_delta_log/0.json", "metadata/v1.metadata.json", ".hoodie/x"),
    "empty/",
)
_UNWRITABLE = (pa.ArrowException, TypeError, ValueError, OverflowError, decimal.DecimalException, NotImplementedError)
_WRONG = ("id", "group", "label", "features", "names", "files", "strangers", "declared", "values")


def _arrow(table: pa.Table, path: Path) -> None:
    with pa.ipc.new_file(path, table.schema) as writer:
        writer.write_table(table, max_chunksize=5)


def _stream(table: pa.Table, path: Path) -> None:
    with pa.ipc.new_stream(path, table.schema) as writer:
        writer.write_table(table, max_chunksize=5)


WRITERS: dict[str, Callable[[pa.Table, Path], None]] = {
    "parquet": pq.write_table,
    "arrow": _arrow,
    "stream": _stream,
    "csv": pacsv.write_csv,
}


@dataclass(frozen=True, eq=False)
class Part:
    """One file: rows from `start` to `stop`, some columns stored in another way."""

    name: str
    start: int
    stop: int
    recast: dict[str, str]


@dataclass(frozen=True, eq=False)
class Case:
    """A table, where its files lie, and what the configuration says of it.

    Attributes:
        columns: Name → (kind, values).
        parts: Its files; a single one without a folder when there is one named `.`.
        strangers: What else lies in the folder.
        data: The `data` section of the configuration.
        pandas: Whether the files carry pandas' metadata that names the column `__index_level_0__` as an index.
        format: What its files are written in; a CSV file is named so.
    """

    columns: dict[str, tuple[str, list[Any]]]
    parts: tuple[Part, ...]
    strangers: tuple[str, ...]
    data: dict[str, Any]
    pandas: bool
    rows: int
    format: str

    def held(self, name: str) -> list[Any]:
        """Return the values of a column as its files hold them: half a float has fewer digits."""
        return [value for part in self.parts for value in self._array(name, part).to_pylist()]

    def _array(self, name: str, part: Part) -> pa.Array:
        kind, values = self.columns[name]
        return KINDS[part.recast.get(name, kind)].build(values[part.start : part.stop])

    def write(self, folder: Path) -> str | None:
        """Write the files below a folder and return what `data.train` names; None when Parquet can't hold them."""
        for part in self.parts:
            path = folder / "table" / self.named(part)
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                arrays = {name: self._array(name, part) for name in self.columns}
                table = pa.table(arrays)
                if self.pandas:
                    table = table.replace_schema_metadata({b"pandas": _index_metadata(self.columns)})
                WRITERS[self.format](table, path)
            except _UNWRITABLE:
                return None
        for name in self.strangers:
            path = folder / "table" / name
            if name.endswith("/"):
                path.mkdir(parents=True, exist_ok=True)
            else:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(b"PAR1 no")
        alone = len(self.parts) == 1 and not self.strangers and self.parts[0].name == "part-0.parquet"
        return str(folder / "table" / self.named(self.parts[0]) if alone else folder / "table")

    def named(self, part: Part) -> str:
        """Return the name of a file."""
        return f"{part.name}.csv" if self.format == "csv" else part.name


def _index_metadata(columns: dict[str, Any]) -> bytes:
    index = [name for name in columns if name == "__index_level_0__"]
    rest = {"pandas_type": "", "numpy_type": "", "metadata": None}
    described = [{"name": None if name in index else name, "field_name": name, **rest} for name in columns]
    found = {"index_columns": index, "column_indexes": [], "columns": described, "pandas_version": "2"}
    return json.dumps(found).encode()


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Draw a table that is mostly sound, with a few things wrong."""
    odd = draw(st.sets(st.sampled_from(_WRONG), max_size=2))
    few_rows = "values" in odd and draw(st.booleans())
    rows = draw(st.integers(0, 2) if few_rows else st.integers(8, 14))
    columns: dict[str, tuple[str, list[Any]]] = {}

    def column(name: str, kind: str, values: Values | None = None) -> None:
        drawn = KINDS[kind].values if values is None else values
        columns[name] = (kind, draw(st.lists(drawn, min_size=rows, max_size=rows)))

    anything = st.sampled_from(sorted(KINDS))
    if "id" in odd:
        kind = draw(anything.filter(lambda name: name != "null"))
        unique = st.lists(KINDS[kind].values, min_size=rows, max_size=rows, unique_by=repr)
        columns["id"] = (kind, draw(unique if kind not in {"bool8", "json", "bool"} else st.just([0] * rows)))
    else:
        kind = draw(st.sampled_from(["int64", "string", "int32"]))
        columns["id"] = (kind, [f"u{n}" if kind == "string" else n for n in range(rows)])
    if "group" in odd or draw(st.booleans()):
        column("who", draw(anything if "group" in odd else st.sampled_from(["int64", "string"])))
    kind = draw(anything if "label" in odd else st.sampled_from(["int64", "string", "bool"]))
    few = {"int64": st.integers(0, 2), "string": st.sampled_from(["x", "y"])}
    column("label", kind, few.get(kind))
    for _ in range(draw(st.integers(0 if "features" in odd else 1, 4))):
        name = draw(_names if "names" in odd else st.sampled_from("abcdef"))
        if name not in columns:
            kind = draw(anything if "features" in odd else st.sampled_from(_PLAIN))
            tame = {
                "double": st.floats(-3, 3),
                "float": st.floats(-3, 3, width=32),
                "string": st.sampled_from(["p", "q", "r"]),
            }
            column(name, kind, None if "values" in odd else tame.get(kind))
            if draw(st.integers(0, 5)) == 0 and rows:
                columns[name][1][draw(st.integers(0, rows - 1))] = None
    indexed = "__index_level_0__" in columns and draw(st.booleans())
    parts, strangers = _parts(draw, columns, rows, "files" in odd), _strangers(draw, "strangers" in odd)
    format_ = draw(st.sampled_from(["parquet", "parquet", *WRITERS]))
    return Case(columns, parts, strangers, _declared(draw, columns, "declared" in odd), indexed, rows, format_)


def _parts(draw: st.DrawFn, columns: dict[str, tuple[str, list[Any]]], rows: int, odd: bool) -> tuple[Part, ...]:
    if not odd:
        return (Part("part-0.parquet", 0, rows, {}),)
    names = draw(st.lists(st.sampled_from(_FILES), min_size=1, max_size=3, unique=True))
    cuts = [0, *sorted(draw(st.lists(st.integers(0, rows), min_size=len(names) - 1, max_size=len(names) - 1))), rows]
    recast = st.dictionaries(st.sampled_from(sorted(columns)), st.sampled_from(sorted(KINDS)), max_size=1)
    return tuple(Part(name, cuts[n], cuts[n + 1], draw(recast)) for n, name in enumerate(names))


def _strangers(draw: st.DrawFn, odd: bool) -> tuple[str, ...]:
    return tuple(draw(st.lists(st.sampled_from(_STRANGERS), max_size=2, unique=True))) if odd else ()


def _declared(draw: st.DrawFn, columns: dict[str, tuple[str, list[Any]]], odd: bool) -> dict[str, Any]:
    data: dict[str, Any] = {"group": "who"} if "who" in columns else {}
    nullable = {name for name, (_, values) in columns.items() if None in values} - {"id", "who", "label"}
    filling = {"string": "none", "bool": False}
    data["fills"] = {name: filling.get(columns[name][0], 0.5) for name in nullable}
    if not odd:
        return data
    name = st.sampled_from([*columns, "nothing"])
    for key, value in {
        "fills": st.sampled_from([0, 1.5, "", "p", True, float("nan")]),
        "categories": st.lists(st.sampled_from(["p", "q", "r", "x", ""]), max_size=4).map(tuple),
        "hash_buckets": st.integers(-1, 4),
        "scale": st.sampled_from([0.0, 1.0, 0.5, -1.0, 1e-300, 1e300, float("nan"), float("inf")]),
    }.items():
        if draw(st.integers(0, 2)) == 0:
            data[key] = {**data.get(key, {}), **draw(st.dictionaries(name, value, max_size=2))}
    if draw(st.integers(0, 2)) == 0:
        data["features"] = tuple(draw(st.lists(name, max_size=3)))
    if draw(st.integers(0, 2)) == 0:
        data["classes"] = tuple(draw(st.lists(st.sampled_from([0, 1, 2, "x", "y", True, 1.5, None]), max_size=3)))
    for role in ("id", "group", "label"):
        if draw(st.integers(0, 5)) == 0:
            data[role] = draw(name)
    return data
