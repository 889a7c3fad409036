"""Answers to rows given as column → value, some at a time, as blocks of labels and probabilities."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from typing import Any

import pyarrow as pa

from hybridmu.errors import DataError
from hybridmu.serving.ensemble import Ensemble
from hybridmu.serving.table_answers import BLOCK_ROWS, answer_batch, answer_schema, named

Row = dict[str, Any]


class RowAnswers:
    """Answers of one version to rows.

    Args:
        ensemble: The version.
        rows: The rows; read when they are answered, a block at a time.
        id_name: Their column of ids, which the answer keeps as it is where the first row has it.

    Raises:
        DataError: One of the first rows is no mapping, or their ids are not of one type.
    """

    def __init__(self, ensemble: Ensemble, rows: Iterable[Row], id_name: str) -> None:
        self._ensemble, self._rows, self._id = ensemble, _mappings(rows), id_name
        self._first = list(islice(self._rows, BLOCK_ROWS))
        self._has_ids = bool(self._first) and id_name in self._first[0]
        ids = self._ids(self._first, 0, None) if self._has_ids else None
        self.schema = answer_schema(ensemble, None if ids is None else pa.field(id_name, ids.type))

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Yield the answers.

        Yields:
            Record batches of `schema`.

        Raises:
            DataError: A row can't be answered; its number, counted from 1, and its column are named.
        """
        before, block = 0, self._first
        while block:
            x = encoded(self._ensemble, block, lambda place, before=before: f"row {before + place + 1:,}")
            ids = self._ids(block, before, self.schema.field(0).type) if self._has_ids else None
            yield answer_batch(self._ensemble, x, self.schema, ids)
            before += len(block)
            block = list(islice(self._rows, BLOCK_ROWS))

    def _ids(self, rows: Sequence[Row], before: int, type_: pa.DataType | None) -> pa.Array:
        """Return the ids of rows, as they are.

        Raises:
            DataError: A row has none, or they are not of one type.
        """
        for place, row in enumerate(rows):
            value = row.get(self._id)
            if not isinstance(value, (int, str)) or isinstance(value, bool):
                what = f"row {before + place + 1:,} has no {self._id}" if value is None else "an id is of another type"
                raise DataError(what, expected="an integer or a text in every row, or in none")
        try:
            return pa.array([row[self._id] for row in rows], type_)
        except (pa.ArrowException, TypeError, OverflowError):
            raise DataError("the ids are not of one type", expected="integers of 64 bits, or texts") from None


def _mappings(rows: Iterable[Row]) -> Iterator[Row]:
    """Yield rows that are some.

    Raises:
        DataError: One is none.
    """
    for place, row in enumerate(rows):
        if not isinstance(row, Mapping) or not all(isinstance(name, str) for name in row):
            raise DataError(f"row {place + 1:,} is not a mapping", expected='{"column": value, …}')
        yield dict(row)


def encoded(ensemble: Ensemble, rows: list[Row], name: Any) -> Any:
    """Return encoded rows, or the error of the first that can't be encoded.

    Args:
        ensemble: Encodes them.
        rows: The rows.
        name: Returns what an error calls a row, by its place.

    Returns:
        float32 [n, features].
    """
    return named(ensemble.encode, rows, len(rows), lambda first, count: rows[first : first + count], name)


def answers_to(ensemble: Ensemble, rows: Sequence[Row]) -> dict[str, Any]:
    """Return the answers to rows as the HTTP endpoint gives them.

    Args:
        ensemble: The version.
        rows: The rows.
    """
    blocks = [list(rows[start : start + BLOCK_ROWS]) for start in range(0, len(rows), BLOCK_ROWS)] or [list(rows)]
    found = [
        ensemble.answer(encoded(ensemble, block, lambda place, at=n * BLOCK_ROWS: f"rows[{at + place}]"))
        for n, block in enumerate(blocks)
    ]
    return {**found[0], "predictions": list(chain.from_iterable(answer["predictions"] for answer in found))}
