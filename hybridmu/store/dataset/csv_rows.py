"""Rows of a CSV file, each value a text as it is spelled; what they mean is decided over all files of a table.

The dialect is RFC 4180 in UTF-8: commas, double quotes, a header. An empty field is a null, a quoted empty one is an
empty text. Arrow's reader takes what Python's strict one refuses (a quote that is never closed swallows rows), so both
read every file.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import pyarrow as pa
import pyarrow.csv as pacsv

from hybridmu.errors import DataError
from hybridmu.store.dataset.source_files import SourceFile

_BLOCK_BYTES = 1 << 22  # of text in memory at once; no row may be longer
_OTHER_SEPARATORS = re.compile(r"[;\t|]")


class CsvRows:
    """One open CSV file.

    Args:
        file: The file.
    """

    def __init__(self, file: SourceFile) -> None:
        self._file = file

    @property
    def schema(self) -> pa.Schema:
        """Return the columns, each a text."""
        return pa.schema([(name, pa.string()) for name in self._outline[0]])

    @property
    def rows(self) -> int:
        """Return how many rows there are."""
        return self._outline[1]

    def batches(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Yield some columns of the rows, a block of the file at a time.

        Raises:
            DataError: The two readers don't agree on the rows.
        """  # noqa: DOC501 - a function makes it
        names, rows = self._outline
        if not rows:
            return
        found = 0
        reader = pacsv.open_csv(
            self._stream(),
            read_options=pacsv.ReadOptions(use_threads=False, block_size=_BLOCK_BYTES),
            parse_options=pacsv.ParseOptions(newlines_in_values=True, ignore_empty_lines=len(names) > 1),
            convert_options=pacsv.ConvertOptions(
                column_types=dict.fromkeys(names, pa.string()),
                include_columns=list(columns) or names[:1],
                null_values=[""],
                strings_can_be_null=True,
                quoted_strings_can_be_null=False,
            ),
        )
        with reader:
            for batch in reader:
                found += len(batch)
                yield batch.select(list(columns))
        if found != rows:
            raise _broken(self._file, f"{found} rows where quotes are taken as they come, {rows} by the standard")

    def _stream(self) -> Any:
        return self._file.fs.open_input_stream(self._file.path)

    @cached_property
    def _outline(self) -> tuple[list[str], int]:
        """Return the names of the columns and the number of rows, after a strict reading of the whole file.

        Raises:
            DataError: It is no CSV with a header and one width.
        """  # noqa: DOC501 - a function makes it
        rows = 0
        with io.TextIOWrapper(self._stream(), encoding="utf-8-sig", newline="") as text:
            lines = csv.reader(text, strict=True)
            try:
                names = next((line for line in lines if line), None)
                if names is None:
                    raise _broken(self._file, "an empty file")
                if len(names) == 1 and _OTHER_SEPARATORS.search(names[0]):
                    raise _broken(self._file, "a header without a comma", "write it with commas between the columns")
                for line in lines:
                    if len(line) == len(names) or (not line and len(names) == 1):
                        rows += 1
                    elif line:
                        got = f"{len(line)} value(s) in row {rows + 1}, which ends in line {lines.line_num}"
                        raise _broken(self._file, f"{got}, and {len(names)} in the header")
            except csv.Error as error:
                raise _broken(self._file, f"line {lines.line_num}: {error}") from None
        return names, rows


def _broken(
    file: SourceFile,
    got: str,
    remedy: str = "write it again: a value with a comma, quote or line break goes into quotes",
) -> DataError:
    return DataError(
        f"can't read {file.name}",
        expected="CSV: a header, commas, double quotes, and as many values in every row",
        got=got,
        remedy=remedy,
    )
