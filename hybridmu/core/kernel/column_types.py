"""Arrow types of source columns: what each may be, what its values become, and what the lake keeps.

Whatever is not in `SUPPORTED` is refused with a remedy: types that Arrow adds later, too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hybridmu.errors import DataError

Role = Literal["id", "group", "label", "feature"]
Kind = Literal["integer", "float", "bool", "text", "list", "null"]


@dataclass(frozen=True)
class Supported:
    """What columns of one kind may be.

    Attributes:
        types: Their Arrow types, as people name them.
        kept: The type in the lake.
        roles: Role → what a value becomes; a role that is not here is refused.
    """

    types: str
    kept: str
    roles: Mapping[Role, str]


SUPPORTED: Mapping[Kind, Supported] = {
    "integer": Supported(
        "int8 to int64, uint8 to uint64",
        "as it is",
        {"id": "an integer", "group": "an integer", "label": "a class, below 2^63", "feature": "one number"},
    ),
    "text": Supported(
        "string, large_string, string_view",
        "string, large_string",
        {"id": "a text", "group": "a text", "label": "a class", "feature": "one number per category or hash bucket"},
    ),
    "bool": Supported("bool", "as it is", {"label": "class 0 or 1", "feature": "0 or 1"}),
    "float": Supported("halffloat, float, double", "as it is", {"feature": "one number"}),
    "list": Supported(
        "fixed_size_list, list, large_list, list_view, large_list_view of integers or floats",
        "fixed_size_list",
        {"feature": "its numbers; all lists of a column have one length"},
    ),
    "null": Supported("null", "as it is", {"group": "no group; the type is known when the first value comes"}),
}
_EXPECTED: Mapping[Role, str] = {
    "id": "integers or text",
    "group": "integers or text",
    "label": "integer, boolean or string classes (classification only)",
    "feature": "numbers, booleans, strings, or lists of numbers",
}


def kind_of(type_: pa.DataType) -> Kind | None:
    """Return the kind of an Arrow type, None where it is not supported; a dictionary is what its values are."""
    if isinstance(type_, pa.BaseExtensionType):  # its reader may run foreign code
        return None
    if pa.types.is_dictionary(type_):
        return None if pa.types.is_nested(type_.value_type) else kind_of(type_.value_type)
    if pa.types.is_boolean(type_):
        return "bool"
    if pa.types.is_integer(type_):
        return "integer"
    if pa.types.is_floating(type_):
        return "float"
    if pa.types.is_string(type_) or pa.types.is_large_string(type_) or pa.types.is_string_view(type_):
        return "text"
    if pa.types.is_null(type_):
        return "null"
    numbers = _is_list(type_) and (pa.types.is_integer(type_.value_type) or pa.types.is_floating(type_.value_type))
    return "list" if numbers else None


def kept(type_: pa.DataType) -> pa.DataType:
    """Return the type that the lake keeps of a column: no dictionary, no view, no metadata of its fields.

    A list without a fixed length becomes `list`: its length is found in the rows. A type that is not supported stays.
    """
    if kind_of(type_) is None:
        return type_
    if pa.types.is_dictionary(type_):
        return kept(type_.value_type)
    if pa.types.is_string_view(type_):
        return pa.string()
    if pa.types.is_fixed_size_list(type_):
        return pa.list_(type_.value_type, type_.list_size)
    return pa.list_(type_.value_type) if _is_list(type_) else type_


def common(first: pa.DataType, later: pa.DataType) -> pa.DataType | None:
    """Return a kept type that holds the values of two; None where their values don't mean the same.

    Integers and floats are one kind: a value that the other type can't hold is found when it is read.
    """
    if first == later or pa.types.is_null(later):
        return first
    if pa.types.is_null(first):
        return later
    kinds = {kind_of(first), kind_of(later)}
    if not (len(kinds) == 1 or kinds == {"integer", "float"}) or None in kinds:
        return None
    if "list" in kinds:
        numbers = common(first.value_type, later.value_type)
        lengths = {type_.list_size for type_ in (first, later) if pa.types.is_fixed_size_list(type_)}
        if numbers is None or len(lengths) > 1:
            return None
        both = pa.types.is_fixed_size_list(first) and pa.types.is_fixed_size_list(later)
        return pa.list_(numbers, *lengths) if both else pa.list_(numbers)
    if pa.uint64() in {first, later} and kinds == {"integer"}:  # no type holds all of both
        return first if pa.types.is_signed_integer(first) or first == pa.uint64() else later
    return pa.unify_schemas(
        [pa.schema([("c", first)]), pa.schema([("c", later)])], promote_options="permissive"
    ).field("c").type  # fmt: skip


def check_role(name: str, role: Role, type_: pa.DataType) -> Kind:
    """Return the kind of a column that is an id, a group, a label or a feature.

    Args:
        name: Of the column.
        role: What it is to be.
        type_: Its Arrow type.

    Returns:
        The kind.

    Raises:
        DataError: A column of this type can't be that.
    """
    kind = kind_of(type_)
    if kind is not None and role in SUPPORTED[kind].roles:
        return kind
    if isinstance(type_, pa.BaseExtensionType):
        raise DataError(
            f"column {name!r} has an Arrow extension type, and can't be {_article(role)}",
            expected=_EXPECTED[role],
            got=str(type_),
            remedy="cast it to its storage type, or to a string, before ingestion",
        )
    leave = ", or leave it out of data.features" if role == "feature" else ""
    raise DataError(
        f"column {name!r} can't be {_article(role)}",
        expected=_EXPECTED[role],
        got=str(type_),
        remedy=f"cast it to one of these before ingestion{leave}",
    )


def exact(name: str, values: pa.Array, type_: pa.DataType, where: str) -> pa.Array:
    """Return the values of a column in another type, each the same value.

    Args:
        name: Of the column.
        values: Some of its values.
        type_: A kept type; of a list, with its length.
        where: The file they come from.

    Returns:
        The values.

    Raises:
        DataError: A value can't be had in that type, a text is not UTF-8, or a list has another length.
    """  # noqa: DOC501 - a function makes one of them
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    if pa.types.is_null(type_) and values.null_count == len(values):
        return pa.nulls(len(values))
    kinds = {kind_of(values.type), kind_of(type_)}
    fits = len(kinds) == 1 or kinds == {"integer", "float"} or pa.types.is_null(values.type)
    if not fits or None in kinds:
        raise other_type(name, where, type_, values.type)
    if kinds == {"text"}:
        try:
            values.validate(full=True)
        except pa.ArrowInvalid:
            raise DataError(
                f"column {name!r} of {where} holds text that is not UTF-8",
                expected="UTF-8, as Parquet says of its strings",
                remedy="write the table again with decoded text",
            ) from None
    if kinds == {"list"}:
        return _fixed(name, values, type_, where)
    try:
        return values if values.type == type_ else values.cast(type_)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError):
        # Without Arrow's own words: they quote the value, which may be somebody's.
        raise DataError(
            f"column {name!r} of {where} has values that don't fit the type of the table's other files",
            expected=str(type_),
            got=f"{values.type}, with values that {type_} can't hold exactly",
            remedy="cast the column to one type in all files",
        ) from None


def other_type(name: str, where: str, expected: pa.DataType | str, got: pa.DataType) -> DataError:
    """Return the error for a column whose type in one file doesn't go with the other files."""
    return DataError(
        f"column {name!r} has another type in {where}",
        expected=f"{expected}, as in the other files",
        got=str(got),
        remedy="cast the column to one type in all files: a cast that could change values is never made here",
    )


def _fixed(name: str, values: pa.Array, type_: pa.DataType, where: str) -> pa.Array:
    width = type_.list_size
    there = np.asarray(values.is_valid().to_numpy(zero_copy_only=False))
    if not pa.types.is_fixed_size_list(values.type):
        lengths = np.asarray(pc.list_value_length(values).fill_null(width).to_numpy(zero_copy_only=False))
        bad = int((lengths != width).sum())
    else:
        bad = int(there.sum()) if values.type.list_size != width else 0
    if bad:
        raise DataError(
            f"column {name!r} of {where} has {bad} row(s) whose list has another length",
            expected=f"{width} number(s) in every row",
            remedy="bring the lists to one length (data.lists names it), or leave the column out of data.features",
        )
    flat = values.flatten()  # without the lists that are null
    try:
        flat = flat.cast(type_.value_type)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        raise DataError(
            f"column {name!r} of {where} has numbers that don't fit the type of the table's other files",
            expected=str(type_.value_type),
            got=f"{values.type.value_type}, with numbers that {type_.value_type} can't hold exactly",
            remedy="cast the column to one type in all files",
        ) from None
    if there.all():
        return pa.FixedSizeListArray.from_arrays(flat, type=type_)
    places = np.repeat(np.cumsum(there) - 1, width) * width + np.tile(np.arange(width), len(there))
    spread = flat.take(pa.array(places, mask=np.repeat(~there, width)))
    return pa.FixedSizeListArray.from_arrays(spread, type=type_, mask=pa.array(~there))


def _article(role: Role) -> str:
    return f"an {role}" if role == "id" else f"a {role}"


def _is_list(type_: pa.DataType) -> bool:
    return bool(
        pa.types.is_fixed_size_list(type_)
        or pa.types.is_list(type_)
        or pa.types.is_large_list(type_)
        or pa.types.is_list_view(type_)
        or pa.types.is_large_list_view(type_)
    )
