"""Formats of table files, told by the marks in a file; CSV, which has none, by its name."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Literal

import pyarrow.fs as pafs

COPY = "copy"  # in Parquet, of ours
Format = Literal["parquet", "arrow", "stream", "csv", "copy", "unknown"]
WORDS = {
    "parquet": "Parquet",
    "arrow": "Arrow IPC (Feather)",
    "stream": "an Arrow IPC stream",
    "csv": "CSV",
    COPY: "a copy of ours in Parquet",
    "unknown": "neither Parquet nor Arrow IPC, and not named .csv",
}
PARQUET_MARKS = {b"PAR1", b"PARE"}
ARROW_MARK = b"ARROW1"
_STREAM_MARK = b"\xff\xff\xff\xff"


def format_of(fs: pafs.FileSystem, path: str) -> Format:
    """Return the format of a file.

    Args:
        fs: Its file system.
        path: Its path there.

    Returns:
        What its marks say, whatever its name; else what its name says.
    """
    with fs.open_input_file(path) as stream:
        size = stream.size()
        start = stream.read_at(min(size, 8), 0)
        end = stream.read_at(min(size, 8), max(0, size - 8))
    is_csv = PurePosixPath(path).suffix.lower() == ".csv"
    if start[:4] in PARQUET_MARKS and (end[4:] in PARQUET_MARKS or not is_csv):
        return "parquet"
    if start.startswith(ARROW_MARK) and (end.endswith(ARROW_MARK) or not is_csv):
        return "arrow"
    if start.startswith(_STREAM_MARK):  # no text in UTF-8 begins so
        return "stream"
    return "csv" if is_csv else "unknown"
