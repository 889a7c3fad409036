"""Encoding of single values: what a derived column is made of, and its features, a block at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa

from hybridmu.core.features import text_values
from hybridmu.core.features.value_encoders import I8, LEVELS, Encoder, digest_of
from hybridmu.errors import DataError, MissingExtraError
from hybridmu.user_code import contained, kind

Where = Callable[[int], str]  # place among some rows → what an error calls that row


@dataclass(frozen=True, eq=False)
class Derived:
    """One derived column.

    Attributes:
        source: The column whose values are encoded.
        name: Its own: `review:wordllama`.
        values: The module that reads such values.
        make: Makes its encoder, when a value is to be encoded: a deletion needs none.
        fill: Stands in for a value that is null; None refuses nulls.
    """

    source: str
    name: str
    values: Any
    make: Callable[[], Encoder]
    fill: str | None = None

    @cached_property
    def _made(self) -> tuple[Encoder, str]:
        made = self.make()
        return made, digest_of(self.name, made)  # before it encodes anything: it may change then

    @property
    def encoder(self) -> Encoder:
        """Return what makes its features.

        Raises:
            ConfigError: There is no such encoder, or it does not take its options.
        """
        return self._made[0]

    @property
    def digest(self) -> str:
        """Return the hash of all that shapes its features, as the encoder was made.

        Raises:
            ConfigError: As of `encoder`; or its files can't be read.
        """
        return self._made[1]

    @property
    def type(self) -> pa.DataType:
        """Return the type in which it is stored."""
        return pa.list_(pa.int8(), self.encoder.width)


def encoded(column: Derived, cells: Sequence[Any], where: Where | None = None) -> I8:
    """Return the features of some values.

    Args:
        column: Whose encoder.
        cells: As in rows; read some at a time, since pictures fill the memory.
        where: Says what an error calls a row, by its place; None: rows are not named.

    Returns:
        int8 [n, width].

    Raises:
        DataError: A value can't be read, or the encoder fails, or gives something else than it says.
        MissingExtraError: A package that the encoder needs is not installed.
    """  # noqa: DOC501 - a function makes one of them
    made = np.empty((len(cells), column.encoder.width), np.int8)
    for start in range(0, len(cells), column.values.BLOCK):
        block = cells[start : start + column.values.BLOCK]
        try:
            made[start : start + len(block)] = _features(column, block, is_question=where is None)
        except DataError:
            if where is None:
                raise
            raise _named(column, block, lambda at, start=start: where(start + at)) from None  # type: ignore[misc]
    return made


def _features(column: Derived, cells: Sequence[Any], *, is_question: bool) -> I8:
    values, width = [_value(column, cell, is_question) for cell in cells], column.encoder.width
    try:
        with contained():
            found = column.encoder.encode(values)
    except MissingExtraError:
        raise
    except Exception as error:  # the user's own code; its words may quote the value
        raise DataError(
            f"column {column.source!r} can't be encoded", expected="what its encoder takes", got=kind(error)
        ) from None
    wrong = not isinstance(found, np.ndarray) or found.dtype != np.int8 or found.shape != (len(values), width)
    if wrong or bool((found < -LEVELS).any()):
        said = f"{found.dtype} {list(found.shape)}" if isinstance(found, np.ndarray) else type(found).__name__
        raise DataError(
            f"the encoder of column {column.source!r} makes something else than it says",
            expected=f"int8 [{len(values)}, {width}] from −127 to 127",
            got=said,
            remedy="mend the encoder; these rows are not at fault",
        )
    return found


def _named(column: Derived, cells: Sequence[Any], where: Where) -> DataError:
    """Return the error of the first row that can't be encoded by itself, with its name; else that of all of them."""
    for at, cell in enumerate(cells):
        try:
            _features(column, [cell], is_question=False)
        except DataError as error:
            remedy = error.remedy or "leave the row out, or correct it"
            return DataError(f"{where(at)}: {error.what}", expected=error.expected, got=error.got, remedy=remedy)
    try:
        _features(column, cells, is_question=False)
    except DataError as error:
        return error
    return DataError(
        f"column {column.source!r} was encoded at a second attempt alone",
        expected="an encoder that does the same each time",
        remedy="mend the encoder; these rows are not at fault",
    )


def _value(column: Derived, value: Any, is_question: bool) -> Any:
    if value is not None:
        return column.values.of_cell(column.source, value)
    if column.fill is not None:
        return column.fill
    declare = f"data.fills: {{{column.source}: TEXT}} (it may be empty), or "
    raise DataError(
        f"column {column.source!r} has a null and no fill",
        expected="a value" if is_question or column.values is not text_values else declare + "no nulls",
    )
