"""Contents of files that their bytes don't show: values of formats that compress, encode or number them.

A format is known by how the file begins, whatever its name; text formats by their name. What is inside an archive or a
compressed file is looked into the same way. A file that is not what it seems ends early: its bytes are searched anyway.
"""

from __future__ import annotations

import base64
import bz2
import csv
import gzip
import io
import json
import lzma
import sqlite3
import struct
import tarfile
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as pq
from pyarrow import orc

from hybridmu.runtime.purge.bloom_filters import answers
from hybridmu.store.storage.parquet_pages import Chunk, ParquetParts

_DEEPEST = 4
_TAR_AT = 257
_PIECE, _OVERLAP = 1 << 24, 1 << 13
_MOST = 1 << 29
_LINES = (".jsonl", ".ndjson")
_SEPARATED = (".csv", ".tsv", ".txt", ".psv")
_SEPARATORS = ",\t;|"


@dataclass(frozen=True)
class Values:
    """Some values of one column, key or field.

    Attributes:
        name: What the column is called.
        values: Plain Python values.
    """

    name: str
    values: Sequence[object]


@dataclass(frozen=True)
class Filter:
    """A Bloom filter of a column: it says of any text whether the column may hold it.

    Attributes:
        holds: Whether it answers yes, and not only for what is in the rows.
    """

    holds: Callable[[bytes], bool]


Piece = bytes | Values | Filter
Reader = Callable[[str, Any, int], Iterable[Piece]]


def contents(name: str, source: Any, depth: int = 0) -> Iterator[Piece]:
    """Yield what a file holds beyond its bytes.

    Args:
        name: Its name, whose ending tells text formats apart.
        source: It, open at its beginning; seekable.
        depth: In how many archives it lies.

    Yields:
        Decoded bytes, named values, and filters.
    """
    if depth > _DEEPEST:
        return
    head = bytes(source.read(512))
    for reader in _readers(name.lower(), head):
        source.seek(0)
        with suppress(Exception):  # a file that somebody made may raise anything in a library that reads it
            yield from reader(name, source, depth)


def _readers(name: str, head: bytes) -> Iterator[Reader]:
    for magic, readers in _MAGIC.items():
        if head.startswith(magic):
            yield from readers
    if head[_TAR_AT : _TAR_AT + 5] == b"ustar":
        yield _tar
    if name.endswith(".safetensors"):
        yield _safetensors
    if name.endswith(_SEPARATED):
        yield _separated
    if name.endswith((".json", ".ipynb", ".geojson", *_LINES)) or head.lstrip()[:1] in {b"{", b"["}:
        yield _json


# ---------------------------------------------------------------------- tables


def _parquet_parts(name: str, source: Any, depth: int) -> Iterator[Piece]:
    """Yield footer, pages, dictionaries, statistics and filters, whether or not any row refers to them."""
    parts = ParquetParts(source)
    for key, value in parts.metadata:
        yield from (key, value)
        yield from _encoded(value)
        yield from contents(".json", io.BytesIO(value), depth + 1)
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


def _parquet_rows(name: str, source: Any, depth: int) -> Iterator[Piece]:
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


def _arrow_file(name: str, source: Any, depth: int) -> Iterator[Piece]:
    reader = pa.ipc.open_file(source)
    yield from _schema(reader.schema, depth)
    for number in range(reader.num_record_batches):
        yield from _batch(reader.get_batch(number))


def _arrow_stream(name: str, source: Any, depth: int) -> Iterator[Piece]:
    with pa.ipc.open_stream(source) as reader:
        yield from _schema(reader.schema, depth)
        for batch in reader:
            yield from _batch(batch)


def _feather_v1(name: str, source: Any, depth: int) -> Iterator[Piece]:
    for batch in feather.read_table(source, memory_map=False).to_batches():
        yield from _batch(batch)


def _orc(name: str, source: Any, depth: int) -> Iterator[Piece]:
    file = orc.ORCFile(source)
    for number in range(file.nstripes):
        yield from _batch(file.read_stripe(number))


def _batch(batch: pa.RecordBatch) -> Iterator[Piece]:
    for column in batch.columns:
        yield from _buffers(column)
    yield from _table(pa.Table.from_batches([batch]))


def _buffers(array: pa.Array) -> Iterator[bytes]:
    """Yield an array's memory, with what lies under nulls and in dictionaries."""
    if pa.types.is_dictionary(array.type):
        yield from _buffers(array.dictionary)
    yield from (buffer.to_pybytes() for buffer in array.buffers() if buffer is not None)


def _table(table: pa.Table) -> Iterator[Piece]:
    for name in table.schema.names:
        column = table.column(name)
        for chunk in column.chunks:
            yield from _dictionaries(name, chunk)
        values = column.to_pylist()
        yield Values(name, values)
        if pa.types.is_nested(column.type) or pa.types.is_dictionary(column.type):
            yield from _document(values)


def _dictionaries(name: str, array: pa.Array) -> Iterator[Values]:
    if pa.types.is_dictionary(array.type):
        yield Values(name, array.dictionary.to_pylist())
    elif pa.types.is_struct(array.type):
        for index in range(array.type.num_fields):
            yield from _dictionaries(array.type.field(index).name, array.field(index))
    elif pa.types.is_nested(array.type) and hasattr(array, "values"):
        yield from _dictionaries(name, array.values)


def _schema(schema: pa.Schema, depth: int) -> Iterator[Piece]:
    """Yield what a schema says besides its types: it may quote values, in itself or in the JSON that pandas adds."""
    fields = [schema.field(i) for i in range(len(schema.names))]
    for metadata in (schema.metadata, *(field.metadata for field in fields)):
        for key, value in (metadata or {}).items():
            yield from (key, value)
            yield from contents(".json", io.BytesIO(value), depth + 1)


def _encoded(value: bytes) -> Iterator[Piece]:
    """Yield what a text in base 64 holds; Parquet keeps an Arrow schema so."""
    with suppress(ValueError):
        data = base64.b64decode(value, validate=True)
        yield data
        with suppress(Exception):
            yield from _schema(pa.ipc.read_schema(pa.py_buffer(data)), 0)


# ---------------------------------------------------------------------- text


def _separated(name: str, source: Any, depth: int) -> Iterator[Piece]:
    text = _text(source.read())
    yield text.encode(errors="surrogatepass")
    for separator in _SEPARATORS:
        if separator not in text.split("\n", 1)[0]:
            if separator == _SEPARATORS[0]:  # a single column has none
                yield from _rows(csv.DictReader(io.StringIO(text)))
            continue
        with suppress(Exception):
            yield from _rows(csv.DictReader(io.StringIO(text), delimiter=separator))


def _rows(rows: Iterable[dict[Any, Any]]) -> Iterator[Piece]:
    for row in rows:
        for key, value in row.items():
            yield Values(str(key).strip(), value if isinstance(value, list) else [value])


def _json(name: str, source: Any, depth: int) -> Iterator[Piece]:
    text = _text(source.read())
    try:
        documents = [json.loads(text)]
    except ValueError:  # a document a line
        documents = []
        for line in text.splitlines():
            with suppress(ValueError):
                documents.append(json.loads(line))
    for document in documents:
        yield from _document(document)


def _document(document: object) -> Iterator[Piece]:
    """Yield the texts of a document, which escapes may hide, and all values of each key together."""
    texts: list[str] = []
    named: dict[str, list[object]] = {}
    waiting = [document]
    while waiting:
        value = waiting.pop()
        if isinstance(value, str):
            texts.append(value)
        elif isinstance(value, dict):
            for key, inner in value.items():
                texts.append(str(key))
                named.setdefault(str(key), []).extend(inner if isinstance(inner, list) else (inner,))
            waiting += value.values()
        elif isinstance(value, (list, tuple)):
            waiting += [inner for inner in value if isinstance(inner, (str, list, tuple, dict))]
    yield "\n".join(texts).encode(errors="surrogatepass")
    for key, values in named.items():
        yield Values(key, values)


def _text(data: bytes) -> str:
    for mark, encoding in ((b"\xef\xbb\xbf", "utf-8-sig"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16")):
        if data.startswith(mark):
            return bytes(data).decode(encoding, errors="replace")
    return bytes(data).decode(errors="surrogateescape")


# ---------------------------------------------------------------------- arrays, weights, databases


def _numpy(name: str, source: Any, depth: int) -> Iterator[Piece]:
    array = np.load(io.BytesIO(source.read()), allow_pickle=False)
    column = name.rpartition("/")[2].removesuffix(".npy")  # a member of an .npz is named by its key
    columns = {field: array[field] for field in array.dtype.names} if array.dtype.names else {column: array}
    for field, values in columns.items():
        if values.dtype.kind in "USiu":
            yield Values(field, values.ravel().tolist())


def _safetensors(name: str, source: Any, depth: int) -> Iterator[Piece]:
    (length,) = struct.unpack("<Q", source.read(8))
    yield from _document(json.loads(source.read(min(length, 1 << 30))))


def _sqlite(name: str, source: Any, depth: int) -> Iterator[Piece]:
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.deserialize(source.read())
        connection.text_factory = bytes
        tables = [row[0].decode() for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        for table in tables:
            quoted = table.replace('"', '""')
            rows = connection.execute(f'SELECT * FROM "{quoted}"')
            names = [column[0] for column in rows.description]
            for row in rows:
                for column, value in zip(names, row, strict=True):
                    if isinstance(value, bytes):
                        yield value
                        yield Values(column, [value.decode(errors="replace")])
                    elif value is not None:
                        yield Values(column, [value])


# ---------------------------------------------------------------------- archives


def _inside(name: str, stream: Any, depth: int) -> Iterator[Piece]:
    """Yield the bytes of a stream, whole or as far as it can be read, and what it holds beyond them."""
    kept, tail = bytearray(), b""
    with suppress(Exception):  # cut off: what came before counts
        while piece := stream.read(_PIECE):
            yield tail + piece
            tail = piece[-_OVERLAP:]
            if len(kept) <= _MOST:
                kept += piece
    if len(kept) <= _MOST:  # of what swells beyond that, the bytes were searched
        yield from contents(name, io.BytesIO(kept), depth + 1)


def _compressed(open_: Callable[[Any], Any]) -> Reader:
    def read(name: str, source: Any, depth: int) -> Iterator[Piece]:
        stem, _, last = name.rpartition(".")
        yield from _inside(stem if last in _ENDINGS else name, open_(source), depth)

    return read


def _zip(name: str, source: Any, depth: int) -> Iterator[Piece]:
    with zipfile.ZipFile(source) as archive:
        for member in archive.infolist():
            yield member.filename.encode(errors="surrogatepass")
            with suppress(Exception), archive.open(member) as stream:
                yield from _inside(member.filename, stream, depth)


def _tar(name: str, source: Any, depth: int) -> Iterator[Piece]:
    with tarfile.open(fileobj=source, mode="r:") as archive:
        for member in archive:
            file = archive.extractfile(member) if member.isfile() else None
            if file is not None:
                yield from _inside(member.name, file, depth)


def _arrow_codec(codec: str) -> Callable[[Any], Any]:
    return lambda source: pa.CompressedInputStream(source, codec)


_ENDINGS = {"gz", "bz2", "zst", "lz4", "xz", "lzma", "z"}
_MAGIC: dict[bytes, tuple[Reader, ...]] = {
    b"PAR1": (_parquet_parts, _parquet_rows),
    b"ARROW1": (_arrow_file,),
    b"\xff\xff\xff\xff": (_arrow_stream,),
    b"FEA1": (_feather_v1,),
    b"ORC": (_orc,),
    b"\x93NUMPY": (_numpy,),
    b"SQLite format 3\0": (_sqlite,),
    b"PK\x03\x04": (_zip,),
    b"PK\x05\x06": (_zip,),
    b"\x1f\x8b": (_compressed(lambda source: gzip.GzipFile(fileobj=source)),),
    b"BZh": (_compressed(bz2.BZ2File),),
    b"\xfd7zXZ\0": (_compressed(lzma.LZMAFile),),
    b"\x28\xb5\x2f\xfd": (_compressed(_arrow_codec("zstd")),),
    b"\x04\x22\x4d\x18": (_compressed(_arrow_codec("lz4")),),
}
