"""Targets: the numbers that a regression system learns, read off one column or several and kept as float32.

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
    """Encoder of a regression system: `label` is the target column, and there are no classes.

    Attributes:
        others: Further target columns, where several numbers are learned.
    """

    others: tuple[str, ...] = ()

    @classmethod
    def of(cls, columns: tuple[Any, ...], *targets: str) -> TargetEncoder:
        """Return the encoder of feature columns and of target columns, at least one."""
        return cls(columns, targets[0], (), targets[1:])

    @property
    def targets(self) -> tuple[str, ...]:
        """Return all target columns, in their order."""
        return (self.label, *self.others)

    def encode_labels(self, table: pa.Table) -> npt.NDArray[np.float32]:  # type: ignore[override]
        """Return targets, float32 [n]; of several columns, float32 [n, targets].

        Raises:
            DataError: A column is missing, of another type, or a value is no finite number that float32 holds.
        """
        self.check(table)
        found = [_numbers(table, target) for target in self.targets]
        return np.stack(found, axis=1) if self.others else found[0]

    def check(self, table: pa.Table, start: int = 0, where: str = "", taken: Taken | None = None) -> None:
        """Check that every row has all targets.

        Args:
            table: Some rows.
            start: Rows of the source before them, for the message.
            where: What they come from, for the message.
            taken: Tells which of them come in, bool [n]; None: all. Asked where a target is wrong.

        Raises:
            DataError: A row lacks one; it is named by its place, counted from 1.
        """  # noqa: DOC501 - a function makes it
        for target in self.targets:
            wrong = ~np.isfinite(_numbers(table, target))
            if taken is not None and wrong.any():
                wrong &= taken()
            if wrong.any():
                raise _unlearnable(target, table.column(target), wrong, start, where)

    def to_json(self) -> dict[str, Any]:
        """Return plain data that `from_json` reads; of one target, what it was before there were several."""
        found = super().to_json()
        if not self.others:
            del found["others"]
        return found

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> TargetEncoder:
        """Return the encoder that `to_json` wrote."""
        return cls.of(Encoder.from_json(raw).columns, raw["label"], *raw.get("others", ()))


def outcome_columns(encoder: Encoder) -> tuple[str, ...]:
    """Return the columns that an encoder's system learns: that of the classes, or the targets."""
    return encoder.targets if isinstance(encoder, TargetEncoder) else (encoder.label,)


def learned(encoder: Encoder) -> dict[str, Any]:
    """Return what an encoder's system learns, as results name it: `classes`, or `target`, a list where it is several.

    Example:
        >>> learned(TargetEncoder.of((), "price")), learned(TargetEncoder.of((), "price", "rent"))
        ({'target': 'price'}, {'target': ['price', 'rent']})
    """
    if not isinstance(encoder, TargetEncoder):
        return {"classes": list(encoder.classes)}
    return {"target": list(encoder.targets) if encoder.others else encoder.label}


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
            remedy="cast it to one of these before ingestion; classes are named by data.label"
            + ("; as int8, true and false are the numbers 1 and 0" if kind_of(type_) == "bool" else ""),
        )


def encoder_of(raw: Mapping[str, Any]) -> Encoder:
    """Return the encoder that `Encoder.to_json` wrote: without classes, one of targets."""
    return (Encoder if raw["classes"] else TargetEncoder).from_json(raw)


def empty_outcomes(encoder: Encoder, rows: int) -> Outcomes:
    """Return room for what so many rows are learned by: int64 [rows] of classes, float32 [rows] of a target.

    Of several targets it is float32 [rows, targets].
    """
    if not isinstance(encoder, TargetEncoder):
        return np.empty(rows, np.int64)
    return np.empty((rows, len(encoder.targets)) if encoder.others else rows, np.float32)


def _numbers(table: pa.Table, target: str) -> npt.NDArray[np.float32]:
    if target not in table.column_names:
        raise DataError(f"target column {target!r} is missing", got=", ".join(table.column_names))
    column = table.column(target)
    check_target(target, column.type)
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    there = np.asarray(column.is_valid().to_numpy(), dtype=np.bool_)
    values = column.fill_null(0).to_numpy()  # in its own type: an integer is rounded once
    with np.errstate(over="ignore", invalid="ignore"):  # found by `check`
        return np.where(there, values.astype(np.float32), np.float32(np.nan))


def _unlearnable(
    target: str, column: pa.ChunkedArray, wrong: npt.NDArray[np.bool_], start: int, where: str
) -> DataError:
    row = int(wrong.argmax())
    return DataError(
        f"target column {target!r} has no number that can be learned in row {start + row + 1:,}"
        + (f" of {where}" if where else "")
        + (f", and {int(wrong.sum()) - 1:,} more of the rows read with it" if wrong.sum() > 1 else ""),
        expected="a finite number of magnitude up to 3.4e38 in every row",
        got=_said(column[row]),
        remedy="leave these rows out, or correct them",
    )


def _said(value: pa.Scalar) -> str:
    found = value.as_py()
    if found is None:
        return "null"
    return f"{float(found)}" if not np.isfinite(float(found)) else "a number too large for float32"
