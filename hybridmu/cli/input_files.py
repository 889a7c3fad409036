"""Input files: lists of ids, rows to predict. Each is read as it is, or refused; nothing is guessed.

Rows in Parquet are read as a training table is: the same folders are refused, and the same types of columns.

Text is UTF-8, or UTF-16 or UTF-32 with a byte order mark, which is no part of it. A line ends with a line feed, or with
a carriage return and a line feed, and with nothing else: what stands before is the id, spaces included.
"""

from __future__ import annotations

import codecs
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from hybridmu.core.kernel.column_types import check_role
from hybridmu.core.kernel.table_encoder import Column
from hybridmu.errors import DataError, RequestError
from hybridmu.store.dataset.source_table import open_table
from hybridmu.types.json_objects import DoubledNameError, each_once

# The longer marks first: that of UTF-32 begins like that of UTF-16.
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_PARQUET = b"PAR1"


def read_lines(source: str) -> list[str]:
    """Return the lines of a file, or of standard input, that are not empty.

    Args:
        source: A path, or `-`.

    Raises:
        RequestError: It is no text file.
    """
    data, name = _read(source)
    lines = _text(data, name).split("\n")
    return [line for line in (line.removesuffix("\r") for line in lines) if line]


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
    data, name = _read(source)
    if data.startswith(_PARQUET):
        raise RequestError("standard input is a Parquet file", expected="JSON", remedy="name the file instead")
    try:
        return json.loads(_text(data, name), object_pairs_hook=each_once)
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
            return file.read(len(_PARQUET)) == _PARQUET
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


def _read(source: str) -> tuple[bytes, str]:
    """Return the bytes of a file or of standard input, and what it is called in messages.

    Raises:
        RequestError: It can't be read.
    """
    if source == "-":
        return sys.stdin.buffer.read(), "standard input"
    try:
        return Path(source).read_bytes(), source
    except IsADirectoryError:
        raise RequestError(f"can't read {source}", expected="a file", got="a folder") from None
    except ValueError as error:  # a NUL in its name
        raise RequestError("can't read the file", got=f"{source!a}: {error}") from None


def _text(data: bytes, name: str) -> str:
    encoding = next((encoding for mark, encoding in _MARKS if data.startswith(mark)), "utf-8")
    skipped = len(codecs.BOM_UTF8) if data.startswith(codecs.BOM_UTF8) else 0  # the codecs of the others skip theirs
    expected = "text in UTF-8, or in UTF-16 with a byte order mark"
    if data.startswith(_PARQUET):
        raise RequestError(f"{name} is a Parquet file", expected=expected, remedy="write its key column to a text file")
    try:
        text = data[skipped:].decode(encoding)
    except UnicodeDecodeError as error:
        place = skipped + error.start
        line = data.count(b"\n", 0, place) + 1
        got = f"byte 0x{data[place]:02x} at offset {place}, in line {line}"
        remedy = "save it as UTF-8; of a file in Latin-1: iconv -f latin1 -t utf-8 FILE"
        raise RequestError(f"{name} is not {encoding.upper()}", expected=expected, got=got, remedy=remedy) from None
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        remedy = "save it as UTF-8; text in UTF-16 must begin with a byte order mark"
        raise RequestError(f"{name} is not a text file", expected=expected, got=f"a NUL in line {line}", remedy=remedy)
    return text
