"""A source table with derived columns: features of its values, made while it is read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

import pyarrow as pa

from hybridmu.config import DataSettings
from hybridmu.core.features.derived import Derivation
from hybridmu.errors import DataError
from hybridmu.store.dataset.declarations import as_declared
from hybridmu.store.dataset.source_table import SourceTable, open_table

# Rows that are encoded at once: few enough that progress is told often, and that a first look at rows is short.
_AT_ONCE = 2048


@dataclass(frozen=True, eq=False)
class DerivedTable(SourceTable):
    """A table of a user, with columns that it does not have itself.

    Attributes:
        derivation: What they are made of.
    """

    derivation: Derivation = field(default_factory=Derivation)

    def batches(self, columns: Sequence[str]) -> Iterator[pa.Table]:
        """Yield the rows of some columns, in source order.

        Args:
            columns: Which columns, each once; a derived one is made for some rows at once.

        Yields:
            Tables with rows, all of the same types.

        Raises:
            DataError: As of other tables; or a value can't be encoded.
        """
        made = [name for name in columns if name in self.derivation.names]
        sources = [column.source for column in self.derivation if column.name in made]
        plain = list(dict.fromkeys([name for name in columns if name not in made] + sources))
        before = 0
        for table in super().batches(plain):
            at_once = _AT_ONCE if made else max(1, len(table))
            for start in range(0, max(1, len(table)), at_once):
                part = table.slice(start, at_once)
                extended = self.derivation.extended(part, made, partial(self._called, before + start))
                yield self.derivation.kept(extended).select(columns)
            before += len(table)

    def _called(self, before: int, at: int) -> str:
        return f"row {before + at + 1:,} of {self.url}"

    def first_value(self, name: str) -> pa.Scalar | None:
        """Return the first value of a column that is not null; of a derived one, any is."""
        return super().first_value(name) if name not in self.derivation.names else pa.scalar(True)


def open_source(data: DataSettings, derivation: Derivation, url: str) -> SourceTable:
    """Return a user's table as the configuration declares it, with derived columns.

    Args:
        data: What is declared.
        derivation: Which columns are derived.
        url: File or folder.

    Raises:
        DataError: It can't be read, or as of `with_derived`.
    """
    return with_derived(as_declared(data, open_table(url)), derivation)


def with_derived(table: SourceTable, derivation: Derivation) -> SourceTable:
    """Return a user's table with derived columns.

    Args:
        table: As its files are.
        derivation: Which; none: the table itself is returned.

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
    return DerivedTable(table.url, table.files, table.columns, types, table.stored, derivation)
