"""Columns of a source table, brought together from all its files: one type for each, or why it can't be used."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce

import pyarrow as pa

from hybridmu.core.kernel.column_types import common, kept, other_type
from hybridmu.errors import DataError
from hybridmu.store.dataset.source_files import SourceFile
from hybridmu.store.dataset.source_readers import OpenRows, opened
from hybridmu.store.dataset.spelled_values import Spelling, spelling_of

_PANDAS_INDEX = re.compile(r"__index_level_\d+__")
_INT64 = range(-(2**63), 2**63)


@dataclass(frozen=True, eq=False)
class Columns:
    """What the footers of all files say.

    Attributes:
        types: Column → the type that the lake keeps, in the order of the first file; a list whose length is not known
            yet has none.
        broken: Column → why it can't be used.
        index: Columns that pandas wrote of its index.
        ranges: Names of an index that pandas wrote without a column, as the range that its values make.
        rows: How many rows all files have.
        spelled: Column → how its values are spelled, in files that hold text alone.
        required: Columns that no file lets be null.
    """

    types: Mapping[str, pa.DataType]
    broken: Mapping[str, DataError]
    index: frozenset[str]
    ranges: frozenset[str]
    rows: int
    spelled: Mapping[str, Spelling]
    required: frozenset[str]

    @property
    def named_index(self) -> list[str]:
        """Return the names that somebody gave the index of pandas."""
        return [name for name in self.types if name in self.index and not _PANDAS_INDEX.fullmatch(name)] + sorted(
            self.ranges - self.types.keys()
        )


def columns_in(files: Sequence[SourceFile]) -> Columns:
    """Return the columns of some files.

    Args:
        files: At least one.

    Returns:
        One type for each column. A file without a value in it has no say: pandas writes an empty column as numbers.

    Raises:
        DataError: One can't be read.
    """
    folders = _folder_types(files)
    found: dict[str, dict[pa.DataType, None]] = {}
    broken, rows = dict[str, DataError](), 0
    index, ranges = set[str](), set[str]()
    schemas: list[pa.Schema] = []
    spelled: dict[str, Spelling] = {}
    nullable: set[str] = set()
    for file in files:
        with opened(file) as found_rows:
            schema, rows = found_rows.schema, rows + found_rows.rows
            if file.format == "csv":
                _add_spellings(spelled, found_rows)
            nullable |= {field.name for field in schema if field.nullable}  # here: a name may be no UTF-8
        columns, lost = _index_columns(schema)
        index, ranges = index | columns, ranges | lost
        if schemas and schema.equals(schemas[-1]):
            schemas.append(schemas[-1])
            continue
        _look(file, schema, folders, found, broken, is_first=not schemas)
        schemas.append(schema)
    types = {name: next(iter(kinds), pa.null()) for name, kinds in found.items()}
    types |= _brought_together(files, schemas, {n: list(k) for n, k in found.items() if len(k) > 1}, broken)
    types |= {name: spelling.type for name, spelling in spelled.items()}
    required = frozenset(types.keys() - nullable)
    return Columns(types | folders, broken, frozenset(index), frozenset(ranges), rows, spelled, required)


def _add_spellings(spelled: dict[str, Spelling], rows: OpenRows) -> None:
    """Note how one more file spells its values; a column that stands twice is refused elsewhere."""
    names = [name for name in rows.schema.names if rows.schema.names.count(name) == 1]
    for batch in rows.batches(names):
        for name in names:
            spelled[name] = spelled.get(name, Spelling()) + spelling_of(batch.column(name))
    for name in names:
        spelled.setdefault(name, Spelling())


def _look(
    file: SourceFile,
    schema: pa.Schema,
    folders: Collection[str],
    found: dict[str, dict[pa.DataType, None]],
    broken: dict[str, DataError],
    *,
    is_first: bool,
) -> None:
    """Note the types of one more file, and what is wrong with its columns."""
    names = frozenset(schema.names)
    for name in names.intersection(folders):
        broken[name] = DataError(
            f"{file.name} has the column {name!r}, and lies in a folder of that name",
            expected="a column in the file, or folders named column=value",
            remedy="rename one of them",
        )
    for name in {name for name in names if schema.names.count(name) > 1} if len(names) < len(schema.names) else ():
        broken[name] = DataError(
            f"{file.name} has two columns named {name!r}",
            expected="every name once",
            remedy="rename or drop one of them",
        )
    for field in schema:
        if not is_first and field.name not in found:
            broken[field.name] = _lacks(field.name, "the first file", f"{file.name} has it")
        kinds = found.setdefault(field.name, {})
        if not pa.types.is_null(field.type):
            kinds[kept(field.type)] = None
    for name in found.keys() - names:
        broken.setdefault(name, _lacks(name, file.name, "the other files have it"))


def _brought_together(
    files: Sequence[SourceFile],
    schemas: Sequence[pa.Schema],
    mixed: Mapping[str, Sequence[pa.DataType]],
    broken: dict[str, DataError],
) -> dict[str, pa.DataType]:
    """Return one type for each column that has several, after looking which files have values in it."""
    for name, kinds in mixed.items():
        if any(isinstance(kind, pa.BaseExtensionType) for kind in kinds):  # its reader may run foreign code
            broken.setdefault(name, other_type(name, "another file", *kinds[:2]))
    names = [name for name in mixed if name not in broken]
    types: dict[str, pa.DataType | None] = dict.fromkeys(names, pa.null())
    for file, schema in zip(files, schemas, strict=True) if names else ():
        for name in _with_values(file, [name for name in names if name not in broken]):
            known, type_ = types[name], kept(schema.field(name).type)
            types[name] = common(known, type_)
            if types[name] is None:
                broken[name] = other_type(name, file.name, known, type_)
    empty = [name for name in names if types[name] == pa.null()]
    types |= {name: reduce(lambda a, b: a and common(a, b), mixed[name]) for name in empty}
    return {name: type_ or pa.null() for name, type_ in types.items()}


def _with_values(file: SourceFile, names: Sequence[str]) -> list[str]:
    """Return those columns that have a value in a file."""
    left = list(names)
    with opened(file) as rows:
        for batch in rows.batches(names) if names else ():
            left = [name for name in left if batch.column(name).null_count == len(batch)]
            if not left:
                break
    return [name for name in names if name not in left]


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


def _index_columns(schema: pa.Schema) -> tuple[set[str], set[str]]:
    """Return the columns of a pandas index, and the names of those levels that it wrote none for.

    The former are those that its metadata names, and those that have a name of its making.
    """
    made = {name for name in schema.names if _PANDAS_INDEX.fullmatch(name)}
    try:
        levels = json.loads((schema.metadata or {}).get(b"pandas", b"{}")).get("index_columns", [])
        ranges = {level.get("name") for level in levels if isinstance(level, dict)}
        named = {level for level in levels if isinstance(level, str)}
        return made | named, {name for name in ranges if isinstance(name, str)}
    except (ValueError, AttributeError, TypeError, RecursionError):  # it is not pandas' metadata
        return made, set()
