"""A source table with derived columns: features of its values, made while it is read."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import pyarrow as pa

from hybridmu.config import DataSettings
from hybridmu.core.features.derived import Derivation
from hybridmu.core.features.encoding_parts import Encode, Part, here
from hybridmu.errors import DataError
from hybridmu.store.dataset.declarations import as_declared
from hybridmu.store.dataset.source_table import SourceTable, open_table


@dataclass(frozen=True, eq=False)
class DerivedTable(SourceTable):
    """A table of a user, with columns that it does not have itself.

    Attributes:
        derivation: What they are made of.
        encode: Makes them, of some rows at a time.
    """

    derivation: Derivation = field(default_factory=Derivation)
    encode: Encode = here

    def batches(self, columns: Sequence[str]) -> Iterator[pa.Table]:
        """Yield the rows of some columns, in source order.

        Args:
            columns: Which columns, each once; a derived one is made for some rows at once.

        Yields:
            Tables with rows, all of the same types.

        Raises:
            DataError: As of other tables; or a value can't be encoded.
        """
        made = [column for column in self.derivation if column.name in columns]
        names = tuple(column.name for column in made)
        sources = list(dict.fromkeys(column.source for column in made))
        tables = super().batches(list(dict.fromkeys([name for name in columns if name not in names] + sources)))
        if not made:
            for table in tables:
                yield self.derivation.kept(table).select(columns)
            return
        for table in with_features(tables, self.derivation, names, self.encode, self.url):
            yield self.derivation.kept(table).select(columns)

    def first_value(self, name: str) -> pa.Scalar | None:
        """Return the first value of a column that is not null; of a derived one, any is."""
        return super().first_value(name) if name not in self.derivation.names else pa.scalar(True)


def with_features(
    tables: Iterable[pa.Table], derivation: Derivation, names: Sequence[str], encode: Encode, url: str
) -> Iterator[pa.Table]:
    """Yield the rows of tables, some at a time, with derived columns behind their own.

    Args:
        tables: Have what the columns are made of.
        derivation: Their encoders.
        names: Which of its columns, at least one.
        encode: Makes them.
        url: What errors call the tables.
    """
    made = [column for column in derivation if column.name in names]
    sources = list(dict.fromkeys(column.source for column in made))
    at_once = max(column.values.PART for column in made)
    rows: deque[pa.Table] = deque()  # of parts whose features are not here yet

    def parts() -> Iterator[Part]:
        before = 0
        for table in tables:
            for start in range(0, len(table), at_once):
                rows.append(table.slice(start, at_once))
                yield Part(rows[-1].select(sources), tuple(names), before + start + 1, url)
            before += len(table)

    for features in encode(derivation, parts()):
        table = rows.popleft()
        for name in names:
            table = table.append_column(features.schema.field(name), features.column(name))
        yield table


def open_source(data: DataSettings, derivation: Derivation, url: str, encode: Encode | None = None) -> SourceTable:
    """Return a user's table as the configuration declares it, with derived columns.

    Args:
        data: What is declared.
        derivation: Which columns are derived.
        url: File or folder.
        encode: Makes derived columns of some rows at a time; None: this process does.

    Raises:
        DataError: It can't be read, or as of `with_derived`.
    """
    return with_derived(as_declared(data, open_table(url)), derivation, encode)


def with_derived(table: SourceTable, derivation: Derivation, encode: Encode | None = None) -> SourceTable:
    """Return a user's table with derived columns.

    Args:
        table: As its files are.
        derivation: Which; none: the table itself is returned.
        encode: As of `open_source`.

    Raises:
        DataError: It lacks a source, has something else there, or has a column of a derived one's name.
    """
    if not derivation:
        return table
    types = dict(table.types)
    for column in derivation:
        if column.source not in table.names:
            raise DataError(
                f"column {column.source!r}, which features names, is missing",
                got=", ".join(table.names) or "no columns",
                remedy=table.remedy([column.source], "correct features, or add the column"),
            )
        if column.name in table.names:
            raise DataError(
                f"the table has a column named {column.name!r}, as features of {column.source!r} are called",
                remedy="rename the column",
            )
        found = pa.string() if column.source in table.spelled else table.type_of(column.source)
        if pa.types.is_floating(found) and table.first_value(column.source) is None:
            found = pa.null()  # pandas writes a column without any value as numbers
        column.values.check_type(column.source, found)
        types[column.source] = pa.string() if pa.types.is_null(found) else found
        types[column.name] = column.type
    return DerivedTable(table.url, table.files, table.columns, types, table.stored, derivation, encode or here)
