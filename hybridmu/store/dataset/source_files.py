"""The files that make a source table: every one below its path, or an error that names what is not part of it.

A folder is a table of plain Parquet files, in any depth and under any name. Folders named `column=value` are a column
of the table, as Hive and Spark write them. Tables whose live files only their own log knows are refused: rows that
were deleted there lie in the folder all the same.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

import pyarrow.fs as pafs

from hybridmu.errors import DataError
from hybridmu.store.storage.storage import open_fs

# What tools leave beside the files of a table; nothing of the table is in them.
_BESIDE = re.compile(
    r"_SUCCESS|_metadata|_common_metadata|_started_.*|_committed_.*|.*\.crc|.*_\$folder\$|\.gitkeep|\.DS_Store|Thumbs\.db"
)
_LOGS = {
    "_delta_log": "a Delta table",
    ".hoodie": "a Hudi table",
    ".hoodie_partition_metadata": "a Hudi table",
    "_temporary": "an unfinished write of Spark",
}
_ICEBERG = re.compile(r".*\.metadata\.json(\.gz)?|.*\.gz\.metadata\.json|version-hint\.text")
_NULL = "__HIVE_DEFAULT_PARTITION__"


@dataclass(frozen=True)
class SourceFile:
    """One file of a table.

    Attributes:
        fs: Its file system.
        path: Its path there.
        name: What messages call it.
        partition: Column → value, from the names of its folders.
    """

    fs: pafs.FileSystem
    path: str
    name: str
    partition: dict[str, str | None] = field(default_factory=dict)


def files_of(url: str) -> tuple[SourceFile, ...]:
    """Return the files of a table in the order of their paths.

    Args:
        url: A file or folder, path or URI.

    Returns:
        At least one.

    Raises:
        DataError: There is nothing, or no plain Parquet table.
    """  # noqa: DOC501 - a function makes one of them
    fs, path = open_fs(url)
    try:
        found = fs.get_file_info(path)
        if found.type == pafs.FileType.NotFound:
            raise _nothing(url)
        _refuse_logs(url, _above(fs, path))
        if found.type == pafs.FileType.File:
            return (SourceFile(fs, path, path),)
        inside = sorted(fs.get_file_info(pafs.FileSelector(path, recursive=True)), key=lambda info: str(info.path))
    except (OSError, ValueError) as error:  # the second: a path that no file system has
        raise DataError(
            f"can't list {url}",
            expected="a Parquet file or folder that may be read",
            got=" ".join(str(error).split())[:300],
            remedy="correct the path, or the rights on it",
        ) from None
    below = [(PurePosixPath(info.path).relative_to(path), info) for info in inside]
    _refuse_logs(url, (name for name, _ in below))
    files = [
        SourceFile(fs, info.path, info.path, _partition(name))
        for name, info in below
        if info.type == pafs.FileType.File and not _BESIDE.fullmatch(name.name)
    ]
    if not files:
        raise DataError(f"the folder {url} holds no Parquet file", expected="at least one", remedy="correct the path")
    _refuse_mixed(files)
    return tuple(files)


def _nothing(url: str) -> DataError:
    if set("*?[") & set(url):
        return DataError(
            f"{url} does not exist, and patterns are not expanded",
            expected="the path of one Parquet file, or of a folder of them",
            remedy="name the folder; everything in it is read",
        )
    expected = "the path of a Parquet file, or of a folder of them"
    return DataError(f"{url} does not exist", expected=expected, remedy="correct the path")


def _above(fs: pafs.FileSystem, path: str) -> Iterator[PurePosixPath]:
    """Yield the marks of table formats in the folders that a path lies in, and the parts of the path itself."""
    paths = {PurePosixPath(path)}
    if isinstance(fs, pafs.LocalFileSystem):
        paths.add(PurePosixPath(Path(path).resolve().as_posix()))
    yield from paths
    for folder in sorted({folder for one in paths for folder in one.parents if folder.name}):
        try:
            marks = fs.get_file_info([str(folder / name) for name in (*_LOGS, "metadata")])
            yield from (PurePosixPath(info.path) for info in marks[:-1] if info.type != pafs.FileType.NotFound)
            if marks[-1].type == pafs.FileType.Directory:
                inside = fs.get_file_info(pafs.FileSelector(marks[-1].path))
                yield from (PurePosixPath(info.path) for info in inside)
        except OSError:  # who may read a table need not be allowed to look around it
            continue


def _refuse_logs(url: str, names: Iterable[PurePosixPath]) -> None:
    for name in names:
        what = next((_LOGS[part] for part in name.parts if part in _LOGS), None)
        if name.parent.name == "metadata" and _ICEBERG.fullmatch(name.name):
            what = "an Iceberg table"
        if what is not None:
            raise DataError(
                f"{url} is part of {what}, not a folder of plain Parquet files",
                expected="Parquet files all of whose rows count",
                got=str(name),
                remedy="only that table's own log says which rows are live: export these with its own engine to "
                "another folder, and name that one",
            )


def _partition(name: PurePosixPath) -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    for part in name.parts[:-1]:
        column, equals, value = part.partition("=")
        if not column or not equals:
            continue
        if unquote(column) in found:
            raise DataError(
                f"two folders of {name} name the column {unquote(column)!r}",
                expected="every partition column once",
                remedy="write the table again",
            )
        found[unquote(column)] = None if value == _NULL else unquote(value)
    return found


def _refuse_mixed(files: Sequence[SourceFile]) -> None:
    for file in files[1:]:
        if list(file.partition) != list(files[0].partition):
            raise DataError(
                f"{file.name} lies in other partition folders than {files[0].name}",
                expected=f"folders named {', '.join(f'{c}=…' for c in files[0].partition) or 'without column=value'}",
                got=", ".join(f"{column}=…" for column in file.partition) or "none",
                remedy="move it, or name the folder of one table",
            )
