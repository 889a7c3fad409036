"""Rewriting tables: without rows that go, and without values that stand apart from any row.

Earlier releases kept the dictionaries of source columns: each table held every value of such a column, also of rows in
other shards and of rows that were purged since.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from hybridmu.errors import PurgeError, StorageError
from hybridmu.store.dataset.lake import Lake
from hybridmu.store.dataset.layout import INCOMING, LAYOUT
from hybridmu.store.storage.parquet import TableWriter, open_parquet, publish_parquet, values_apart
from hybridmu.store.storage.parquet_pages import ParquetParts
from hybridmu.store.storage.storage import FileInfo, Storage

_FOLDER = "lake"
Beat = Callable[[], None]
Gone = Callable[[pa.Table], npt.NDArray[np.bool_]]


def is_current(lake: Lake) -> bool:
    """Return whether every table was written, or rewritten, by a release that keeps values in rows alone."""
    return not lake.exists or lake.storage.exists(LAYOUT)


def outdated(lake: Lake) -> list[str]:
    """Return the tables, indexes and waiting copies that may keep values apart from their rows."""
    return [info.name for info in _tables(lake) if stands_apart(lake.storage, info)]


def stands_apart(storage: Storage, file: FileInfo) -> bool:
    """Return whether a table may hold values that stand in none of its rows: its footer doesn't rule it out.

    Args:
        storage: Where it is.
        file: A Parquet file there.
    """
    return _stands_apart(storage.url, file.name, file.size, file.mtime_ns)


def rewrite_tables(lake: Lake, beat: Beat = lambda: None) -> int:
    """Write again, once, what `outdated` names; rows, their order and every bit that is trained on stay.

    A crash leaves each file as it was or as it is to be; a repeated call goes on.

    Args:
        lake: Nobody else is at work on it.
        beat: Called again and again meanwhile.

    Returns:
        How many files were rewritten.

    Raises:
        StorageError: A file is damaged; the others are done.
    """
    done, broken = 0, None
    for info in list(_tables(lake)):
        beat()
        try:
            if stands_apart(lake.storage, info):
                rewrite(lake.storage, info.name, beat=beat)
                done += 1
        except StorageError as error:
            broken = error
    if broken is not None:
        raise broken
    if lake.exists and not lake.storage.exists(LAYOUT):
        lake.storage.write(LAYOUT, b"1")
    return done


def rewrite(
    storage: Storage,
    name: str,
    gone: Gone | None = None,
    beat: Beat = lambda: None,
) -> int:
    """Return how many rows left a table when it was written again, row group by row group.

    Args:
        storage: Where it is.
        name: Its name there.
        gone: Says which rows go, bool [n]; it stays as it is when there are none. None: it is written again as it is.
        beat: Called between row groups.

    Raises:
        PurgeError: What was written holds values of no row.
    """
    dropped = 0
    with storage.staging() as folder:
        target = folder / "rewritten.parquet"
        with open_parquet(storage, name) as file, TableWriter(target, file.schema_arrow) as writer:
            for number in range(file.num_row_groups):
                beat()
                table = file.read_row_group(number, use_threads=False)
                left = table if gone is None else table.filter(pa.array(~gone(table)))
                dropped += len(table) - len(left)
                if len(left):
                    writer.write(left, row_group_size=len(left))
        if gone is not None and not dropped:
            return 0
        with target.open("rb") as made:
            if unused := list(unused_values(made)):
                raise PurgeError(
                    f"{name} would hold values of no row",
                    expected="dictionaries of what rows hold",
                    got=", ".join(sorted(set(unused))[:3]),
                    remedy="tell the authors: the Parquet library wrote more than it was given",
                )
        publish_parquet(storage, target, name)  # once the file is closed: a reader sees that it was replaced
    return dropped


def unused_values(source: object) -> Iterator[str]:
    """Yield the columns of a Parquet file whose dictionaries hold more values than their rows.

    Args:
        source: The file, open and seekable.
    """
    parts = ParquetParts(source)
    file = pq.ParquetFile(source)
    for chunk in parts.chunks():
        held = sum(page.values for page in parts.pages(chunk) if page.dictionary)
        if held:
            table = file.read_row_group(chunk.row_group, columns=[".".join(chunk.path)], use_threads=False)
            values = pa.chunked_array([_leaf(part, chunk.path[1:]) for part in table.column(0).chunks])
            if held > len(pc.unique(values).drop_null()):
                yield ".".join(chunk.path)


def _leaf(array: pa.Array, path: Sequence[str]) -> pa.Array:
    """Return the values of a nested column that a path of Parquet names."""
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if pa.types.is_struct(array.type):
        index = array.type.get_field_index(path[0])
        return _leaf(array.flatten()[index], path[1:])
    if pa.types.is_nested(array.type):  # the keys or values of a map alone are a list of structs
        return _leaf(array.flatten(), path[1:] if path[0] == "key_value" else path[2:])
    return array


def _tables(lake: Lake) -> Iterator[FileInfo]:
    names = lake.names()
    for info in lake.storage.list(_FOLDER):
        if info.name in names:
            yield info
    for info in lake.storage.list(INCOMING):
        if info.name.endswith(".parquet"):
            yield info


@lru_cache(maxsize=1 << 16)
def _stands_apart(url: str, name: str, size: int, mtime_ns: int) -> bool:
    with open_parquet(Storage(url), name) as file:
        return values_apart(file.schema_arrow) is not None
