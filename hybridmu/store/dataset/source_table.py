"""A source table: files of one format whose columns have one type in all of them, read some rows at a time."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import pyarrow as pa

from hybridmu.core.kernel.column_types import exact, kind_of
from hybridmu.store.dataset.layout import META, given_name, stored_name
from hybridmu.store.dataset.source_columns import Columns, columns_in
from hybridmu.store.dataset.source_files import SourceFile, files_of
from hybridmu.store.dataset.source_readers import opened
from hybridmu.store.dataset.spelled_values import valued
from hybridmu.store.storage.storage import Storage

_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, eq=False)
class SourceTable:
    """Files with one meaning per column.

    Attributes:
        url: Where it is, for messages.
        files: In the order in which they are read.
        columns: What the files say of them. Columns of a pandas index are no data unless somebody names them.
        types: Column → the type in which it is read.
        stored: Whether a file is ours, with columns under the names of the lake.
    """

    url: str
    files: tuple[SourceFile, ...]
    columns: Columns
    types: Mapping[str, pa.DataType]
    stored: bool = False

    @property
    def rows(self) -> int:
        """Return how many rows all files have."""
        return self.columns.rows

    @property
    def spelled(self) -> frozenset[str]:
        """Return the columns whose values are texts, whatever they look like: names of folders, and CSV."""
        return frozenset({*self.folders, *self.columns.spelled})

    @property
    def folders(self) -> list[str]:
        """Return the columns that are names of folders."""
        return list(self.files[0].partition)

    @property
    def names(self) -> list[str]:
        """Return the names of all columns."""
        return list(self.types)

    def type_of(self, name: str) -> pa.DataType:
        """Return the type of a column.

        Raises:
            DataError: A file lacks it, has another type, or names it twice.
        """
        if name in self.columns.broken:
            raise self.columns.broken[name]
        return self.types[name]

    def with_types(self, types: Mapping[str, pa.DataType]) -> SourceTable:
        """Return the table with other types of some columns, to which each value is cast exactly."""
        return replace(self, types={**self.types, **types})

    def batches(self, columns: Sequence[str]) -> Iterator[pa.Table]:
        """Yield the rows of some columns, in source order.

        Args:
            columns: Which columns, each once.

        Yields:
            Tables with rows, all of the same types.

        Raises:
            DataError: A file can't be read, or a value can't be had in the column's type.
        """
        types = {name: self.type_of(name) for name in columns}
        schema = pa.schema(list(types.items()))
        for file in self.files:
            with opened(file) as rows:
                inside = {self._inside(name): name for name in columns}
                wanted = [name for name in inside if inside[name] not in file.partition]
                for batch in rows.batches(wanted):
                    if batch.num_rows:
                        made = [
                            _folder_values(name, file.partition[name], types[name], batch.num_rows, file.name)
                            if name in file.partition
                            else self._values(name, batch.column(stored), types[name], file.name)
                            for stored, name in inside.items()
                        ]
                        yield pa.Table.from_arrays(made, schema=schema)

    def first_value(self, name: str) -> pa.Scalar | None:
        """Return the first value of a column that is not null, None where all are."""
        stored = self._inside(name)
        for file in self.files:
            if name in file.partition:
                if (value := file.partition[name]) is not None:
                    return pa.scalar(value)
                continue
            with opened(file) as rows:
                for batch in rows.batches([stored]):
                    found = batch.column(stored).drop_null()
                    if len(found):
                        return found[0]
        return None

    def remedy(self, missing: Collection[str], otherwise: str) -> str:
        """Return what to do about columns that are not there.

        Args:
            missing: Their names.
            otherwise: What helps where pandas did not leave them out.
        """
        if not self.columns.ranges & set(missing):
            return otherwise
        return "pandas wrote this index as a mere range, without a column: write df.reset_index().to_parquet(…)"

    def _values(self, name: str, values: pa.Array, type_: pa.DataType, where: str) -> pa.Array:
        if values.null_count == len(values):  # a null is one of every type
            return pa.nulls(len(values), type_)
        if kind_of(type_) is None and values.type == type_:  # asked for by what knows such values: pictures
            return values
        if pa.types.is_list(type_):  # the same: features have lists of a known length
            return values.cast(type_)
        if name in self.columns.spelled:
            return valued(name, values, self.columns.types[name], type_, where)
        return exact(name, values, type_, where)

    def _inside(self, name: str) -> str:
        return stored_name(name) if self.stored else name

    def fingerprint(self) -> str:
        """Return a hash of the bytes of all files, by which a repeat is known."""
        found = hashlib.blake2b(digest_size=16)
        for file in self.files:
            for column, value in file.partition.items():
                found.update(json.dumps([column, value]).encode())
            with file.fs.open_input_stream(file.path) as stream:
                while chunk := stream.read(_CHUNK_BYTES):
                    found.update(chunk)
        return found.hexdigest()


def open_table(url: str) -> SourceTable:
    """Return a file or folder as a table, after looking at all its files: at the footers, and at every row of CSV.

    Args:
        url: Path or URI.

    Returns:
        The table.

    Raises:
        DataError: There is none, or one of its files is of no format that is read, or of another than the first.
    """
    return _table(url, files_of(url))


def open_copy(storage: Storage, name: str) -> SourceTable:
    """Return a Parquet file in storage as a table.

    Raises:
        DataError: It is missing or damaged.
        OSError: Storage can't be read now.
    """
    found = _table(name, (SourceFile(storage.fs, storage.path(name), name, format="copy"),))
    types = {given_name(stored): type_ for stored, type_ in found.types.items() if stored not in META}
    return replace(found, types=types, stored=True)


def _table(url: str, files: tuple[SourceFile, ...]) -> SourceTable:
    columns = columns_in(files)
    return SourceTable(url, files, columns, columns.types)


def _folder_values(name: str, value: str | None, type_: pa.DataType, rows: int, where: str) -> pa.Array:
    if value is None:
        return pa.nulls(rows, type_)
    if not pa.types.is_integer(type_):
        return pa.array([value] * rows, type_)
    return exact(name, pa.array([int(value)] * rows, pa.int64()), type_, where)
