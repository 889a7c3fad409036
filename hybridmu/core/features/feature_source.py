"""FeatureSource: the numbers that a sub-model sees of a row."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np

from hybridmu.errors import DataError

if TYPE_CHECKING:  # a source is named where no row is encoded
    import pyarrow as pa

    from hybridmu.core.kernel.table_encoder import F32, Encoder

# Rows given as column → value, to float32 [n, width]; a DataError where a row can't be read.
RowTransform = Callable[[Sequence[dict[str, Any]]], "F32"]


class TableTransform(Protocol):
    """One pass over tables with the same columns."""

    def __call__(self, table: pa.Table, out: F32 | None = None) -> F32:
        """Return the numbers of a table's rows, float32 [n, width].

        Args:
            table: Any rows with the feature columns, under the user's names.
            out: A place of that shape to write them to, which spares a copy; another array may be returned.

        Raises:
            DataError: A column is missing, or a value is none that it can hold.
        """
        ...


class FeatureSource(ABC):
    """One way to make numbers of rows. Stateless, and fitted on no row.

    A row's numbers are a function of that row and of the declared schema alone: with others they would remember other
    rows, or change when these are removed. They are made again at every reading, so the same values have to give the
    same bits in every process, in a table and in a question to the served model.

    Attributes:
        name: In configurations.
    """

    name: ClassVar[str]

    @abstractmethod
    def width(self, schema: Encoder) -> int:
        """Return how many numbers a row has.

        Args:
            schema: Feature columns of the system, how each is declared, label and classes.
        """

    @abstractmethod
    def of_tables(self, schema: Encoder) -> TableTransform:
        """Return what makes numbers of the rows of Arrow tables: at ingestion, training, updates and audits.

        Args:
            schema: As for `width`.
        """

    @abstractmethod
    def of_rows(self, schema: Encoder, whole: Collection[str]) -> RowTransform:
        """Return what makes numbers of the rows of a question.

        Args:
            schema: As for `width`.
            whole: Columns that hold whole numbers alone: nothing was trained on another number there.
        """


def opened(source: FeatureSource, schema: Encoder) -> TableTransform:
    """Return a source's pass over tables, each result of which is checked, and in its place.

    Args:
        source: The source.
        schema: Of the system.
    """
    transform, width = source.of_tables(schema), source.width(schema)

    def checked(table: pa.Table, out: F32 | None = None) -> F32:
        made = transform(table, out)
        if made.shape != (table.num_rows, width) or made.dtype != np.float32:
            raise DataError(
                f"feature source {source.name} makes something else than it says",
                expected=f"float32 [{table.num_rows}, {width}]",
                got=f"{made.dtype} {list(made.shape)}",
                remedy="mend the feature source; these rows are not at fault",
            )
        if out is not None and made is not out:
            out[:] = made
        return made

    return checked
