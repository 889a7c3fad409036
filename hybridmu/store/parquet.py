"""Parquet files in storage: pages carry checksums, and a damaged file is an error, never other rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from hybridmu.errors import StorageError
from hybridmu.store.s3 import explain
from hybridmu.store.storage import Storage

# How every file of the lake is written.
WRITING: dict[str, Any] = {"compression": "zstd", "write_page_checksum": True}


@contextmanager
def open_parquet(storage: Storage, name: str) -> Iterator[pq.ParquetFile]:
    """Open a Parquet file whose pages are checked while they are read.

    Args:
        storage: Where it is.
        name: Its name there.

    Yields:
        The file.

    Raises:
        StorageError: It is damaged.
        OSError: The disk or the network fails; `Storage` explains it.
    """  # noqa: DOC501 - a function makes the StorageError
    remote = storage.local is None
    with storage.reading(name) as source:
        try:
            # Reading ahead saves a round trip per column, but holds a copy: only where there are round trips.
            yield pq.ParquetFile(source, pre_buffer=remote, page_checksum_verification=True)
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


def _damaged(storage: Storage, name: str, error: Exception) -> StorageError:
    return StorageError(
        f"{name} in {storage.url} is damaged",
        expected="a whole Parquet file whose pages match their checksums",
        got=" ".join(str(error).split())[:300],
        remedy="restore this file from a backup; nothing is trained or answered from it",
    )
