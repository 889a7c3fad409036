"""Rows of a copy that a manifest excludes, read some at a time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from hybridmu.core.proof.exclusions import Exclusions
from hybridmu.errors import RequestError
from hybridmu.store.dataset.key_lookup import integer_of
from hybridmu.store.dataset.source_table import open_table
from hybridmu.types import KeyKind


class CopyReader:
    """A copy of the data, or of a part of it.

    Args:
        source: Path of a table file or folder.
        exclusions: What is looked for.
        id_column: Its column of ids; None: named as the manifest says.
        group_column: Its column of groups; likewise.

    Attributes:
        rows: How many were read so far.
        excluded: How many of these are excluded.

    Raises:
        RequestError: It lacks a column by which the manifest excludes.
    """

    def __init__(
        self, source: str, exclusions: Exclusions, id_column: str | None = None, group_column: str | None = None
    ) -> None:
        table, columns = open_table(str(Path(source).absolute())), exclusions.manifest.columns
        given: dict[KeyKind, str | None] = {"id": id_column, "group": group_column}
        said = {"id": columns.id, "group": columns.group}
        self._exclusions = exclusions
        self._keys: list[tuple[KeyKind, str, bool]] = []
        for kind in given:
            column = said[kind]
            name = given[kind] or (column.name if column else None)
            if column is not None and name in table.names:
                self._keys.append((kind, name, column.type == "integer"))
            elif exclusions.lists(kind):
                raise RequestError(
                    f"the table has no column of {kind}s, by which the manifest excludes rows",
                    expected=f"a column {name!r}",
                    got=", ".join(table.names)[:200],
                    remedy=f"name it with --{kind} COLUMN",
                )
        # Where ids are texts, they are read as they are written: "007" in a CSV file is no 7.
        spelled = {name: pa.string() for _, name, whole in self._keys if not whole and name in table.spelled}
        self._table = table.with_types(spelled) if spelled else table
        self.rows = self.excluded = 0
        self.schema = pa.schema([(name, self._table.type_of(name)) for name in self._table.names])

    def kept(self) -> Iterator[pa.RecordBatch]:
        """Yield the rows that are not excluded."""
        for block in self._table.batches(list(self._table.names)):
            out = [False] * len(block)
            for kind, name, integers in self._keys:
                values = [_typed(value, integers) for value in block[name].to_pylist()]
                found = self._exclusions.excluded(kind, values)
                out = [one or other for one, other in zip(out, found, strict=True)]
            self.rows += len(out)
            self.excluded += sum(out)
            yield from block.filter(pa.array([not one for one in out], pa.bool_())).to_batches()


def _typed(value: object, integers: bool) -> object:
    """Return a key in the type that the system has it in."""
    if value is None:
        return None
    return integer_of(str(value)) if integers else str(value)
