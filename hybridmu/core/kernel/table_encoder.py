"""Columns to tensors, without looking at the data: declared categories, hashed buckets, declared fills.

The only encoder that looks at rows is `Standardize`, which is fitted on the live rows of a shard's slice 1
and lives inside the sub-model (`core/kernel/model.py`), so it is part of checkpoint 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from hybridmu.core.kernel.column_types import check_role, kept, kind_of
from hybridmu.core.kernel.column_writers import Slot, bucket, write
from hybridmu.errors import DataError

Scalar = bool | int | float | str
F32 = npt.NDArray[np.float32]
_LARGEST = float(np.finfo(np.float32).max)
_LARGEST_CLASS = pa.scalar(2**63 - 1, pa.uint64())
# Kinds of values that a column is encoded from; anything else would be a cast that changes what a value means.
_TAKES: Mapping[str, frozenset[str]] = {
    "number": frozenset({"integer", "float"}),
    "bool": frozenset({"bool"}),
    "list": frozenset({"list"}),
    "category": frozenset({"text"}),
    "hash": frozenset({"text"}),
}
_SAYS = {"number": "numbers", "bool": "true or false", "list": "lists of numbers", "category": "text", "hash": "text"}


@dataclass(frozen=True)
class Column:
    """How one column becomes numbers.

    Attributes:
        name: Column name.
        kind: `number`, `bool`, `list`, `category` or `hash`.
        width: Tensor columns it fills, the null indicator included.
        categories: Declared values of a `category`.
        fill: Stand-in for null; None refuses nulls.
        scale: Factor of a `number` or `list`.
    """

    name: str
    kind: str
    width: int
    categories: tuple[str, ...] = ()
    fill: Scalar | None = None
    scale: float = 1.0


@dataclass(frozen=True)
class Encoder:
    """A data-independent map from a table to float32 [n, features] and class numbers int64 [n].

    Attributes:
        columns: Feature columns in table order.
        label: Label column.
        classes: Class list; a row's class number is its position here.
    """

    columns: tuple[Column, ...]
    label: str
    classes: tuple[int | str, ...]

    @property
    def features(self) -> int:
        """Return the width of the encoded matrix."""
        return sum(column.width for column in self.columns)

    def encode(self, table: pa.Table, out: F32 | None = None) -> F32:
        """Encode the feature columns.

        Args:
            table: Any rows with the feature columns.
            out: Where to write them, float32 [n, features]; made when it is not given.

        Returns:
            float32 [n, features], C order; depends on each row alone.

        Raises:
            DataError: Missing column, wrong type, NaN or infinity, null without a fill, undeclared category.
        """
        return Encoding(self).encode(table, out)

    def encode_labels(self, table: pa.Table) -> npt.NDArray[np.int64]:
        """Return class numbers, int64 [n].

        Raises:
            DataError: The column is missing, of another type, or a label is null or not in the class list.
        """
        if self.label not in table.column_names:
            raise DataError(f"label column {self.label!r} is missing", got=", ".join(table.column_names))
        values = _plain(table.column(self.label))
        try:
            numbers = pc.index_in(_label_values(self.label, values), value_set=_class_array(self.classes))
        except (pa.ArrowInvalid, pa.ArrowTypeError):
            raise DataError(
                f"label column {self.label!r} and the classes have different types",
                expected=f"one of {list(self.classes)[:20]}",
                got=str(values.type),
                remedy="cast the column, or correct data.classes",
            ) from None
        if numbers.null_count:
            raise DataError(
                f"{numbers.null_count} label(s) in column {self.label!r} are outside the classes",
                expected=f"one of {list(self.classes)[:20]}",
                got=_some(values.filter(numbers.is_null())),
                remedy="correct the labels, or declare data.classes before the first training",
            )
        return np.asarray(numbers.to_numpy(zero_copy_only=False), dtype=np.int64)

    def to_json(self) -> dict[str, Any]:
        """Return plain data that `from_json` reads."""
        return asdict(self)

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> Encoder:
        """Return the encoder that `to_json` wrote."""
        columns = tuple(Column(**{**c, "categories": tuple(c["categories"])}) for c in raw["columns"])
        return cls(columns, raw["label"], tuple(raw["classes"]))


class Encoding:
    """One pass over tables with the same columns; texts that were hashed once are known until it ends.

    Args:
        encoder: What to encode.
    """

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self._slots: list[Slot] = []
        self._hashes: dict[str, int] = {}
        at = 0
        for column in encoder.columns:
            width = column.width - (column.fill is not None)
            places = category_numbers(column) if column.kind == "category" else {}
            self._slots.append(Slot(column.kind, at, width, column.scale, column.fill, places))
            at += column.width

    def encode(self, table: pa.Table, out: F32 | None = None) -> F32:
        """Encode the feature columns of a table, as `Encoder.encode` says.

        Args:
            table: Any rows with the feature columns.
            out: Where to write them, float32 [n, features]; made when it is not given.

        Returns:
            float32 [n, features].

        Raises:
            DataError: As `Encoder.encode`.
        """
        columns = self._encoder.columns
        out = np.empty((table.num_rows, self._encoder.features), dtype=np.float32) if out is None else out
        place = {name: index for index, name in enumerate(table.column_names)}
        if missing := [column.name for column in columns if column.name not in place]:
            raise DataError(f"column {missing[0]!r} is missing", expected=", ".join(column.name for column in columns))
        chosen = table.select([place[column.name] for column in columns])
        for number in write(chosen, self._slots, out, self._hashes):
            column, at = columns[number], self._slots[number].at
            _encode_column(column, _plain(table.column(place[column.name])), out[:, at : at + column.width])
        return out


def make_columns(
    schema: pa.Schema,
    features: Sequence[str],
    *,
    fills: Mapping[str, Scalar],
    categories: Mapping[str, Sequence[str]],
    hash_buckets: Mapping[str, int],
    scale: Mapping[str, float],
) -> tuple[Column, ...]:
    """Decide how each feature column is encoded, from its Arrow type and the declarations.

    Args:
        schema: Schema of the training table.
        features: Columns to encode, in order.
        fills: Column → stand-in for null.
        categories: String column → values.
        hash_buckets: String column → buckets; 64 by default.
        scale: Numeric column → factor.

    Returns:
        One `Column` per feature.

    Raises:
        DataError: A column is missing, declared but absent, of a type that can't be encoded, or its fill is.
    """
    declared = {*fills, *categories, *hash_buckets, *scale}
    if unknown := sorted(declared - set(features)):
        raise DataError(f"data declares columns that are not features: {unknown}", expected=f"some of {list(features)}")
    known, columns = frozenset(schema.names), []
    for name in features:
        if name not in known:
            raise DataError(f"feature column {name!r} is missing", got=", ".join(schema.names))
        kind, width = _kind(name, schema.field(name).type, categories.get(name), hash_buckets.get(name, 64))
        fill = fills.get(name)
        _check_fill(name, kind, fill, categories.get(name, ()), scale.get(name, 1.0))
        columns.append(
            Column(name, kind, width + (fill is not None), tuple(categories.get(name, ())), fill, scale.get(name, 1.0))
        )
    return tuple(columns)


def infer_classes(labels: Sequence[int | str]) -> tuple[int | str, ...]:
    """Return the sorted distinct labels."""
    return tuple(sorted(set(labels), key=lambda value: (str(type(value)), value)))


def label_set(column: pa.ChunkedArray, name: str = "label") -> set[int | str]:
    """Return the distinct labels of a column as integers or strings.

    Args:
        column: The labels.
        name: Of the column, for messages.

    Raises:
        DataError: The column is of another type, has nulls, or integers of more than 63 bits.
    """
    values = pc.unique(_label_values(name, _plain(column)))
    if values.null_count:
        raise DataError(
            f"the label column {name!r} has nulls", expected="a class in every row", remedy="leave these rows out"
        )
    return set(values.to_pylist())


def _label_values(name: str, values: pa.Array) -> pa.Array:
    kind = check_role(name, "label", values.type)
    if kind == "text":
        return values.cast(pa.string())
    if values.type == pa.uint64() and pc.any(pc.greater(values, _LARGEST_CLASS)).as_py():
        raise DataError(
            f"a label in column {name!r} needs more than 63 bits",
            expected=f"integers up to {_LARGEST_CLASS.as_py()}, or strings",
            got=_some(values.filter(pc.greater(values, _LARGEST_CLASS))),
            remedy="cast the column to string",
        )
    return values.cast(pa.int64())


def _some(values: pa.Array) -> str:
    """Return a few distinct labels for a message: classes are no one's own."""
    found = values.unique().to_pylist()
    return ", ".join(repr(value)[:60] for value in found[:5]) + (f" and {len(found) - 5} more" if found[5:] else "")


def _class_array(classes: Sequence[int | str]) -> pa.Array:
    return pa.array(list(classes), type=pa.string() if isinstance(classes[0], str) else pa.int64())


def _plain(column: pa.ChunkedArray) -> pa.Array:
    # An extension type's reader may run foreign code.
    if isinstance(column.type, pa.BaseExtensionType):
        raise DataError("a column has an Arrow extension type", expected="a plain type", got=str(column.type))
    array = column.combine_chunks()
    if isinstance(array, pa.ChunkedArray):
        array = pa.concat_arrays(array.chunks) if array.num_chunks else pa.array([], type=column.type)
    return array.dictionary_decode() if pa.types.is_dictionary(array.type) else array


def _kind(name: str, type_: pa.DataType, categories: Sequence[str] | None, buckets: int) -> tuple[str, int]:
    kind = check_role(name, "feature", type_)
    if kind == "text":
        return ("category", len(categories)) if categories else ("hash", buckets)
    if kind != "list":
        return "bool" if kind == "bool" else "number", 1
    length = kept(type_).list_size if pa.types.is_fixed_size_list(kept(type_)) else 0
    if length < 1:
        raise DataError(
            f"column {name!r} can't be a feature: no list in it says how long they are",
            expected="lists of one length, at least 1",
            got=str(type_),
            remedy=f"declare data.lists: {{{name}: LENGTH}}, or leave the column out of data.features",
        )
    return "list", int(length)


def _check_fill(name: str, kind: str, fill: Scalar | None, categories: Sequence[str], scale: float) -> None:
    number = isinstance(fill, (int, float)) and not isinstance(fill, bool) and abs(fill * scale) <= _LARGEST
    fits = {
        "number": number,
        "list": number,
        "bool": isinstance(fill, bool),
        "category": fill in categories,
        "hash": isinstance(fill, str),
    }
    if fill is not None and not fits[kind]:
        expected = {"bool": "true or false", "category": f"one of {list(categories)[:20]}", "hash": "a string"}
        raise DataError(
            f"data.fills does not fit column {name!r}",
            expected=expected.get(kind, "a finite number that float32 holds"),
            got=repr(fill),
        )


def _encode_column(column: Column, values: pa.Array, out: F32) -> None:
    nulls = values.null_count
    if nulls and column.fill is None:
        raise DataError(
            f"column {column.name!r} has {nulls} null(s) and no fill",
            expected=f"data.fills: {{{column.name}: VALUE}} (an indicator is added; a text for text), or no nulls",
        )
    if column.fill is not None:
        out[:, -1] = np.asarray(values.is_null().to_numpy(zero_copy_only=False), dtype=np.float32)
        out = out[:, :-1]
    kind = kind_of(values.type)
    if kind not in _TAKES[column.kind] and (kind != "null" or len(values) != nulls):
        raise DataError(
            f"column {column.name!r} has the wrong type",
            expected=_SAYS[column.kind],
            got=str(values.type),
            remedy="give values of the type that the column was trained with",
        )
    try:
        if column.kind == "list":
            _encode_list(column, values, out)
        elif column.kind in {"category", "hash"}:
            _encode_string(column, values, out)
        else:
            filled = values.cast(pa.float64(), safe=False) if column.kind == "number" else values.cast(pa.bool_())
            if nulls:
                filled = filled.fill_null(pa.scalar(column.fill, type=filled.type))
            with np.errstate(over="ignore"):  # found below
                out[:, 0] = filled.cast(pa.float64()).to_numpy(zero_copy_only=False) * column.scale
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError, UnicodeDecodeError) as error:
        raise DataError(
            f"column {column.name!r} has the wrong type", expected=column.kind, got=f"{values.type} ({error})"
        ) from None
    if column.kind in {"number", "list"} and (bad := _not_finite(out)):
        raise _unfit(column, values, bad)


def _unfit(column: Column, values: pa.Array, bad: int) -> DataError:
    """Return the error for rows whose numbers are not finite, or only as float32 are not."""
    numbers = (values.flatten() if column.kind == "list" else values).cast(pa.float64(), safe=False)
    if bool(np.isfinite(numbers.drop_null().to_numpy(zero_copy_only=False)).all()):
        return DataError(
            f"column {column.name!r} has {bad} row(s) with numbers too large for float32",
            expected=f"magnitudes up to 3.4e38 after data.scale, which is {column.scale:g} here",
            remedy=f"declare data.scale: {{{column.name}: FACTOR}} with a small factor, or clean the table",
        )
    return DataError(
        f"column {column.name!r} has {bad} row(s) with NaN or infinity, or with numbers too large for float32",
        expected="finite numbers of magnitudes up to 3.4e38",
        remedy="clean the table, or store null and declare data.fills; data.scale makes large numbers smaller",
    )


def _not_finite(values: F32) -> int:
    """Return how many rows hold NaN or infinity; a finite sum says that there is none."""
    with np.errstate(over="ignore", invalid="ignore"):
        if np.isfinite(values.sum()):
            return 0
    return int((~np.isfinite(values)).any(axis=1).sum())


def _encode_list(column: Column, values: pa.Array, out: F32) -> None:
    width = out.shape[1]
    if not pa.types.is_fixed_size_list(values.type):
        values = values.cast(pa.list_(pa.float32(), width))
    flat = values.flatten()  # without the lists that are null
    if len(flat) != (len(values) - values.null_count) * width:
        raise DataError(f"column {column.name!r} has lists of another length", expected=f"{width} numbers per row")
    if flat.null_count:
        within = np.asarray(flat.is_null().to_numpy(zero_copy_only=False)).reshape(-1, width)
        raise DataError(
            f"column {column.name!r} has {int(within.any(axis=1).sum())} row(s) with nulls inside its lists",
            expected=f"{width} numbers per row",
            remedy="fill them in the table, or make the whole list null and declare data.fills",
        )
    numbers = flat.to_numpy(zero_copy_only=False).reshape(-1, width)
    with np.errstate(over="ignore"):  # found by the caller
        if values.null_count:
            missing = np.asarray(values.is_null().to_numpy(zero_copy_only=False))
            out[missing], out[~missing] = column.fill, numbers
        else:
            out[:] = numbers
        # In float32 whatever the source type, so that served rows get the bits that training saw.
        np.multiply(out, np.float32(column.scale), out=out)


def category_numbers(column: Column) -> dict[str, int]:
    """Return declared value → its place."""
    return {text: number for number, text in enumerate(column.categories)}


def _encode_string(column: Column, values: pa.Array, out: F32) -> None:
    values = values.cast(pa.string())
    if values.null_count:
        values = values.fill_null(str(column.fill))
    distinct = values.dictionary_encode()
    if column.kind == "hash":
        width = out.shape[1]
        numbers = [bucket(text, width) for text in distinct.dictionary.to_pylist()]
    else:
        known = category_numbers(column)
        numbers = [known.get(text, -1) for text in distinct.dictionary.to_pylist()]
        if missing := numbers.count(-1):
            raise DataError(
                f"column {column.name!r} has {missing} value(s) outside its declared categories",
                expected=f"one of {list(column.categories)[:20]}",
                remedy="declare them in data.categories, or use data.hash_buckets",
            )
    out[:] = 0
    if len(numbers):
        index = np.asarray(numbers)[distinct.indices.to_numpy(zero_copy_only=False)]
        out[np.arange(len(index)), index] = 1
