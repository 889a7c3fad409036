"""Tables of what scikit-learn's users have: features of frames and arrays, outcomes, ids and groups. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from hybridmu.errors import DataError

F64 = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Roles:
    """Names of columns that are no features.

    Attributes:
        id: Of the column that tells rows apart.
        group: Of the people that rows belong to.
        outcomes: Of what is learned.
    """

    id: str
    group: str
    outcomes: tuple[str, ...]

    @classmethod
    def beside(cls, features: Iterable[str], outcome: str, count: int = 1) -> Roles:
        """Return names that no feature has.

        Args:
            features: Their names.
            outcome: What the name of an outcome begins with.
            count: How many outcomes there are.

        Example:
            >>> Roles.beside(["id", "height"], "label")
            Roles(id='id_', group='group', outcomes=('label',))
            >>> Roles.beside(["id", "height"], "target", 2).outcomes
            ('target_0', 'target_1')
        """
        taken = set(features)

        def free(name: str) -> str:
            return free(f"{name}_") if name in taken else name

        names = [outcome] if count == 1 else [f"{outcome}_{number}" for number in range(count)]
        return cls(free("id"), free("group"), tuple(free(name) for name in names))


def numbers_alone(table: pa.Table) -> bool:
    """Return whether every column holds numbers or truth values."""
    return all(_is_number(field.type) for field in table.schema)


def numbers_of(table: pa.Table) -> F64:
    """Return the columns of numbers and truth values, float64 [n, such columns]; null is NaN."""
    columns = [column.cast(pa.float64()).to_numpy() for column in table.columns if _is_number(column.type)]
    return np.column_stack(columns) if columns else np.empty((table.num_rows, 0))


def columns_of(numbers: F64, names: Sequence[str]) -> pa.Table:
    """Return float64 [n, features] as a table; NaN is null."""
    return pa.table([pa.array(column, from_pandas=True) for column in numbers.T], names=list(names))


def with_numbers(table: pa.Table, numbers: F64, names: Sequence[str]) -> pa.Table:
    """Return a table whose numbers and truth values are as in an array, and whose other columns are as they were.

    Args:
        table: The table.
        numbers: As from `numbers_of`.
        names: The new names of all columns.
    """
    rest = iter(numbers.T)
    made = [pa.array(next(rest), from_pandas=True) if _is_number(column.type) else column for column in table.columns]
    return pa.table(made, names=list(names))


def lacking(table: pa.Table) -> bool:
    """Return whether a column of something else than numbers has nulls."""
    return any(column.null_count for column in table.columns if not _is_number(column.type))


def keys(name: str, values: Any) -> pa.Array | pa.ChunkedArray:
    """Return a column of ids or groups.

    Args:
        name: `ids` or `groups`, for the message.
        values: A list, array or series.

    Raises:
        DataError: They are not of one type.
    """
    try:
        if hasattr(values, "__arrow_c_stream__"):
            return pa.chunked_array(values)
        return pa.array(values if hasattr(values, "dtype") else list(values), from_pandas=True)
    except (pa.ArrowException, TypeError, ValueError, OverflowError):  # their words quote the values
        raise DataError(f"{name} can't be read", expected="one integer or text for each row, all of one type") from None


def class_names(classes: npt.NDArray[Any]) -> tuple[int | str, ...]:
    """Return the names by which a system knows classes: integers and texts as they are, others as they print.

    Args:
        classes: Each once, in order.

    Example:
        >>> class_names(np.array([False, True])), class_names(np.array([1, 2]))
        (('False', 'True'), (1, 2))
    """
    return tuple(value if type(value) in {int, str} else str(value) for value in classes.tolist())


def _is_number(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_integer(kind)
        or pa.types.is_floating(kind)
        or pa.types.is_boolean(kind)
        or pa.types.is_decimal(kind)
    )
