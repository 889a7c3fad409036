"""Columnar files: what Parquet, Arrow, ORC and Feather hold in rows, and beside them.

What can't be read of a column, a batch or a stripe hides no other.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as pq
from pyarrow import orc

from hybridmu.runtime.purge.bloom_filters import answers
from hybridmu.runtime.purge.file_pieces import Filter, Piece, Values
from hybridmu.runtime.purge.text_contents import document, json_pieces
from hybridmu.store.storage.parquet_pages import Chunk, ParquetParts


def parquet_parts(name: str, source: Any, depth: int) -> Iterator[Piece]:
    """Yield footer, pages, dictionaries, statistics and filters, whether or not any row refers to them."""
    parts = ParquetParts(source)
    for key, value in parts.metadata:
        yield from (key, value)
        yield from _encoded(value)
        yield from json_pieces(value)
    for chunk in parts.chunks():
        with suppress(Exception):  # a damaged page does not hide other columns
            yield from _chunk(source, parts, chunk)


def _chunk(source: Any, parts: ParquetParts, chunk: Chunk) -> Iterator[Piece]:
    label = _label(chunk.path)
    yield Values(label, chunk.bound_values(chunk.bounds))
    if chunk.bloom:
        yield Filter(answers(chunk.bloom, lambda: _rows_of(source, chunk)))
    for page in parts.pages(chunk):
        yield page.data
        yield Values(label, chunk.bound_values(page.bounds))
        if page.dictionary:
            yield Values(label, chunk.decode(page.data))


def parquet_rows(name: str, source: Any, depth: int) -> Iterator[Piece]:
    """Yield what the rows of a Parquet file hold, column by column."""
    file = pq.ParquetFile(source)
    for number in range(file.num_row_groups):
        for column in file.schema_arrow.names:
            with suppress(Exception):  # one column that can't be decoded does not hide the others
                yield from _table(file.read_row_group(number, columns=[column], use_threads=False))


def _rows_of(source: Any, chunk: Chunk) -> Iterator[bytes]:
    """Yield the values that rows have in a column of a row group, as a filter was given them."""
    source.seek(0)
    table = pq.ParquetFile(source).read_row_group(chunk.row_group, columns=[".".join(chunk.path)], use_threads=False)
    for column in table.columns:
        for value in _leaves(column.to_pylist()):
            yield value if isinstance(value, bytes) else str(value).encode()


def _leaves(value: object) -> Iterator[object]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        for one in value:
            yield from _leaves(one)
    elif value is not None:
        yield value


def _label(path: tuple[str, ...]) -> str:
    """Return what a column of Parquet is called, without the levels that its lists add."""
    return next((part for part in reversed(path) if part not in {"list", "element", "item", "array"}), "")


def arrow_file(name: str, source: Any, depth: int) -> Iterator[Piece]:
    """Yield what an Arrow file holds, batch by batch."""
    reader = pa.ipc.open_file(source)
    yield from _schema(reader.schema)
    for number in range(reader.num_record_batches):
        with suppress(Exception):  # a damaged batch does not hide the others
            yield from _batch(reader.get_batch(number))


def arrow_stream(name: str, source: Any, depth: int) -> Iterator[Piece]:
    """Yield what an Arrow stream holds, as far as it can be read."""
    with pa.ipc.open_stream(source) as reader:
        yield from _schema(reader.schema)
        for batch in reader:
            yield from _batch(batch)


def feather_v1(name: str, source: Any, depth: int) -> Iterator[Piece]:
    """Yield what a file of Feather's first version holds."""
    for batch in feather.read_table(source, memory_map=False).to_batches():
        yield from _batch(batch)


def orc_rows(name: str, source: Any, depth: int) -> Iterator[Piece]:
    """Yield what an ORC file holds, column by column."""
    file = orc.ORCFile(source)
    for number in range(file.nstripes):
        for column in file.schema.names:
            with suppress(Exception):  # one column that can't be decoded does not hide the others
                yield from _batch(file.read_stripe(number, columns=[column]))


def _batch(batch: pa.RecordBatch) -> Iterator[Piece]:
    for column in batch.columns:
        with suppress(Exception):
            yield from _buffers(column)
    yield from _table(pa.Table.from_batches([batch]))


def _buffers(array: pa.Array) -> Iterator[bytes]:
    """Yield an array's memory, with what lies under nulls and in dictionaries."""
    if pa.types.is_dictionary(array.type):
        yield from _buffers(array.dictionary)
    yield from (buffer.to_pybytes() for buffer in array.buffers() if buffer is not None)


def _table(table: pa.Table) -> Iterator[Piece]:
    for name in table.schema.names:
        for chunk in table.column(name).chunks:
            with suppress(Exception):
                yield from _dictionaries(name, chunk)
            yield from _values(name, chunk)


def _values(name: str, array: pa.Array) -> Iterator[Piece]:
    """Yield a column's values; where Python has none for one of them, a moment far away, its parts' or its own."""
    try:
        values = array.to_pylist()
    except Exception:
        if pa.types.is_struct(array.type):
            for index, inner in enumerate(array.flatten()):
                yield from _values(array.type.field(index).name, inner)
        elif pa.types.is_map(array.type):
            yield from _values(name, array.keys)
            yield from _values(name, array.items)
        elif pa.types.is_nested(array.type):
            yield from _values(name, array.flatten())
        else:
            yield Values(name, [value for one in array if (value := _value(one)) is not None])
        return
    yield Values(name, values)
    if pa.types.is_nested(array.type) or pa.types.is_dictionary(array.type):
        yield Values(name, list(_leaves(values)))
        yield from document(values)


def _value(scalar: pa.Scalar) -> object:
    with suppress(Exception):
        return scalar.as_py()
    return None


def _dictionaries(name: str, array: pa.Array) -> Iterator[Values]:
    if pa.types.is_dictionary(array.type):
        yield Values(name, array.dictionary.to_pylist())
    elif pa.types.is_struct(array.type):
        for index in range(array.type.num_fields):
            yield from _dictionaries(array.type.field(index).name, array.field(index))
    elif pa.types.is_nested(array.type) and hasattr(array, "values"):
        yield from _dictionaries(name, array.values)


def _schema(schema: pa.Schema) -> Iterator[Piece]:
    """Yield what a schema says besides its types: it may quote values, in itself or in the JSON that pandas adds."""
    fields = [schema.field(i) for i in range(len(schema.names))]
    for metadata in (schema.metadata, *(field.metadata for field in fields)):
        for key, value in (metadata or {}).items():
            yield from (key, value)
            yield from json_pieces(value)


def _encoded(value: bytes) -> Iterator[Piece]:
    """Yield what a text in base 64 holds; Parquet keeps an Arrow schema so."""
    with suppress(ValueError):
        data = base64.b64decode(value, validate=True)
        yield data
        with suppress(Exception):
            yield from _schema(pa.ipc.read_schema(pa.py_buffer(data)))
