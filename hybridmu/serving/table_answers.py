"""Answers to the rows of tables: blocks of columns in, blocks of labels and probabilities out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hybridmu.core.features import image_values, opened
from hybridmu.core.features.table_types import types_to_read
from hybridmu.core.kernel.column_types import exact
from hybridmu.core.kernel.table_encoder import F32, Column, Encoder
from hybridmu.core.targets import outcome_columns
from hybridmu.errors import DataError
from hybridmu.serving.ensemble import Ensemble

BLOCK_ROWS = 16_384
VERSION = b"hybridmu_version"  # in the metadata of an answer's schema
LABEL, PROBABILITY = "label", "probability_"
VALUE, LOW, HIGH = "value", "low", "high"
# Of a combined answer to one target, see `Regression.combine`; the unit between them is nobody's answer.
_VALUE_COLUMNS, _COMBINED = (0, 2, 3), 4
_T = TypeVar("_T")


class TableAnswers:
    """Answers of one version to one table.

    Args:
        ensemble: The version.
        schema: Columns of the table.
        id_name: Its column of ids, which the answer keeps as it is where the table has it.

    Raises:
        DataError: A column is missing, or of a type that the system was not trained on.
    """

    def __init__(self, ensemble: Ensemble, schema: pa.Schema, id_name: str) -> None:
        self._ensemble = ensemble
        columns = ensemble.asked
        for name in [column.name for column in columns] + [id_name]:
            if schema.names.count(name) > 1:
                raise DataError(
                    f"two columns are named {name!r}", expected="every name once", remedy="drop one of them"
                )
        self._types = types_to_read(columns, schema.names, lambda name: schema.field(name).type)
        self._id = id_name if id_name in schema.names else None
        self.schema = answer_schema(ensemble, schema.field(id_name) if self._id else None)

    def batches(self, blocks: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Yield the answers to rows, a block at a time.

        Args:
            blocks: Rows of the table, of any number each.

        Yields:
            Record batches of `schema`.

        Raises:
            DataError: A row can't be answered; its number, counted from 1, and its column are named.
        """
        before = 0
        for block in blocks:
            for start in range(0, len(block), BLOCK_ROWS):
                rows = block.slice(start, BLOCK_ROWS)
                yield self._answer(rows, before)
                before += len(rows)

    def _answer(self, rows: pa.RecordBatch, before: int) -> pa.RecordBatch:
        x = named(self._encode, rows, len(rows), rows.slice, lambda place: f"row {before + place + 1:,}")
        return answer_batch(self._ensemble, x, self.schema, rows.column(self._id) if self._id else None)

    def _encode(self, rows: pa.RecordBatch) -> F32:
        columns = self._ensemble.asked
        made = [self._values(column, rows.column(column.name)) for column in columns]
        table = self._ensemble.encoding().extended(pa.Table.from_arrays(made, [column.name for column in columns]))
        # Once per block: what it remembers of texts would grow with the table.
        return opened(self._ensemble.source, self._ensemble.encoder)(table)

    def _values(self, column: Column, values: pa.Array) -> pa.Array:
        """Return a column's values as training saw them.

        Raises:
            DataError: They are others.
        """
        if column.kind == image_values.KIND:
            return values
        values = exact(column.name, values, self._types[column.name], "these rows")
        is_number = pa.types.is_integer(values.type) or pa.types.is_floating(values.type)
        if column.kind == "bool" and is_number:
            known = pc.is_in(values.drop_null().cast(pa.float64(), safe=False), value_set=pa.array([0.0, 1.0]))
            if not pc.all(known, min_count=0).as_py():
                raise DataError(f"column {column.name!r} has a wrong value", expected="true or false")
            return pc.not_equal(values, 0)
        if column.name in self._ensemble.whole:
            numbers = values.flatten() if column.kind == "list" else values
            if pa.types.is_floating(numbers.type):
                _refuse_parts(column, numbers)
        return values


def answer_schema(ensemble: Ensemble, id_field: pa.Field | None) -> pa.Schema:
    """Return the columns of an answer: the id where there is one; label and a probability for each class, or value,
    low and high, as of a prediction's interval; of several targets, these with the name of each behind.

    Args:
        ensemble: The version that answers.
        id_field: The column of ids.

    Raises:
        DataError: The column of ids has the name of another.
    """
    classes = ensemble.encoder.classes
    names = [f"{PROBABILITY}{name}" for name in classes] if classes else value_columns(ensemble.encoder)
    if id_field is not None and id_field.name in {LABEL, *names}:
        raise DataError(
            f"the id column {id_field.name!r} has the name of a column of the answer",
            expected=f"another name than {LABEL}, {', '.join(names)}",
            remedy="leave the column out of the rows",
        )
    fields = [] if id_field is None else [id_field]
    fields += [pa.field(LABEL, pa.array(classes).type)] if classes else []
    fields += [pa.field(name, pa.float32()) for name in names]
    return pa.schema(fields, metadata={VERSION: str(ensemble.version).encode()})


def value_columns(encoder: Encoder) -> list[str]:
    """Return the names of the columns of an answer of numbers: value, low and high of each target in turn.

    Example:
        >>> from hybridmu.core.targets import TargetEncoder
        >>> value_columns(TargetEncoder.of((), "price"))
        ['value', 'low', 'high']
        >>> value_columns(TargetEncoder.of((), "price", "rent"))
        ['value_price', 'low_price', 'high_price', 'value_rent', 'low_rent', 'high_rent']
    """
    targets, names = outcome_columns(encoder), (VALUE, LOW, HIGH)
    return [f"{name}_{target}" for target in targets for name in names] if len(targets) > 1 else [*names]


def answer_batch(ensemble: Ensemble, x: F32, schema: pa.Schema, ids: pa.Array | None) -> pa.RecordBatch:
    """Return the answers to encoded rows as columns.

    Args:
        ensemble: The version that answers.
        x: float32 [n, features].
        schema: From `answer_schema`.
        ids: The ids of these rows.
    """
    found = ensemble.finite(x)
    made = [] if ids is None else [ids]
    numbers: Sequence[int] = range(found.shape[1])
    if ensemble.encoder.classes:
        made.append(pa.array(ensemble.encoder.classes).take(pa.array(found.argmax(axis=1))))
    else:
        numbers = [start + at for start in range(0, found.shape[1], _COMBINED) for at in _VALUE_COLUMNS]
    made += [pa.array(np.ascontiguousarray(found[:, number])) for number in numbers]
    return pa.RecordBatch.from_arrays(made, schema=schema)


def named(
    encode: Callable[[_T], F32],
    rows: _T,
    count: int,
    part: Callable[[int, int], _T],
    name: Callable[[int], str],
) -> F32:
    """Return encoded rows, or the error of the first row that can't be encoded, with its name.

    Args:
        encode: Encodes rows, each by itself.
        rows: Some rows.
        count: How many there are.
        part: Returns some of them, from a place on.
        name: Returns the name of a row, by its place.

    Returns:
        float32 [n, features].

    Raises:
        DataError: A row can't be encoded.
    """
    try:
        return encode(rows)
    except DataError:
        if not count:
            raise
    good, bad = 0, count  # the first so many can be encoded, and so many can't
    while bad - good > 1:
        middle = (good + bad) // 2
        try:
            encode(part(0, middle))
            good = middle
        except DataError:
            bad = middle
    try:
        return encode(part(good, 1))
    except DataError as error:
        what = f"{name(good)}: {error.what}"
        raise DataError(what, expected=error.expected, got=error.got, remedy=error.remedy) from None


def _refuse_parts(column: Column, numbers: pa.Array) -> None:
    """Refuse what is between two whole numbers, in a column of these; a declared fill is what it is."""  # noqa: DOC501
    found = np.asarray(numbers.drop_null().cast(pa.float64()).to_numpy(zero_copy_only=False))
    fill = float("nan") if column.fill is None else float(column.fill)
    if bool((np.isfinite(found) & (found != np.floor(found)) & (found != fill)).any()):
        raise DataError(
            f"column {column.name!r} has a number that is not whole",
            expected="whole numbers, as in the training table",
        )
