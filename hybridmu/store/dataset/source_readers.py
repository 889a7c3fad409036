"""Open files of a source table, one class a format: columns, rows, and batches of some columns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from hybridmu.errors import DataError
from hybridmu.store.dataset.csv_rows import CsvRows
from hybridmu.store.dataset.file_formats import COPY
from hybridmu.store.dataset.list_packing import unpacked, unpacked_field
from hybridmu.store.dataset.source_files import SourceFile

_BATCH_ROWS = 16_384
_STREAM_END = b"\xff\xff\xff\xff\0\0\0\0"


class OpenRows(Protocol):
    """An open file."""

    @property
    def schema(self) -> pa.Schema:
        """Return its columns."""
        ...

    @property
    def rows(self) -> int:
        """Return how many rows it has."""
        ...

    def batches(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Yield some columns of its rows, in their order, some rows at a time."""
        ...


class ParquetRows:
    """An open Parquet file, read a row group at a time: a scanner reads far ahead of us.

    Args:
        stream: The file.
    """

    def __init__(self, stream: Any) -> None:
        self._parquet = pq.ParquetFile(stream, page_checksum_verification=True)

    @property
    def schema(self) -> pa.Schema:
        """Return its columns."""
        return self._parquet.schema_arrow

    @property
    def rows(self) -> int:
        """Return how many rows its footer says it has."""
        return int(self._parquet.metadata.num_rows)

    def batches(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Yield some columns of its rows."""
        for group in range(self._parquet.num_row_groups):
            yield from self._parquet.iter_batches(_BATCH_ROWS, [group], list(columns))


class CopyRows(ParquetRows):
    """An open copy of ours in Parquet, whose lists are bytes (`list_packing.py`)."""

    @property
    def schema(self) -> pa.Schema:
        """Return its columns, lists as lists."""
        return pa.schema([unpacked_field(field) for field in super().schema])

    def batches(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Yield some columns of its rows, lists as lists."""
        for batch in super().batches(columns):
            yield from unpacked(pa.Table.from_batches([batch])).to_batches()


class ArrowRows:
    """An open Arrow IPC file or stream, read a record batch at a time; Arrow trusts their bytes, so we look at them.

    Args:
        stream: The file.
        is_stream: Whether it is a stream, without a footer.
    """

    def __init__(self, stream: Any, is_stream: bool) -> None:
        self._stream, self._is_stream = stream, is_stream
        if is_stream and stream.read_at(8, max(0, stream.size() - 8)) != _STREAM_END:
            raise pa.ArrowInvalid("the stream has no end: its writer was not closed, or the file was cut")
        self.schema = self._opened(None).schema

    @property
    def rows(self) -> int:
        """Return how many rows all batches have."""
        return sum(len(batch) for batch in self._read([0] if len(self.schema) else None))

    def batches(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Yield some columns of its rows."""
        places = [self.schema.get_field_index(name) for name in columns]
        for batch in self._read(sorted(places) or None):
            chosen = batch.select(list(columns))
            chosen.validate(full=True)
            for start in range(0, len(chosen), _BATCH_ROWS):
                yield chosen.slice(start, _BATCH_ROWS)

    def _read(self, fields: list[int] | None) -> Iterator[pa.RecordBatch]:
        reader = self._opened(fields)
        if self._is_stream:
            yield from reader
            return
        for number in range(reader.num_record_batches):
            yield reader.get_batch(number)

    def _opened(self, fields: list[int] | None) -> Any:
        self._stream.seek(0)
        options = pa.ipc.IpcReadOptions(included_fields=fields or [])  # none means all
        return (pa.ipc.open_stream if self._is_stream else pa.ipc.open_file)(self._stream, options=options)


@contextmanager
def opened(file: SourceFile) -> Iterator[OpenRows]:
    """Open a file; what goes wrong while it is read is an error that names it.

    Yields:
        The file.

    Raises:
        DataError: It can't be read.
    """
    try:
        if file.format == "csv":
            yield CsvRows(file)
            return
        with file.fs.open_input_file(file.path) as stream:
            if file.format in {"arrow", "stream"}:
                yield ArrowRows(stream, is_stream=file.format == "stream")
            else:
                yield CopyRows(stream) if file.format == COPY else ParquetRows(stream)
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        words = {"csv": "a CSV file in UTF-8", "arrow": "an Arrow IPC file", "stream": "an Arrow IPC stream"}
        raise DataError(
            f"can't read {file.name}",
            expected=f"{words.get(file.format, 'a Parquet file')}; every file of a folder is part of the table",
            got=" ".join(str(error).split())[:300],
            remedy="move what is no part of the table out of its folder, and write a damaged file again",
        ) from None
