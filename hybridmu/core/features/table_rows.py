"""Rows given as column → value, encoded with the bits that the same values have in a training table.

Every cell is judged by itself: what is accepted, and the bits that come of it, depend on no other row.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from decimal import Decimal
from functools import partial
from itertools import chain
from operator import itemgetter
from typing import Any

import numpy as np
import numpy.typing as npt

from hybridmu.core.kernel.column_writers import bucket
from hybridmu.core.kernel.table_encoder import Column, Encoder, category_numbers
from hybridmu.errors import DataError

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Placed = Sequence[tuple[Column, int]]
Row = dict[str, Any]

# No column of whole numbers, signed or not, holds others.
_LEAST, _MOST = -(2**63), 2**64
_EXACT = 2**53  # from here on a double does not hold every whole number
_PLAIN = {int, float}
_BOOLS = {bool, np.bool_}
_NUMBERS = (bool, int, float, np.bool_, np.integer, np.floating, Decimal)


class RowEncoder:
    """An encoder of rows.

    Args:
        encoder: Of the trained system.
        whole: Columns that hold whole numbers alone: nothing was trained on another number there.
    """

    def __init__(self, encoder: Encoder, whole: Collection[str] = ()) -> None:
        ends = np.cumsum([0, *(column.width for column in encoder.columns)])
        placed = list(zip(encoder.columns, map(int, ends), strict=False))
        self._features = int(ends[-1])
        self._names = ", ".join(column.name for column in encoder.columns)
        self._groups: list[Callable[[Sequence[Row], F32], None]] = []
        makers: list[tuple[Callable[[Placed], Callable[[Sequence[Row], F32], None]], tuple[str, ...]]] = [
            (partial(_scalars, whole=whole), ("number", "bool")),
            (partial(_lists, whole=whole), ("list",)),
            (_texts, ("category", "hash")),
        ]
        for make, kinds in makers:
            if some := [(column, at) for column, at in placed if column.kind in kinds]:
                self._groups.append(make(some))

    def encode(self, rows: Sequence[Row]) -> F32:
        """Encode rows.

        Args:
            rows: Each with every feature column; other columns are ignored.

        Returns:
            float32 [n, features].

        Raises:
            DataError: No rows, a row that is no mapping, a missing column, or a value that the column can't hold.
        """
        if not isinstance(rows, list | tuple) or not rows:
            raise DataError("there are no rows to predict", expected="at least one row")
        if not all(isinstance(row, dict) for row in rows):
            raise DataError("a row is not a mapping", expected='[{"column": value, …}, …]')
        out = np.zeros((len(rows), self._features), dtype=np.float32)
        try:
            for group in self._groups:
                group(rows, out)
        except KeyError as error:
            raise DataError(f"column {error.args[0]!r} is missing", expected=self._names) from None
        return out


def _scalars(placed: Placed, whole: Collection[str]) -> Callable[[Sequence[Row], F32], None]:
    """Return what encodes all columns with one number a row, as one matrix."""
    columns = [column for column, _ in placed]
    get, at = _getter(columns), np.array([at for _, at in placed])
    scale = np.array([column.scale for column in columns])
    fills = np.array([math.nan if column.fill is None else float(column.fill) for column in columns])
    filled = np.array([column.fill is not None for column in columns])
    bools = np.array([column.kind == "bool" for column in columns])
    integers = np.array([column.name in whole for column in columns])
    numbers = np.flatnonzero(~bools).tolist()
    where: slice | npt.NDArray[np.intp] = _side_by_side(at)

    def encode(rows: Sequence[Row], out: F32) -> None:
        cells = list(chain.from_iterable(map(get, rows)))
        nulls = None
        kinds = set(map(type, cells))
        if kinds - _PLAIN:
            for place, cell in enumerate(cells):
                if isinstance(cell, np.timedelta64) or not (cell is None or isinstance(cell, _NUMBERS)):
                    raise _wrong(columns[place % len(columns)], cell)
            for place in () if kinds.isdisjoint(_BOOLS) else numbers:  # true is no 1 to training
                for cell in cells[place :: len(columns)]:
                    if type(cell) in _BOOLS:
                        raise _wrong(columns[place], cell)
            if type(None) in kinds:
                nulls = np.array([cell is None for cell in cells]).reshape(-1, len(columns))
                cells = [0.0 if cell is None else cell for cell in cells]
        values = _doubles(cells, lambda place: columns[place % len(columns)]).reshape(-1, len(columns))
        if nulls is not None:
            _refuse(columns, nulls & ~filled, "has a null and no fill", "a value")
            out[:, at[filled] + 1] = nulls[:, filled]
            values = np.where(nulls, fills, values)
        if bools.any():
            _refuse(columns, bools & (values != 0) & (values != 1), "has a wrong value", "true or false")
        with np.errstate(over="ignore", invalid="ignore"):
            made = (values * scale).astype(np.float32)
        _refuse(columns, ~np.isfinite(made), "has NaN, infinity or a number beyond float32", "finite numbers")
        _refuse_parts(columns, integers, values, fills)
        out[:, where] = made

    return encode


def _lists(placed: Placed, whole: Collection[str]) -> Callable[[Sequence[Row], F32], None]:
    """Return what encodes all columns of lists, as one matrix."""
    columns = [column for column, _ in placed]
    get = _getter(columns)
    widths = [column.width - (column.fill is not None) for column in columns]
    starts = np.cumsum([0, *widths])
    total = int(starts[-1])
    where = _side_by_side(
        np.concatenate([at + np.arange(width) for (_, at), width in zip(placed, widths, strict=True)])
    )
    owner = [column for column, width in zip(columns, widths, strict=True) for _ in range(width)]
    scale = np.array([column.scale for column in owner], dtype=np.float32)
    integers = np.array([column.name in whole for column in owner])
    fills = np.array([math.nan if column.fill is None else float(column.fill) for column in owner])

    def encode(rows: Sequence[Row], out: F32) -> None:
        cells: list[Any] = []
        for number, row in enumerate(rows):
            for (column, at), width, value in zip(placed, widths, get(row), strict=True):
                if value is None and column.fill is not None:
                    out[number, at + width] = 1
                    cells += [column.fill] * width
                    continue
                if not isinstance(value, list | tuple | np.ndarray) or (
                    isinstance(value, np.ndarray) and value.dtype.kind in "mM"  # `tolist` makes integers of moments
                ):
                    raise _wrong(column, value)
                if len(value) != width:
                    raise DataError(
                        f"column {column.name!r} has a list of another length",
                        expected=f"{width} numbers",
                        got=str(len(value)),
                    )
                cells += value.tolist() if isinstance(value, np.ndarray) else value
        for kind in set(map(type, cells)) - _PLAIN:
            if issubclass(kind, bool | np.timedelta64) or not issubclass(kind, int | float | np.integer | np.floating):
                place = next(place for place, cell in enumerate(cells) if type(cell) is kind)
                raise DataError(
                    f"column {owner[place % total].name!r} has a wrong value in its list",
                    expected="numbers",
                    got=kind.__name__,
                )
        doubles = _doubles(cells, lambda place: owner[place % total])
        with np.errstate(over="ignore", invalid="ignore"):
            made = doubles.astype(np.float32)
            for place in np.flatnonzero(np.abs(doubles) > _EXACT).tolist():
                if isinstance(cells[place], int | np.integer):  # rounded once, as a list of integers is in training
                    made[place] = np.array(int(cells[place])).astype(np.float32)
            made = made.reshape(-1, total) * scale  # in float32, as in training
        _refuse(owner, ~np.isfinite(made), "has NaN, infinity or a number beyond float32", "finite numbers")
        _refuse_parts(owner, integers, doubles.reshape(-1, total), fills)
        out[:, where] = made

    return encode


def _texts(placed: Placed) -> Callable[[Sequence[Row], F32], None]:
    """Return what encodes all columns of text, a one for every cell."""
    columns = [column for column, _ in placed]
    get = _getter(columns)
    known = [category_numbers(column) if column.kind == "category" else None for column in columns]

    def encode(rows: Sequence[Row], out: F32) -> None:
        for number, row in enumerate(rows):
            for (column, at), numbers, value in zip(placed, known, get(row), strict=True):
                width, text = column.width, value
                if column.fill is not None:
                    width -= 1
                    if value is None:
                        out[number, at + width], text = 1, str(column.fill)
                if not isinstance(text, str):
                    raise _wrong(column, text)
                try:
                    place = bucket(text, width) if numbers is None else numbers[text]
                except UnicodeEncodeError:
                    raise DataError(f"column {column.name!r} has text that is no Unicode", expected="text") from None
                except KeyError:
                    raise DataError(
                        f"column {column.name!r} has a value outside its declared categories",
                        expected=f"one of {list(column.categories)[:20]}",
                    ) from None
                out[number, at + place] = 1

    return encode


def _getter(columns: Sequence[Column]) -> Callable[[Row], tuple[Any, ...]]:
    names = [column.name for column in columns]
    if len(names) > 1:
        return itemgetter(*names)
    return lambda row: (row[names[0]],)


def _side_by_side(at: npt.NDArray[Any]) -> slice | npt.NDArray[Any]:
    """Return places as a slice where they follow each other: written to many times as fast."""
    if len(at) and at[-1] - at[0] + 1 == len(at):
        return slice(int(at[0]), int(at[-1]) + 1)
    return at


def _doubles(cells: Sequence[Any], column: Callable[[int], Column]) -> F64:
    """Return numbers as float64, each rounded once; what float64 does not hold as infinity.

    Args:
        cells: Numbers.
        column: Of a place among them.

    Raises:
        DataError: An integer has more than 64 bits.
    """
    try:
        found = np.fromiter(map(float, cells), np.float64, len(cells))
    except (OverflowError, ValueError):
        found = np.array([_double(cell) for cell in cells])
    for place in np.flatnonzero(np.abs(found) >= -_LEAST).tolist():
        if isinstance(cells[place], int | np.integer) and not _LEAST <= int(cells[place]) < _MOST:
            raise DataError(
                f"column {column(place).name!r} has an integer of more than 64 bits",
                expected="an integer of 64 bits, or a number with a point or an exponent",
            )
    return found


def _double(cell: Any) -> float:
    try:
        return float(cell)
    except OverflowError:
        return math.inf
    except ValueError:  # a signalling NaN of a decimal
        return math.nan


def _refuse(columns: Sequence[Column], wrong: Bools, says: str, expected: str) -> None:
    if wrong.any():
        raise DataError(f"column {columns[int(wrong.any(axis=0).argmax())].name!r} {says}", expected=expected)


def _refuse_parts(columns: Sequence[Column], integers: Bools, values: F64, fills: F64) -> None:
    """Refuse what is between two whole numbers, in columns of these; a declared fill is what it is."""
    if integers.any():
        parts = integers & (values != np.floor(values)) & (values != fills)
        _refuse(columns, parts, "has a number that is not whole", "whole numbers, as in the training table")


def _wrong(column: Column, value: Any) -> DataError:
    if value is None:
        return DataError(f"column {column.name!r} has a null and no fill", expected="a value")
    expected = {"category": "text", "hash": "text", "list": "a list of numbers"}.get(column.kind, column.kind)
    return DataError(f"column {column.name!r} has a wrong value", expected=expected, got=type(value).__name__)
