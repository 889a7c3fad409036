"""A source table: Parquet files whose columns have one type in all of them, read some rows at a time."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain

import pyarrow as pa
import pyarrow.parquet as pq

from hybridmu.core.kernel.column_types import common, exact, kept, other_type
from hybridmu.errors import DataError
from hybridmu.store.dataset.layout import META, given_name, stored_name
from hybridmu.store.dataset.source_files import SourceFile, files_of
from hybridmu.store.storage.storage import Storage

_BATCH_ROWS = 16_384
_CHUNK_BYTES = 1 << 20
_PANDAS_INDEX = re.compile(r"__index_level_\d+__")
_INT64 = range(-(2**63), 2**63)


@dataclass(frozen=True, eq=False)
class SourceTable:
    """Files with one meaning per column.

    Attributes:
        url: Where it is, for messages.
        files: In the order in which they are read.
        types: Column → the type that the lake keeps, in the order of the first file; a list whose length is not known
            yet has none.
        broken: Column → why it can't be used.
        index: Columns that pandas wrote of its index; they are no data unless somebody names them.
        rows: How many rows all files have.
        stored: Whether a file is ours, with columns under the names of the lake.
    """

    url: str
    files: tuple[SourceFile, ...]
    types: Mapping[str, pa.DataType]
    broken: Mapping[str, DataError]
    index: frozenset[str]
    rows: int
    stored: bool = False

    @property
    def names(self) -> list[str]:
        """Return the names of all columns."""
        return list(self.types)

    def type_of(self, name: str) -> pa.DataType:
        """Return the type of a column.

        Raises:
            DataError: A file lacks it, has another type, or names it twice.
        """
        if name in self.broken:
            raise self.broken[name]
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
        schema = pa.schema([(name, self.type_of(name)) for name in columns])
        for file in self.files:
            with _opened(file) as parquet:
                inside = {(stored_name(name) if self.stored else name): name for name in columns}
                wanted = [name for name in inside if inside[name] not in file.partition]
                # One row group at a time: a scanner reads far ahead of us.
                groups = range(parquet.num_row_groups)
                for batch in chain.from_iterable(map(partial(_batches, parquet, wanted), groups)):
                    if batch.num_rows:
                        made = [
                            _folder_values(file.partition[name], schema.field(name).type, batch.num_rows)
                            if name in file.partition
                            else exact(name, batch.column(stored), schema.field(name).type, file.name)
                            for stored, name in inside.items()
                        ]
                        yield pa.Table.from_arrays(made, schema=schema)

    def first_value(self, name: str) -> pa.Scalar | None:
        """Return the first value of a column that is not null, None where all are."""
        for file in self.files if name not in self.files[0].partition else ():
            with _opened(file) as parquet:
                for group in range(parquet.num_row_groups):
                    for batch in _batches(parquet, [name], group):
                        found = batch.column(name).drop_null()
                        if len(found):
                            return found[0]
        return None

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
    """Return a Parquet file or folder as a table, after reading the footers of all its files.

    Args:
        url: Path or URI.

    Returns:
        The table.

    Raises:
        DataError: There is none, or one of its files is no Parquet file.
    """
    return _table(url, files_of(url))


def open_copy(storage: Storage, name: str) -> SourceTable:
    """Return a Parquet file in storage as a table.

    Raises:
        DataError: It is missing or damaged.
        OSError: Storage can't be read now.
    """
    found = _table(name, (SourceFile(storage.fs, storage.path(name), name),))
    types = {given_name(stored): type_ for stored, type_ in found.types.items() if stored not in META}
    return replace(found, types=types, stored=True)


def _table(url: str, files: tuple[SourceFile, ...]) -> SourceTable:
    types: dict[str, pa.DataType] = _folder_types(files)
    given, broken, index, rows = tuple(types), dict[str, DataError](), set[str](), 0
    first: pa.Schema | None = None
    last: pa.Schema | None = None
    for file in files:
        with _opened(file) as parquet:
            schema, metadata = parquet.schema_arrow, parquet.metadata
            rows += metadata.num_rows
            index |= _index_columns(schema)
        if last is not None and schema.equals(last):
            continue
        for name in [name for name in schema.names if name in given]:
            broken[name] = DataError(
                f"{file.name} has the column {name!r}, and lies in a folder of that name",
                expected="a column in the file, or folders named column=value",
                remedy="rename one of them",
            )
        for name in {name for name in schema.names if schema.names.count(name) > 1} if _doubled(schema) else ():
            broken[name] = DataError(
                f"{file.name} has two columns named {name!r}",
                expected="every name once",
                remedy="rename or drop one of them",
            )
        _merge(types, broken, file, schema, first)
        first, last = first or schema, schema
    types |= {name: types.pop(name) for name in given}  # they come last, as everywhere
    return SourceTable(url, files, types, broken, frozenset(index), rows)


def _doubled(schema: pa.Schema) -> bool:
    return len(set(schema.names)) < len(schema.names)


def _merge(
    types: dict[str, pa.DataType],
    broken: dict[str, DataError],
    file: SourceFile,
    schema: pa.Schema,
    first: pa.Schema | None,
) -> None:
    """Bring the types of one more file together with those of the files before it."""
    for field in schema:
        found = kept(field.type)
        if first is None:
            types.setdefault(field.name, found)
        elif field.name not in types:
            types[field.name] = found
            broken[field.name] = _lacks(field.name, "the first file", f"{file.name} has it")
        elif (both := common(types[field.name], found)) is None:
            broken.setdefault(field.name, other_type(field.name, file.name, types[field.name], found))
        else:
            types[field.name] = both
    for name in types.keys() - set(schema.names) - set(file.partition):
        broken.setdefault(name, _lacks(name, file.name, "the other files have it"))


def _lacks(name: str, where: str, else_: str) -> DataError:
    return DataError(
        f"{where} lacks columns {[name]}",
        expected="the same columns in all files of a table",
        got=else_,
        remedy="write the files again, or name the columns that all of them have in data.features",
    )


def _folder_types(files: Sequence[SourceFile]) -> dict[str, pa.DataType]:
    """Return the types of partition columns: integers where every value of all folders is one, else text."""
    types = {}
    for name in files[0].partition:
        values = [value for file in files if (value := file.partition[name]) is not None]
        types[name] = pa.int64() if values and all(map(_is_integer, values)) else pa.string()
    return types


def _is_integer(text: str) -> bool:
    try:
        return str(int(text)) == text and int(text) in _INT64
    except ValueError:
        return False


def _folder_values(value: str | None, type_: pa.DataType, rows: int) -> pa.Array:
    if value is None:
        return pa.nulls(rows, type_)
    return pa.array([int(value) if pa.types.is_integer(type_) else value] * rows, type_)


def _index_columns(schema: pa.Schema) -> set[str]:
    """Return the columns of a pandas index: those that its metadata names, and those that have a name of its making."""
    made = {name for name in schema.names if _PANDAS_INDEX.fullmatch(name)}
    try:
        named = json.loads((schema.metadata or {}).get(b"pandas", b"{}")).get("index_columns", [])
        return made | {name for name in named if isinstance(name, str)}
    except (ValueError, AttributeError, TypeError):  # whoever wrote it, it is not pandas' metadata
        return made


def _batches(parquet: pq.ParquetFile, columns: Sequence[str], group: int) -> Iterator[pa.RecordBatch]:
    return iter(parquet.iter_batches(_BATCH_ROWS, [group], list(columns)))


@contextmanager
def _opened(file: SourceFile) -> Iterator[pq.ParquetFile]:
    """Open a file; what goes wrong while it is read is an error that names it.

    Yields:
        The file.

    Raises:
        DataError: It can't be read.
    """
    try:
        with file.fs.open_input_file(file.path) as stream:
            yield pq.ParquetFile(stream, page_checksum_verification=True)
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        raise DataError(
            f"can't read {file.name}",
            expected="a Parquet file; every file of a folder is part of the table",
            got=" ".join(str(error).split())[:300],
            remedy="move what is no part of the table out of its folder, and write a damaged file again",
        ) from None
