"""Contents of files that their bytes don't show: values of formats that compress, encode or number them.

A format is known by how the file begins, whatever its name; text formats by their name. What is inside an archive or a
compressed file is looked into the same way. A file that is not what it seems ends early: its bytes are searched anyway.
"""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import sqlite3
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, suppress
from typing import Any

import numpy as np
import pyarrow as pa

from hybridmu.runtime.purge.file_pieces import Piece, Values
from hybridmu.runtime.purge.table_contents import (
    arrow_file,
    arrow_stream,
    feather_v1,
    orc_rows,
    parquet_parts,
    parquet_rows,
)
from hybridmu.runtime.purge.text_contents import document, json_text, separated

_DEEPEST = 4
_TAR_AT = 257
_PIECE, _OVERLAP = 1 << 24, 1 << 13
_MOST = 1 << 29
_VALUES = 1 << 16
_LINES = (".jsonl", ".ndjson")
_SEPARATED = (".csv", ".tsv", ".txt", ".psv")

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
    if name.endswith(".lzma") and not head.startswith(_LZMA):  # other settings than usual
        yield _compressed(lzma.LZMAFile)
    if name.endswith(".safetensors"):
        yield _safetensors
    if name.endswith(_SEPARATED):
        yield separated
    if name.endswith((".json", ".ipynb", ".geojson", *_LINES)) or head.lstrip()[:1] in {b"{", b"["}:
        yield json_text


# ---------------------------------------------------------------------- arrays, weights, databases


def _numpy(name: str, source: Any, depth: int) -> Iterator[Piece]:
    array = np.load(io.BytesIO(source.read()), allow_pickle=False)
    column = name.rpartition("/")[2].removesuffix(".npy")  # a member of an .npz is named by its key
    columns = {field: array[field] for field in array.dtype.names} if array.dtype.names else {column: array}
    for field, values in columns.items():
        if values.dtype.kind in "USiuf":
            flat = values.ravel()
            for start in range(0, len(flat), _VALUES):
                yield Values(field, flat[start : start + _VALUES].tolist())


def _safetensors(name: str, source: Any, depth: int) -> Iterator[Piece]:
    (length,) = struct.unpack("<Q", source.read(8))
    yield from document(json.loads(source.read(min(length, 1 << 30))))


def _sqlite(name: str, source: Any, depth: int) -> Iterator[Piece]:
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.deserialize(source.read())
        connection.text_factory = bytes
        connection.execute("PRAGMA writable_schema = ON")  # a schema that can't be parsed does not hide the rest
        for (table,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
            with suppress(Exception):  # of a module that is not here, or damaged
                yield from _sqlite_rows(connection, table.decode())


def _sqlite_rows(connection: sqlite3.Connection, table: str) -> Iterator[Piece]:
    quoted = table.replace('"', '""')
    rows = connection.execute(f'SELECT * FROM "{quoted}"')
    names = [column[0] for column in rows.description]
    for row in rows:
        for column, value in zip(names, row, strict=True):
            if isinstance(value, bytes):
                yield value
                yield Values(column, [value.decode(errors="replace")], shown=True)
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


class _Zlib:
    """A zlib stream, as joblib and pickles of NumPy write it."""

    def __init__(self, source: Any) -> None:
        self._source, self._decompress, self._rest = source, zlib.decompressobj(), b""

    def read(self, size: int) -> bytes:
        """Return at most so many of the next bytes; none at the end."""
        while not self._decompress.eof:
            given = self._rest or self._source.read(1 << 16)
            made = self._decompress.decompress(given, size)
            self._rest = self._decompress.unconsumed_tail
            if made or not given:
                return made
        return b""


def _arrow_codec(codec: str) -> Callable[[Any], Any]:
    return lambda source: pa.CompressedInputStream(source, codec)


_ENDINGS = {"gz", "bz2", "zst", "lz4", "xz", "lzma", "z", "zlib"}
_LZMA = b"\x5d\0\0"
_MAGIC: dict[bytes, tuple[Reader, ...]] = {
    b"PAR1": (parquet_parts, parquet_rows),
    b"ARROW1": (arrow_file,),
    b"\xff\xff\xff\xff": (arrow_stream,),
    b"FEA1": (feather_v1,),
    b"ORC": (orc_rows,),
    b"\x93NUMPY": (_numpy,),
    b"SQLite format 3\0": (_sqlite,),
    b"PK\x03\x04": (_zip,),
    b"PK\x05\x06": (_zip,),
    b"\x1f\x8b": (_compressed(lambda source: gzip.GzipFile(fileobj=source)),),
    b"BZh": (_compressed(bz2.BZ2File),),
    b"\xfd7zXZ\0": (_compressed(lzma.LZMAFile),),
    _LZMA: (_compressed(lzma.LZMAFile),),
    **{bytes([0x78, level]): (_compressed(_Zlib),) for level in (0x01, 0x5E, 0x9C, 0xDA)},
    b"\x28\xb5\x2f\xfd": (_compressed(_arrow_codec("zstd")),),
    b"\x04\x22\x4d\x18": (_compressed(_arrow_codec("lz4")),),
}
