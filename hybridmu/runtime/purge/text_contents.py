"""Text files that hold tables: separated values with a header in one of their first lines, JSON in any shape."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice, zip_longest
from typing import Any

from hybridmu.runtime.purge.file_pieces import Piece, Values

_SEPARATORS = ",\t;|"
_HEADERS = 10  # among so many first lines one may be the header, after a title
_ROWS = 10_000
_ABOVE = 4  # how many keys above a value may be the name of its column


def separated(name: str, source: Any, depth: int) -> Iterator[Piece]:
    """Yield the text of a file of separated values, and its columns under each name that may be theirs."""
    text = decoded(source.read())
    yield text.encode(errors="surrogatepass")
    top = "\n".join(islice(io.StringIO(text), _HEADERS))
    there = [separator for separator in _SEPARATORS if separator in top]
    for separator in there or [_SEPARATORS[0]]:  # a single column has none
        rows = _rows(text, separator)
        headers = list(islice(rows, _HEADERS))
        # A header's own line and what is above it are no ids, so they may stay among the values.
        part: list[list[str]] = headers
        while part:
            columns = list(zip_longest(*part, fillvalue=""))
            yield "\n".join(cell for row in part for cell in row).encode(errors="surrogatepass")
            for header in headers:
                for column, values in zip(header, columns, strict=False):
                    yield Values(column.strip(), values, shown=True)
            part = list(islice(rows, _ROWS))


def _rows(text: str, separator: str) -> Iterator[list[str]]:
    """Yield the lines that can be read: one with an endless cell does not hide the others."""
    rows = csv.reader(io.StringIO(text), delimiter=separator, skipinitialspace=True)
    while True:
        try:
            yield next(rows)
        except StopIteration:
            return
        except csv.Error:
            continue


def json_text(name: str, source: Any, depth: int) -> Iterator[Piece]:
    """Yield what a JSON document holds, or one a line."""
    yield from json_pieces(source.read())


def json_pieces(data: bytes) -> Iterator[Piece]:
    """Yield what a JSON text holds, or nothing where it is none."""
    text = decoded(data)
    try:
        documents = [json.loads(text)]
    except (ValueError, RecursionError):  # a document a line
        documents = []
        for line in text.splitlines():
            with suppress(ValueError, RecursionError):
                documents.append(json.loads(line))
    for found in documents:
        yield from document(found)


def document(found: object) -> Iterator[Piece]:
    """Yield the texts of a document, which escapes may hide, and for each key all values below it."""
    texts: list[str] = []
    named: dict[str, list[object]] = {}
    waiting: list[tuple[object, tuple[str, ...]]] = [(found, ())]
    while waiting:
        value, above = waiting.pop()
        if isinstance(value, dict):
            texts += map(str, value)
            for column, cells in _columns(value.get("columns"), value.get("data")):
                named.setdefault(column, []).extend(cells)
            waiting += [(inner, (*above, str(key))[-_ABOVE:]) for key, inner in value.items()]
        elif isinstance(value, (list, tuple)):
            if value and isinstance(value[0], (list, tuple)):
                for column, cells in _columns(value[0], value[1:]):
                    named.setdefault(column, []).extend(cells)
            if isinstance(value, tuple) and len(value) == 2 and isinstance(value[0], str):  # a map of Arrow
                above = (*above, value[0])[-_ABOVE:]
            waiting += [(inner, above) for inner in value]
        elif value is not None:
            if isinstance(value, str):
                texts.append(value)
            for key in set(above):
                named.setdefault(key, []).append(value)
    yield "\n".join(texts).encode(errors="surrogatepass")
    for key, values in named.items():
        yield Values(key, values, shown=True)


def _columns(names: object, rows: object) -> Iterator[tuple[str, list[object]]]:
    """Yield (name, cells) of rows that come as lists after the names of their columns."""
    if not isinstance(names, (list, tuple)) or not isinstance(rows, (list, tuple)):
        return
    lists = [row for row in rows if isinstance(row, (list, tuple))]
    for place, column in enumerate(names):
        if isinstance(column, str):
            yield column, [row[place] for row in lists if place < len(row)]


def decoded(data: bytes) -> str:
    """Return a text by its byte order mark, else as UTF-8; bytes that are neither stay apart from all letters."""
    for mark, encoding in ((b"\xef\xbb\xbf", "utf-8-sig"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16")):
        if data.startswith(mark):
            return bytes(data).decode(encoding, errors="replace")
    return bytes(data).decode(errors="surrogateescape")
