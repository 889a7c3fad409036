"""Files of answers, in the format that a name says, written block by block: whole, or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from hybridmu.errors import RequestError

Write = Callable[[pa.RecordBatch], None]


def _by_arrow(open_writer: Callable[[BinaryIO, pa.Schema], Any]) -> Callable[..., Any]:
    @contextmanager
    def written(file: BinaryIO, schema: pa.Schema) -> Iterator[Write]:
        with open_writer(file, schema) as writer:
            yield writer.write_batch

    return written


@contextmanager
def _json_lines(file: BinaryIO, _: pa.Schema) -> Iterator[Write]:
    def write(batch: pa.RecordBatch) -> None:
        file.writelines(f"{json.dumps(row)}\n".encode() for row in batch.to_pylist())

    yield write


@contextmanager
def _json(file: BinaryIO, _: pa.Schema) -> Iterator[Write]:
    before = "["

    def write(batch: pa.RecordBatch) -> None:
        nonlocal before
        for row in batch.to_pylist():
            file.write(f"{before}{json.dumps(row)}".encode())
            before = ",\n"

    yield write
    file.write(b"[]\n" if before == "[" else b"]\n")


_WRITERS: dict[str, Any] = {
    ".parquet": _by_arrow(pq.ParquetWriter),
    ".arrow": _by_arrow(pa.ipc.new_file),
    ".feather": _by_arrow(pa.ipc.new_file),
    ".csv": _by_arrow(pacsv.CSVWriter),
    ".json": _json,
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
}


def check_answer_file(path: Path, rows: str) -> None:
    """Check that answers can be written to a file, before they are made.

    Args:
        path: The file.
        rows: Where the rows come from.

    Raises:
        RequestError: Its name says no format, its folder is not there, or it is the rows' own, or in their folder.
    """
    if path.suffix.lower() not in _WRITERS:
        raise RequestError(
            f"the name of {path} says no format", expected=f"a name that ends in {', '.join(_WRITERS)}", got=path.name
        )
    if path.is_dir() or not path.parent.is_dir():
        raise RequestError(f"can't write {path}", expected="a file in a folder that is there")
    if rows != "-" and Path(rows).resolve() in {path.resolve(), *path.resolve().parents}:
        raise RequestError(
            f"the answers would be part of {rows}, or in its place", expected="another place than that of the rows"
        )


def write_answers(reader: pa.RecordBatchReader, path: Path) -> int:
    """Write answers while they are made; an error leaves what was there before.

    Args:
        reader: The answers.
        path: The file; one that is there is replaced.

    Returns:
        How many rows it has.
    """
    rows, part = 0, path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("xb") as file:
            with _WRITERS[path.suffix.lower()](file, reader.schema) as write:
                for batch in reader:
                    write(batch)
                    rows += len(batch)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        with suppress(OSError):
            part.unlink()
        raise
    return rows
