"""Frames of rows that callers have: Arrow tables and readers, DataFrames of pandas and polars, and what speaks Arrow.

Nothing is imported for it: a caller who has a DataFrame has its package loaded.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from hybridmu.core.kernel.table_encoder import Column
from hybridmu.errors import DataError, RequestError
from hybridmu.serving.ensemble import Ensemble
from hybridmu.serving.table_answers import VERSION, TableAnswers
from hybridmu.system.frame_kinds import is_pandas, package_of


def answered(frame: Any, ensemble: Ensemble, id_name: str) -> Any:
    """Return the answers to the rows of a frame, as a frame of the same kind.

    Args:
        frame: What `is_frame` says is one.
        ensemble: Answers.
        id_name: Column that is kept as it is, where the frame has it.

    Returns:
        pandas for pandas, with its index; polars for polars; a record batch for one; a reader, which answers while it
        is read, for a reader; else an Arrow table.

    Raises:
        DataError: A column is missing or of a wrong type, or a row can't be answered.
    """
    columns = ensemble.asked
    if is_pandas(frame):
        return _answered_pandas(frame, columns, ensemble, id_name)
    if isinstance(frame, pa.RecordBatchReader):
        answers = TableAnswers(ensemble, frame.schema, id_name)
        return pa.RecordBatchReader.from_batches(answers.schema, answers.batches(frame))
    if isinstance(frame, pa.RecordBatch):
        found = _table(pa.Table.from_batches([frame]), ensemble, id_name)
        return next(iter(found.combine_chunks().to_batches()), pa.RecordBatch.from_pylist([], schema=found.schema))
    found = _table(frame if isinstance(frame, pa.Table) else _read(frame), ensemble, id_name)
    if package_of(frame) == "polars":
        return sys.modules["polars"].from_arrow(found)
    return found


def _table(table: pa.Table, ensemble: Ensemble, id_name: str) -> pa.Table:
    answers = TableAnswers(ensemble, table.schema, id_name)
    return pa.Table.from_batches(answers.batches(table.to_batches()), schema=answers.schema)


def _read(frame: Any) -> pa.Table:
    """Return what a frame of another library gives to Arrow.

    Raises:
        RequestError: It is no table, or gives nothing.
    """
    try:
        if package_of(frame) == "polars":  # by the C stream its categories are of a type that Arrow can't cast
            return frame.to_arrow()
        return pa.table(frame)
    except Exception as error:  # whatever the caller's own object raises
        raise RequestError("rows is not a table", expected="a frame with columns", got=type(error).__name__) from error


def _answered_pandas(frame: Any, columns: Sequence[Column], ensemble: Ensemble, id_name: str) -> Any:
    names = [column.name for column in columns if column.name in frame.columns]
    arrays = [_array(name, frame[name]) for name in names]
    found = _table(pa.Table.from_arrays(arrays, names), ensemble, id_name)
    made = found.to_pandas()
    made.index = frame.index
    if id_name in frame.columns and id_name not in made.columns:
        made.insert(0, id_name, frame[id_name])
    made.attrs["version"] = int(found.schema.metadata[VERSION])
    return made


def _array(name: str, series: Any) -> pa.Array:
    """Return a column of pandas as Arrow has it, as in a file that pandas writes: NaN is null.

    Raises:
        DataError: Its cells are of several types, or two columns have its name.
    """
    try:
        found = pa.array(series, from_pandas=True)
    except (pa.ArrowException, TypeError, ValueError, OverflowError):  # their words quote the value
        raise DataError(
            f"column {name!r} can't be read",
            expected="one column of numbers, truth values, texts or lists of numbers",
            got=str(getattr(series, "dtype", "several columns")),
            remedy="bring its cells to one type",
        ) from None
    return found.combine_chunks() if isinstance(found, pa.ChunkedArray) else found
