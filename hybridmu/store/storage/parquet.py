"""Parquet files in storage: a damaged file is an error, never other rows; values are in rows alone.

Pages carry checksums. The footer, which says where they are, has none in the format: its digest is written between the
last page and the footer, where no reader of Parquet looks.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq

from hybridmu.errors import StorageError
from hybridmu.store.storage.file_modes import create
from hybridmu.store.storage.plain_tables import plain, plain_schema
from hybridmu.store.storage.s3 import explain
from hybridmu.store.storage.storage import Storage

_SEAL_BYTES = 16
_ENDING_BYTES = 8  # length of the footer, and a magic word
_TAIL_BYTES = 1 << 16
# Says of a file that it came through `TableWriter`; what earlier releases wrote lacks it.
_LAYOUT = {b"hybridmu.layout": b"1"}


class TableWriter:
    """The one way in which tables are written: `plain` rows, and a footer that says so.

    Pages still have dictionaries where values repeat. They are made again from the rows of each row group, so they hold
    what these rows hold and nothing else.

    Args:
        path: A file on this machine, replaced if it is there.
        schema: Of the tables that come; they are made plain, and their metadata is dropped.
    """

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        made = plain_schema(schema, _LAYOUT)
        create(path)
        self._writer = pq.ParquetWriter(path, made, **writing(made))

    def write(self, table: pa.Table, row_group_size: int | None = None) -> None:
        """Append rows.

        Args:
            table: Of the writer's schema.
            row_group_size: Most rows of a row group; a million by default.
        """
        self._writer.write_table(plain(table), row_group_size=row_group_size)

    def close(self) -> None:
        """Finish the file; only then it is read."""
        self._writer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def write_parquet(path: Path, table: pa.Table) -> None:
    """Write a whole table with `TableWriter`."""
    with TableWriter(path, table.schema) as writer:
        writer.write(table)


def values_apart(schema: pa.Schema) -> str | None:
    """Return what a file has that `TableWriter` would not have written, or None.

    Args:
        schema: Arrow schema of the file, as its footer says.
    """
    if not schema.equals(plain_schema(schema, schema.metadata), check_metadata=True):
        return "a dictionary, or the metadata of a column"
    if (schema.metadata or {}) != _LAYOUT:
        return "other metadata than this release writes"
    return None


def writing(schema: pa.Schema) -> dict[str, Any]:
    """Return the options with which every file of the lake is written.

    LZ4 is read in a third of zstd's time and takes a quarter more room. Pages have dictionaries where values repeat;
    digests and numbers are read faster without.

    Args:
        schema: Of the file.

    Returns:
        Arguments of `pyarrow.parquet.ParquetWriter`.
    """
    words = [field.name for field in schema if pa.types.is_dictionary(field.type) or _is_text(field.type)]
    lists = [f"{field.name}.list.element" for field in schema if pa.types.is_fixed_size_list(field.type)]
    return {"compression": "lz4", "write_page_checksum": True, "use_dictionary": words + lists}


def publish_parquet(storage: Storage, source: Path, name: str) -> None:
    """Seal a finished Parquet file of this machine, and move it into storage.

    Args:
        storage: Where it goes.
        source: A file in a folder of `storage.staging`; it is gone afterwards.
        name: Its name there; an existing file is replaced.
    """
    seal_footer(source)
    storage.publish(source, name)


def seal_footer(path: Path) -> None:
    """Write the hash of a finished Parquet file's footer in front of it; `open_parquet` asks for it."""
    with path.open("r+b") as file:
        size = file.seek(0, 2)
        file.seek(size - _ENDING_BYTES)
        start = size - _ENDING_BYTES - int.from_bytes(file.read(4), "little")
        file.seek(start)
        footer = file.read()
        file.seek(start)
        file.write(_seal(footer) + footer)


@contextmanager
def open_parquet(storage: Storage, name: str, *, coded: bool = False) -> Iterator[pq.ParquetFile]:
    """Open a Parquet file whose pages are checked while they are read.

    Args:
        storage: Where it is.
        name: Its name there.
        coded: Read text as dictionaries and indices, which takes less than making every value again.

    Yields:
        The file.

    Raises:
        StorageError: It is damaged.
        OSError: The disk or the network fails; `Storage` explains it.
    """  # noqa: DOC501 - a function makes the StorageError
    remote = storage.local is None
    with storage.reading(name) as source:
        try:
            footer = pq.read_metadata(pa.BufferReader(_footer(source)))
            # Reading ahead saves a round trip per column, but holds a copy: only where there are round trips.
            texts = [field.name for field in footer.schema.to_arrow_schema() if _is_text(field.type)] if coded else []
            yield pq.ParquetFile(
                source, metadata=footer, read_dictionary=texts, pre_buffer=remote, page_checksum_verification=True
            )
        except OSError as error:
            if error.errno or (remote and explain(str(error))):
                raise
            raise _damaged(storage, name, error) from error
        except pa.ArrowInvalid as error:
            raise _damaged(storage, name, error) from error


def read_parquet(storage: Storage, name: str, columns: Sequence[str] | None = None) -> pa.Table:
    """Return a whole file, or some of its columns."""

    def read() -> pa.Table:
        with open_parquet(storage, name) as file:
            return file.read(None if columns is None else list(columns))

    return storage.settled(read)


def _footer(source: Any) -> bytes:
    """Return a file's footer, to its end.

    Raises:
        ArrowInvalid: It does not match its seal.
    """
    size = int(source.size())
    wanted = _TAIL_BYTES
    while True:
        source.seek(max(0, size - wanted))
        tail = bytes(source.read(wanted))
        length = int.from_bytes(tail[-_ENDING_BYTES:-4], "little") + _ENDING_BYTES
        if length + _SEAL_BYTES <= len(tail):
            break
        if length + _SEAL_BYTES > size:
            raise pa.ArrowInvalid("the file is cut off, or its last bytes are changed")
        wanted = length + _SEAL_BYTES
    footer = tail[-length:]
    if _seal(footer) != tail[-length - _SEAL_BYTES : -length]:
        raise pa.ArrowInvalid("the footer does not match its seal")
    return footer


def _is_text(type_: pa.DataType) -> bool:
    return bool(pa.types.is_string(type_) or pa.types.is_large_string(type_))


def _seal(footer: bytes) -> bytes:
    return hashlib.blake2b(footer, digest_size=_SEAL_BYTES, person=b"parquet footer").digest()


def _damaged(storage: Storage, name: str, error: Exception) -> StorageError:
    return StorageError(
        f"{name} in {storage.url} is damaged",
        expected="a whole Parquet file whose pages match their checksums",
        got=" ".join(str(error).split())[:300],
        remedy="restore this file from a backup; nothing is trained or answered from it",
    )
