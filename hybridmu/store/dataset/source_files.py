"""The files that make a source table: every one below its path, or an error that names what is not part of it.

A folder is a table of plain Parquet, Arrow IPC or CSV files, all of one format, in any depth. Folders named
`column=value` are a column of the table, as Hive and Spark write them. Tables whose live files only their own log knows
are refused, also where a link leads into one: rows that were deleted there lie in the folder all the same.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from urllib.parse import unquote

import pyarrow.fs as pafs

from hybridmu.errors import DataError
from hybridmu.store.dataset.file_formats import ARROW_MARK, PARQUET_MARKS, WORDS, Format, format_of
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
        format: What it is written in; what no mark or name tells is tried as Parquet.
    """

    fs: pafs.FileSystem
    path: str
    name: str
    partition: dict[str, str | None] = field(default_factory=dict)
    format: Format = "parquet"


def files_of(url: str) -> tuple[SourceFile, ...]:
    """Return the files of a table in the order of their paths.

    Args:
        url: A file or folder, path or URI.

    Returns:
        At least one.

    Raises:
        DataError: There is nothing, or no plain table of one format.
    """  # noqa: DOC501 - a function makes one of them
    fs, path = open_fs(url)
    try:
        found = fs.get_file_info(path)
        if found.type == pafs.FileType.NotFound:
            raise _nothing(url)
        _refuse_logs(url, _above(fs, path))
        if found.type == pafs.FileType.File:
            return (SourceFile(fs, path, path, format=format_of(fs, path)),)
        inside = sorted(_inside(url, fs, found))
        names = [PurePosixPath(place).relative_to(path) for place, _ in inside]
        _refuse_logs(url, names)
        spelled: dict[tuple[str, str | None], str] = {}
        files = [
            SourceFile(fs, place, place, _partition(name, spelled), format_of(fs, place))
            for name, (place, is_file) in zip(names, inside, strict=True)
            if is_file and not _passed_over(fs, place)
        ]
    except (OSError, ValueError) as error:  # the second: a path that no file system has
        raise DataError(
            f"can't list {url}",
            expected="a file or folder that may be read",
            got=" ".join(str(error).split())[:300],
            remedy="correct the path, or the rights on it",
        ) from None
    if not files:
        expected = "at least one file in Parquet, Arrow IPC or CSV"
        raise DataError(f"the folder {url} holds no table file", expected=expected, remedy="correct the path")
    _refuse_mixed(files)
    return tuple(files)


def _inside(url: str, fs: pafs.FileSystem, found: pafs.FileInfo) -> Iterator[tuple[str, bool]]:
    """Yield (path, whether it is a file) of all that is below a folder, links followed.

    Raises:
        DataError: Something there is neither a file nor a folder.
    """  # noqa: DOC501 - a function makes it
    if found.type != pafs.FileType.Directory:
        raise _special(found.path)
    if isinstance(fs, pafs.LocalFileSystem):  # Arrow's own listing leaves links to nothing out
        yield from _below(url, fs, found.path, frozenset())
        return
    for info in fs.get_file_info(pafs.FileSelector(found.path, recursive=True)):
        if info.type not in {pafs.FileType.File, pafs.FileType.Directory}:
            raise _special(info.path)
        yield info.path, info.type == pafs.FileType.File


def _below(url: str, fs: pafs.FileSystem, folder: str, above: frozenset[tuple[int, int]]) -> Iterator[tuple[str, bool]]:
    status = os.stat(folder)
    here = (status.st_dev, status.st_ino)
    if here in above:
        raise DataError(
            f"{folder} leads back to a folder that it lies in",
            expected="every file of the table once",
            remedy="remove this link",
        )
    with os.scandir(folder) as found:
        entries = list(found)
    for entry in entries:
        entry.name.encode()  # what is no UTF-8 can't be opened
        if entry.is_symlink():
            _refuse_logs(url, _above(fs, entry.path))
        if entry.is_dir():
            yield entry.path, False
            yield from _below(url, fs, entry.path, above | {here})
        elif entry.is_file():
            yield entry.path, True
        else:
            raise _special(entry.path)


def _special(path: str) -> DataError:
    link = os.path.islink(path)
    return DataError(
        f"{path} is neither a file nor a folder",
        expected="Parquet files; everything in a folder is part of its table",
        got=f"a link to {os.readlink(path)}, which is not there" if link else "a pipe, socket or device",
        remedy="put a Parquet file in its place, or remove it if it is no part of the table",
    )


def _passed_over(fs: pafs.FileSystem, path: str) -> bool:
    """Return whether a file is one of those that tools leave beside a table, and holds no rows.

    Raises:
        DataError: It has such a name, and is a Parquet file with more than a footer, or an Arrow IPC file.
    """
    if not _BESIDE.fullmatch(PurePosixPath(path).name):
        return False
    with fs.open_input_file(path) as stream:
        size = stream.size()
        ends = (stream.read_at(4, 0), stream.read_at(8, size - 8)) if size > 12 else (b"", b"")
    # A summary of the whole table, as Spark writes it, is nothing but a footer between two marks.
    parquet = ends[0] in PARQUET_MARKS and ends[1][4:] in PARQUET_MARKS
    if (parquet and int.from_bytes(ends[1][:4], "little") + 12 < size) or ends[1].endswith(ARROW_MARK):
        raise DataError(
            f"{path} is {'a Parquet' if parquet else 'an Arrow'} file with the name of what tools leave beside a table",
            expected="a name of its own for every file of the table",
            remedy="rename it if its rows belong to the table, or move it out of the folder",
        )
    return True


def _nothing(url: str) -> DataError:
    if set("*?[") & set(url):
        return DataError(
            f"{url} does not exist, and patterns are not expanded",
            expected="the path of one file, or of a folder of them",
            remedy="name the folder; everything in it is read",
        )
    expected = "the path of a Parquet, Arrow IPC or CSV file, or of a folder of them"
    return DataError(f"{url} does not exist", expected=expected, remedy="correct the path")


def _above(fs: pafs.FileSystem, path: str) -> Iterator[PurePosixPath]:
    """Yield the marks of table formats in the folders that a path lies in, and the parts of the path itself.

    Where it is a link, these are also those of all places on its way.
    """
    paths = {PurePosixPath(path)}
    if isinstance(fs, pafs.LocalFileSystem):
        paths |= {PurePosixPath(place) for place in _places(path)}
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


def _places(path: str) -> Iterator[str]:
    seen = set[str]()
    while os.path.islink(path) and path not in seen:
        seen.add(path)
        path = os.path.join(os.path.dirname(path), os.readlink(path))
        yield path
        yield os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))
    yield os.path.realpath(path)


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


def _partition(name: PurePosixPath, spelled: dict[tuple[str, str | None], str]) -> dict[str, str | None]:
    """Return what the folders of a file say.

    Args:
        name: The file, within its table.
        spelled: (Column, value) → the name of its folder, of all files so far; grows.

    Raises:
        DataError: It can't be told, or two values that may differ would be one.
    """
    found: dict[str, str | None] = {}
    for part in name.parts[:-1]:
        first, equals, last = part.partition("=")
        if not equals:
            continue
        if not first:
            raise DataError(
                f"a folder of {name} names no column",
                expected="column=value",
                got=part,
                remedy="rename it; what it says would be lost",
            )
        column, value = _decoded(name, first), _decoded(name, last)
        if column in found:
            raise DataError(
                f"two folders of {name} name the column {column!r}",
                expected="every partition column once",
                remedy="write the table again",
            )
        found[column] = None if last == _NULL else value
        # `a%` and `a%25` are two values to a tool that writes percent signs as they are.
        if (other := spelled.setdefault((column, found[column]), part)) != part:
            raise DataError(
                f"two folders that differ mean the same value of {column!r}",
                expected="one spelling of every value",
                got=f"{other} and {part}",
                remedy="give both one name if they mean the same; else write the table again, with %25 for %",
            )
    return found


def _decoded(name: PurePosixPath, part: str) -> str:
    """Return a part of a folder's name without percent signs.

    Raises:
        DataError: What they stand for is no UTF-8: any replacement would make one of several values.
    """
    try:
        return unquote(part, errors="strict")
    except UnicodeDecodeError:
        raise DataError(
            f"the percent signs in a folder of {name} stand for no text",
            expected="UTF-8, as Hive and Spark write it",
            got=part,
            remedy="write the table again with names in UTF-8",
        ) from None


def _refuse_mixed(files: Sequence[SourceFile]) -> None:
    for first, file in ((files[0], file) for file in files[1:]):
        if file.format != first.format and {file.format, first.format} != {"parquet", "unknown"}:
            raise DataError(
                f"{file.name} and {first.name} are not of one format",
                expected="files of one format; every file of a folder is part of the table",
                got=f"{WORDS[file.format]}, and {WORDS[first.format]}",
                remedy="move what is no part of the table out of its folder, or write all files in one format",
            )
        if list(file.partition) != list(files[0].partition):
            raise DataError(
                f"{file.name} lies in other partition folders than {files[0].name}",
                expected=f"folders named {', '.join(f'{c}=…' for c in files[0].partition) or 'without column=value'}",
                got=", ".join(f"{column}=…" for column in file.partition) or "none",
                remedy="move it, or name the folder of one table",
            )
