"""The parts of any Parquet file that hold values: pages, dictionaries, statistics, Bloom filters.

A reader of rows shows what rows refer to. A file may hold more: dictionaries with values of no row, minima and maxima
of rows that left, filters that still answer for them. Here every part is read as it lies in the file.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from hybridmu.store.storage.thrift import Struct, read_struct

_MAGIC = b"PAR1"
_TAIL = 8
_HEADER_BYTES = 1 << 10  # of most pages; longer where it repeats a long minimum or maximum
_DATA, _DICTIONARY, _DATA_V2 = 0, 2, 3
_LZ4_FRAMED = 5
_CODECS = {1: "snappy", 2: "gzip", 4: "brotli", _LZ4_FRAMED: "lz4_raw", 6: "zstd", 7: "lz4_raw"}
# Physical types: integers and their bytes; texts with their length before each, or all of one that the schema names.
_INTEGERS = {1: 4, 2: 8}
_BYTES = 6
_FIXED = 7


@dataclass(frozen=True)
class Page:
    """One page.

    Attributes:
        data: Its bytes, decompressed.
        values: As many as its header says.
        dictionary: Whether it holds the values that the pages after it number.
        bounds: Minimum and maximum in its header, as stored.
    """

    data: bytes
    values: int
    dictionary: bool
    bounds: tuple[bytes, ...] = ()


@dataclass(frozen=True)
class Chunk:
    """One column of one row group.

    Attributes:
        path: The column's name, and those of the fields in it.
        row_group: Number of the row group.
        kind: Its physical type, as Parquet numbers them.
        width: Bytes of a value of fixed length.
        bounds: Minima and maxima in the footer and the column index, as stored.
        bloom: The bits of its Bloom filter; empty without one.
    """

    path: tuple[str, ...]
    row_group: int
    kind: int
    width: int
    bounds: tuple[bytes, ...]
    bloom: bytes
    _codec: int = field(repr=False)
    _place: tuple[int, int] = field(repr=False)

    def decode(self, data: bytes) -> list[Any]:
        """Return values that are stored one after the other: whole numbers as such, texts as bytes, of others none."""
        if self.kind == _BYTES:
            return list(_lengths_first(data))
        width = self.width if self.kind == _FIXED else _INTEGERS.get(self.kind, 0)
        values = [data[at : at + width] for at in range(0, len(data) - width + 1, width)] if width else []
        return [int.from_bytes(v, "little", signed=True) for v in values] if self.kind in _INTEGERS else list(values)

    def bound_values(self, bounds: tuple[bytes, ...]) -> list[Any]:
        """Return minima and maxima: these are stored without a length."""
        if self.kind in _INTEGERS:
            return [int.from_bytes(bound, "little", signed=True) for bound in bounds]
        return list(bounds)


class ParquetParts:
    """What a Parquet file holds.

    Args:
        source: A seekable file.

    Raises:
        ValueError: Its footer can't be read, or is encrypted.
    """

    def __init__(self, source: Any) -> None:
        self._source = source
        self._size = int(source.seek(0, 2))
        tail = self._read(max(0, self._size - _TAIL), _TAIL)
        length = int.from_bytes(tail[:4], "little")
        if tail[4:] != _MAGIC or length + _TAIL > self._size:
            raise ValueError("there is no footer of Parquet")
        self.footer = self._read(self._size - _TAIL - length, length)
        self._parsed, _ = read_struct(self.footer)

    @property
    def metadata(self) -> list[tuple[bytes, bytes]]:
        """Return keys and values that the footer carries for programs."""
        return [(pair.get(1, b""), pair.get(2, b"")) for pair in self._parsed.get(5, [])]

    def chunks(self) -> Iterator[Chunk]:
        """Yield every column of every row group.

        Raises:
            ValueError: The footer does not say where one is.
        """
        widths = _widths(self._parsed.get(2, []))
        for number, group in enumerate(self._parsed.get(4, [])):
            for column in group.get(1, []):
                said = column.get(3)
                if said is None:
                    raise ValueError("a column is encrypted, or lies in another file")
                path = tuple(part.decode(errors="replace") for part in said[3])
                starts = [at for at in (said.get(11), said.get(9)) if at]
                bounds = _bounds(said.get(12, {})) + self._indexed(column)
                yield Chunk(
                    path,
                    number,
                    said[1],
                    widths.get(path, 0),
                    bounds,
                    self._bloom(said.get(14)),
                    said[4],
                    (min(starts), said[7]) if starts else (0, 0),  # a column without a value has no page
                )

    def pages(self, chunk: Chunk) -> Iterator[Page]:
        """Yield the pages of a column, as they lie in the file.

        Raises:
            ValueError: One is damaged, or is compressed as nobody here can read it.
        """
        at, size = chunk._place
        end = at + size
        while at < end:
            header, length = self._header(at)
            packed, unpacked = header[3], header[2]
            if packed < 0 or at + length + packed > self._size:
                raise ValueError("a page is cut off")
            body = self._read(at + length, packed)
            said = header.get(5) or header.get(7) or header.get(8) or {}
            levels, compressed = 0, True
            if header[1] == _DATA_V2:  # levels come first, as they are
                levels, compressed = said.get(5, 0) + said.get(6, 0), said.get(7, True)
            if compressed and chunk._codec:
                body = body[:levels] + _decompressed(body[levels:], chunk._codec, unpacked - levels)
            bounds = _bounds(said.get(8 if header[1] == _DATA_V2 else 5, {})) if header[1] != _DICTIONARY else ()
            yield Page(body, said.get(1, 0), header[1] == _DICTIONARY, bounds)
            at += length + packed

    def _header(self, at: int) -> tuple[Struct, int]:
        wanted = _HEADER_BYTES
        while True:
            try:
                return read_struct(self._read(at, wanted))
            except ValueError:
                if at + wanted >= self._size:
                    raise
                wanted *= 32

    def _bloom(self, at: int | None) -> bytes:
        if not at:
            return b""
        header, length = read_struct(self._read(at, min(64, self._size - at)))
        return self._read(at + length, header[1])

    def _indexed(self, column: Struct) -> tuple[bytes, ...]:
        """Return the minima and maxima of pages that an index of the file repeats."""
        at, length = column.get(6), column.get(7)
        if not at or not length:
            return ()
        index, _ = read_struct(self._read(at, length))
        return (*index.get(2, []), *index.get(3, []))

    def _read(self, at: int, length: int) -> bytes:
        self._source.seek(at)
        return bytes(self._source.read(length))


def _bounds(statistics: Struct) -> tuple[bytes, ...]:
    return tuple(statistics[number] for number in (1, 2, 5, 6) if number in statistics)


def _widths(schema: list[Struct]) -> dict[tuple[str, ...], int]:
    """Return path → bytes of a value, for columns whose values all have one length; the schema is a tree in a list."""
    found: dict[tuple[str, ...], int] = {}
    left = iter(schema[1:])

    def walk(above: tuple[str, ...], children: int) -> None:
        for _ in range(children):
            element = next(left)
            path = (*above, element[4].decode(errors="replace"))
            if element.get(5):
                walk(path, element[5])
            else:
                found[path] = element.get(2, 0)

    if schema:
        walk((), schema[0].get(5, 0))
    return found


def _lengths_first(data: bytes) -> Iterator[bytes]:
    at = 0
    while at + 4 <= len(data):
        length = int.from_bytes(data[at : at + 4], "little")
        yield data[at + 4 : at + 4 + length]
        at += 4 + length


def _decompressed(data: bytes, codec: int, size: int) -> bytes:
    if codec not in _CODECS:
        raise ValueError(f"there is no codec {codec}")
    if not size:
        return b""
    try:
        if codec == _LZ4_FRAMED and (framed := _unframed(data)) is not None:
            return framed
        return bytes(pa.Codec(_CODECS[codec]).decompress(data, size))
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"a page can't be decompressed: {error}") from None


def _unframed(data: bytes) -> bytes | None:
    """Return what Hadoop's blocks of LZ4 hold; None when these are none."""
    found, at = b"", 0
    while at < len(data):
        size, packed = (int.from_bytes(data[at + i : at + i + 4], "big") for i in (0, 4))
        at += 8
        if at + packed > len(data):
            return None
        found += bytes(pa.Codec("lz4_raw").decompress(data[at : at + packed], size))
        at += packed
    return found
