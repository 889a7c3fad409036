"""Targets: the numbers that a regression system learns, read off a column and kept as float32.

A target is rounded to the nearest float32, as every feature is: a row is learned, and found again as the same row, by
its float32 bits. They are not scaled here. What centres and scales them is fitted on rows, and so it is part of the
sub-model (`core/tasks/regression_tasks.py`), as the scaler of features is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from hybridmu.core.kernel.column_types import kind_of
from hybridmu.core.kernel.table_encoder import Encoder
from hybridmu.errors import DataError

Taken = Callable[[], npt.NDArray[np.bool_]]
Outcomes = npt.NDArray[np.int64] | npt.NDArray[np.float32]


@dataclass(frozen=True)
class TargetEncoder(Encoder):
    """Encoder of a regression system: `label` is the target column, and there are no classes."""

    @classmethod
    def of(cls, columns: tuple[Any, ...], target: str) -> TargetEncoder:
        """Return the encoder of feature columns and a target column."""
        return cls(columns, target, ())

    def encode_labels(self, table: pa.Table) -> npt.NDArray[np.float32]:  # type: ignore[override]
        """Return targets, float32 [n].

        Raises:
            DataError: The column is missing, of another type, or a value is no finite number that float32 holds.
        """
        self.check(table)
        return self._numbers(table)

    def check(self, table: pa.Table, start: int = 0, where: str = "", taken: Taken | None = None) -> None:
        """Check that every row has a target.

        Args:
            table: Some rows.
            start: Rows of the source before them, for the message.
            where: What they come from, for the message.
            taken: Tells which of them come in, bool [n]; None: all. Asked where a target is wrong.

        Raises:
            DataError: A row has none; it is named by its place, counted from 1.
        """
        found = self._numbers(table)
        wrong = ~np.isfinite(found)
        if taken is not None and wrong.any():
            wrong &= taken()
        if not wrong.any():
            return
        row = int(wrong.argmax())
        raise DataError(
            f"target column {self.label!r} has no number that can be learned in row {start + row + 1:,}"
            + (f" of {where}" if where else "")
            + (f", and {int(wrong.sum()) - 1:,} more of the rows read with it" if wrong.sum() > 1 else ""),
            expected="a finite number of magnitude up to 3.4e38 in every row",
            got=_said(table.column(self.label)[row]),
            remedy="leave these rows out, or correct them",
        )

    def _numbers(self, table: pa.Table) -> npt.NDArray[np.float32]:
        if self.label not in table.column_names:
            raise DataError(f"target column {self.label!r} is missing", got=", ".join(table.column_names))
        column = table.column(self.label)
        check_target(self.label, column.type)
        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        there = np.asarray(column.is_valid().to_numpy(), dtype=np.bool_)
        values = column.fill_null(0).to_numpy()  # in its own type: an integer is rounded once
        with np.errstate(over="ignore", invalid="ignore"):  # found by `check`
            return np.where(there, values.astype(np.float32), np.float32(np.nan))


def check_target(name: str, type_: pa.DataType) -> None:
    """Check that a column can be a target.

    Args:
        name: Of the column.
        type_: Its Arrow type.

    Raises:
        DataError: It holds no integers or floats.
    """
    if kind_of(type_) not in {"integer", "float"}:
        raise DataError(
            f"column {name!r} can't be a target",
            expected="integers or floats",
            got=str(type_),
            remedy="cast it to one of these before ingestion; classes are named by data.label",
        )


def encoder_of(raw: Mapping[str, Any]) -> Encoder:
    """Return the encoder that `Encoder.to_json` wrote: without classes, one of targets."""
    return (Encoder if raw["classes"] else TargetEncoder).from_json(raw)


def empty_outcomes(encoder: Encoder, rows: int) -> Outcomes:
    """Return room for what so many rows are learned by: int64 [rows] of classes, float32 [rows] of targets."""
    return np.empty(rows, np.float32) if isinstance(encoder, TargetEncoder) else np.empty(rows, np.int64)


def _said(value: pa.Scalar) -> str:
    found = value.as_py()
    if found is None:
        return "null"
    return f"{float(found)}" if not np.isfinite(float(found)) else "a number too large for float32"
