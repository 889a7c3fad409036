"""Texts as encoders get them, from the columns of tables and from rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from hybridmu.core.kernel.column_types import kind_of
from hybridmu.errors import DataError

KIND = "text"
BLOCK = 1024  # values that an encoder is given at once
PART = 2048  # rows that are encoded together, and told of; whole blocks


def check_type(name: str, type_: pa.DataType) -> None:
    """Check that a column can hold texts.

    Raises:
        DataError: It holds something else.
    """
    if kind_of(type_) not in {"text", "null"}:
        raise DataError(f"column {name!r} holds no text", expected="a column of strings", got=str(type_))


def kept(name: str, values: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return the values of a column as the lake keeps them: as they are."""
    return values


def cells(values: pa.ChunkedArray) -> Sequence[str | None]:
    """Return the values of a column, for `of_cell`."""
    found: list[str | None] = values.to_pylist()
    return found


def of_cell(name: str, value: Any) -> str:
    """Return a value as a text.

    Raises:
        DataError: It is none.
    """
    if not isinstance(value, str):
        raise DataError(f"column {name!r} has a wrong value", expected="text", got=type(value).__name__)
    if not value.isascii() and any("\ud800" <= letter <= "\udfff" for letter in value):
        raise DataError(f"column {name!r} has text that is no Unicode", expected="text")
    return value
