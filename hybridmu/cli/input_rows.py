"""Input files of rows to classify: JSON, or Parquet, which is read as a training table is.

The same folders are refused, and the same types of columns.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from hybridmu.cli.input_files import PARQUET, read_source, text_of
from hybridmu.core.kernel.column_types import check_role
from hybridmu.core.kernel.table_encoder import Column
from hybridmu.errors import DataError, RequestError
from hybridmu.store.dataset.source_table import open_table
from hybridmu.types.json_objects import DoubledNameError, each_once


def read_rows(source: str, columns: Sequence[Column]) -> Any:
    """Return the rows of a JSON file, of JSON on standard input, or of a Parquet file or folder, as Python values.

    Args:
        source: A path, or `-`.
        columns: What is read of a Parquet table; a column that nobody asks for may hold anything.

    Raises:
        RequestError: It is neither JSON nor Parquet, or an object names something twice.
        DataError: It is no Parquet table that could be trained on, or a column is missing or of a wrong type.
    """
    if source != "-" and _is_table(source):
        return _table_rows(source, columns)
    data, name = read_source(source)
    if data.startswith(PARQUET):
        raise RequestError("standard input is a Parquet file", expected="JSON", remedy="name the file instead")
    try:
        return json.loads(text_of(data, name), object_pairs_hook=each_once)
    except DoubledNameError as error:
        raise RequestError(
            f"{name} repeats a name in an object", expected="every name once in an object", got=str(error)
        ) from None
    except (ValueError, RecursionError) as error:
        line = data.split(b"\n", 1)[0]
        table = b"{" not in line and b"[" not in line and line.count(b",") + line.count(b";") + line.count(b"\t") > 0
        raise RequestError(
            f"{name} is not JSON",
            expected='a list of rows, [{"column": value, …}, …], or a Parquet file',
            got="what looks like CSV" if table else str(error)[:200],
            remedy="convert it to Parquet: a CSV does not say which of its values are numbers" if table else "",
        ) from None


def _is_table(source: str) -> bool:
    """Return whether a path is a folder or a Parquet file; what can't be read is no table, and said elsewhere."""
    try:
        path = Path(source)
        if path.is_dir():
            return True
        with path.open("rb") as file:
            return file.read(len(PARQUET)) == PARQUET
    except (OSError, ValueError):
        return False


def _table_rows(source: str, columns: Sequence[Column]) -> list[dict[str, Any]]:
    """Return the rows of a Parquet table, of some columns alone.

    Raises:
        DataError: A column is missing, or can't be a feature.
    """
    table = open_table(str(Path(source).absolute()))
    lists = {}
    for column in columns:
        if column.name not in table.names:
            raise DataError(f"column {column.name!r} is missing", expected=", ".join(each.name for each in columns))
        found = table.type_of(column.name)
        if pa.types.is_null(found):  # has no value, which `data.fill` may stand in for
            continue
        if check_role(column.name, "feature", found) == "list" and column.kind == "list":
            lists[column.name] = pa.list_(found.value_type, column.width - (column.fill is not None))
    names = [column.name for column in columns]
    return [row for batch in table.with_types(lists).batches(names) for row in batch.to_pylist()]
