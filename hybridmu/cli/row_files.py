"""Files of rows to classify and of keys to forget: tables, and JSON. Each is read as it is, or refused.

A table is read as a training table is: the same folders are refused, and the same types of columns.
"""

from __future__ import annotations

import codecs
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa

from hybridmu.cli.input_files import PARQUET, read_lines, text_of
from hybridmu.core.features.table_types import types_to_read
from hybridmu.core.kernel.column_types import check_role
from hybridmu.core.kernel.table_encoder import Column
from hybridmu.errors import DataError, RequestError
from hybridmu.store.dataset.file_formats import format_of
from hybridmu.store.dataset.source_table import SourceTable, open_table
from hybridmu.store.storage.storage import open_fs
from hybridmu.verifier.plain_data import DoubledNameError, each_once

_JSON_LINES = {".jsonl", ".ndjson"}


def read_rows(source: str, columns: Sequence[Column]) -> Any:
    """Return the rows of a table file or folder, of a JSON file, or of JSON on standard input, as Python values.

    Args:
        source: A path, or `-`.
        columns: What is read of a table; a column that nobody asks for may hold anything.

    Raises:
        RequestError: It is no table and not JSON, or an object names something twice.
        DataError: It is no table that could be trained on, or a column is missing or of a wrong type.
    """
    if is_table(source):
        table = _fitting(open_table(_address(source)), columns)
        names = [column.name for column in columns]
        return [row for batch in table.batches(names) for row in batch.to_pylist()]
    with _text(source) as (first, rest):
        return list(_rows_of_lines(first, rest, source)) if _is_lines(source, first) else _json(first, rest, source)


def table_reader(source: str, columns: Sequence[Column], id_name: str) -> pa.RecordBatchReader:
    """Return a reader of a table's feature columns, and of its ids where it has them, some rows at a time.

    Args:
        source: A path of a table file or folder.
        columns: The feature columns.
        id_name: The column of ids.

    Raises:
        DataError: A column is missing or of a wrong type; while it is read, also a value that can't be had in its type.
    """
    table = _fitting(open_table(_address(source)), columns)
    names = [column.name for column in columns]
    if id_name in table.names:
        if id_name in table.spelled and not pa.types.is_integer(table.type_of(id_name)):
            table = table.with_types({id_name: pa.string()})
        check_role(id_name, "id", table.type_of(id_name))
        names = list(dict.fromkeys([id_name, *names]))
    schema = pa.schema([(name, table.type_of(name)) for name in names])
    return pa.RecordBatchReader.from_batches(
        schema, (batch for block in table.batches(names) for batch in block.to_batches())
    )


def read_json(source: str) -> Iterator[Any]:
    """Yield the rows of JSON or JSON Lines; of the latter one line is in memory at a time.

    Args:
        source: A path, or `-`.

    Yields:
        Rows, as they are written.

    Raises:
        RequestError: It is not JSON, no list of rows, or an object names something twice.
    """
    with _text(source) as (first, rest):
        if _is_lines(source, first):
            yield from _rows_of_lines(first, rest, source)
            return
        rows = _json(first, rest, source)
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise RequestError(f"{_called(source)} is no list of rows", expected='[{"column": value, …}, …]')
    yield from rows


def read_keys(source: str, column: str | None) -> list[int | str]:
    """Return ids or groups: of a column of a table, or of a text file one a line.

    Args:
        source: A path, or `-`.
        column: The column of a table that has them.

    Returns:
        Keys as they are written; numbers of a table are numbers.

    Raises:
        DataError: The table lacks the column, a row has none, or the column can't hold keys.
    """
    if not is_table(source):
        return list(read_lines(source))
    table = open_table(_address(source))
    if column is None or column not in table.names:
        raise DataError(
            f"{source} has no column of these keys",
            expected=f"a column {column!r}" if column else "ids: this system has no groups",
            got=", ".join(table.names),
            remedy="name the column so, or write one key a line into a .txt file",
        )
    if column in table.spelled:
        table = table.with_types({column: pa.string()})
    elif not table.rows:
        return []
    check_role(column, "id", table.type_of(column))
    keys = [key for batch in table.batches([column]) for key in batch.column(0).to_pylist()]
    if None in keys:
        raise DataError(
            f"row {keys.index(None) + 1:,} of {source} has no key in column {column!r}",
            expected="a key in every row",
            remedy="leave the row out",
        )
    return keys


def is_table(source: str) -> bool:
    """Return whether a path is a folder or a table file; what can't be read is no table, and said elsewhere."""
    if source == "-":
        return False
    try:
        return Path(source).is_dir() or format_of(*open_fs(_address(source))) != "unknown"
    except (OSError, ValueError):
        return False


def _address(source: str) -> str:
    return str(Path(source).absolute())


def _called(source: str) -> str:
    return "standard input" if source == "-" else source


def _fitting(table: SourceTable, columns: Sequence[Column]) -> SourceTable:
    return table.with_types(types_to_read(columns, table.names, table.type_of, table.spelled))


@contextmanager
def _text(source: str) -> Iterator[tuple[bytes, BinaryIO]]:
    """Open a file or standard input.

    Yields:
        Its first line, and what follows.

    Raises:
        RequestError: Its name can't be one.
    """
    try:
        with nullcontext(sys.stdin.buffer) if source == "-" else Path(source).open("rb") as file:
            yield file.readline(), file
    except ValueError as error:  # a NUL in its name
        raise RequestError("can't read the file", got=f"{source!a}: {error}") from None


def _is_lines(source: str, first: bytes) -> bool:
    """Return whether rows are JSON Lines: by the name of a file, by the first character of standard input."""
    if source == "-":
        return first.lstrip().startswith(b"{")
    return Path(source).suffix.lower() in _JSON_LINES


def _json(first: bytes, rest: BinaryIO, source: str) -> Any:
    data, name = first + rest.read(), _called(source)
    if data.startswith(PARQUET):
        raise RequestError("standard input is a Parquet file", expected="JSON", remedy="name the file instead")
    try:
        return json.loads(text_of(data, name), object_pairs_hook=each_once)
    except DoubledNameError as error:
        raise _doubled(name, error) from None
    except (ValueError, RecursionError) as error:
        line = data.split(b"\n", 1)[0]
        table = b"{" not in line and b"[" not in line and line.count(b",") + line.count(b";") + line.count(b"\t") > 0
        raise RequestError(
            f"{name} is not JSON",
            expected='a list of rows, [{"column": value, …}, …], or a file in Parquet, Arrow IPC, CSV or JSON Lines',
            got="what looks like CSV" if table else str(error)[:200],
            remedy="name the file FILE.csv, with commas between the columns" if table else "",
        ) from None


def _rows_of_lines(first: bytes, rest: BinaryIO, source: str) -> Iterator[Any]:
    """Yield the value of every line that is not blank.

    Raises:
        RequestError: A line is not JSON.
    """  # noqa: DOC501 - functions make it
    name = _called(source)
    for number, line in enumerate(chain([first.removeprefix(codecs.BOM_UTF8)], rest), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line.decode(), object_pairs_hook=each_once)
        except DoubledNameError as error:
            raise _doubled(f"line {number} of {name}", error) from None
        except (ValueError, RecursionError) as error:
            raise RequestError(
                f"line {number} of {name} is not JSON",
                expected='an object in every line, {"column": value, …}, in UTF-8',
                got=type(error).__name__,
            ) from None
        if not isinstance(row, dict):
            raise RequestError(f"line {number} of {name} is no row", expected='{"column": value, …}')
        yield row


def _doubled(name: str, error: DoubledNameError) -> RequestError:
    return RequestError(f"{name} repeats a name in an object", expected="every name once in an object", got=str(error))
