"""Reading source tables as the lake keeps them: columns checked, forgotten rows left out, digests added."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.parquet as pq

from hybridmu.config import DataSettings
from hybridmu.core.encode import F32, Column, Encoder, Encoding, make_columns
from hybridmu.core.partition import Digests, digests
from hybridmu.errors import DataError
from hybridmu.store.files.storage import Storage, open_fs
from hybridmu.store.lake.lake import Lake
from hybridmu.store.lake.layout import digest_array
from hybridmu.store.sql.guard import Guard

_BATCH_ROWS = 16_384
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, eq=False)
class Batch:
    """Some rows of a source.

    Attributes:
        table: The columns that the lake keeps, `_id`, `_group` and `_content`.
        places: uint8 [n, 16], the digest that decides where each row lives: its group's, or its own.
    """

    table: pa.Table
    places: Digests


class Reader:
    """Reads tables of one lake; bad rows are refused while they are read, before anything is published.

    Args:
        lake: Names the columns and the partition key.
        encoder: How rows become tensors.
        guard: Knows what must not come in.
        returning: The request whose revoked rows may come back (a correction).
    """

    def __init__(self, lake: Lake, encoder: Encoder, guard: Guard | None, returning: str | None = None) -> None:
        self.data, self.key, self.encoder = lake.settings.data, lake.key, encoder
        self._encoding, self._guard, self._returning = Encoding(encoder), guard, returning
        self.skipped = 0

    @property
    def columns(self) -> list[str]:
        """Return the columns that the lake keeps."""
        names = [self.data.id, self.data.group, self.encoder.label, *(column.name for column in self.encoder.columns)]
        return list(dict.fromkeys(name for name in names if name))

    def check(self, name: str, source: pads.Dataset, id_type: str, group_type: str | None) -> None:
        """Check that a table has the columns, and that its keys mean the same as in the first table.

        Args:
            name: Of the table, for the message.
            source: The table.
            id_type: Arrow type of the first table's id column.
            group_type: The same for the group column.

        Raises:
            DataError: It has not.
        """
        if missing := sorted(set(self.columns) - set(source.schema.names)):
            raise DataError(f"the {name} table lacks columns {missing}", expected="the columns of the training table")
        for column, expected in ((self.data.id, id_type), (self.data.group, group_type)):
            if column is None or expected is None:
                continue
            # 7 is not "7": a request could name the row in one table only.
            got = key_type(source, column)
            if {"int" in expected, "int" in got} == {True, False} and "null" not in {expected, got}:
                raise DataError(f"column {column!r} has another type in the {name} table", expected=expected, got=got)

    def check_features(self, source: pads.Dataset) -> None:
        """Check that features are encoded as those of the first table.

        Raises:
            DataError: A column has another type.
        """
        for known, found in zip(self.encoder.columns, columns_of(self.data, source, self.encoder), strict=True):
            if known != found:
                raise DataError(
                    f"column {known.name!r} has another type than in the first table",
                    expected=f"{known.kind} of width {known.width}",
                    got=str(source.schema.field(known.name).type),
                    remedy="cast the column; the encoding of a trained system is fixed",
                )

    def read(self, source: pads.Dataset) -> Iterator[Batch]:
        """Yield the rows of a source that may come in, and count the others in `skipped`.

        Args:
            source: The table.

        Yields:
            Batches in source order; never an empty one.

        Raises:
            DataError: A row can't be encoded, a label is outside the classes, or a key has the wrong type.
        """
        yield from self.take(batches(source, self.columns))

    def take(self, tables: Iterable[pa.Table]) -> Iterator[Batch]:
        """Yield the rows that may come in, and count the others in `skipped`.

        Args:
            tables: Rows with the columns that the lake keeps, all of the same types.

        Yields:
            As `read`.

        Raises:
            DataError: As `read`.
        """
        for table in tables:
            kept = table.filter(pa.array(~self.blocked(table)))
            self.skipped += len(table) - len(kept)
            if len(kept):
                yield self._annotate(kept)

    def blocked(self, table: pa.Table) -> npt.NDArray[np.bool_]:
        """Return which rows must not come in, bool [n]."""
        blocked = np.zeros(len(table), dtype=np.bool_)
        if self._guard is not None and self._guard.any():
            blocked |= self._guard.blocks("id", table.column(self.data.id).to_pylist(), self._returning)
            if self.data.group:
                blocked |= self._guard.blocks("group", table.column(self.data.group).to_pylist(), self._returning)
        return blocked

    def _annotate(self, table: pa.Table) -> Batch:
        ids = digests(self.key, "id", table.column(self.data.id).to_pylist())
        places, groups = ids, np.zeros_like(ids)
        if self.data.group:
            values = table.column(self.data.group).to_pylist()
            has = np.array([value is not None for value in values])
            groups[has] = digests(self.key, "group", [value for value in values if value is not None])
            places = np.where(has[:, None], groups, ids)
        content = content_digests(self._encoding.encode(table), self.encoder.encode_labels(table))
        table = table.append_column("_id", digest_array(ids.tobytes()))
        table = table.append_column("_group", digest_array(groups.tobytes()))
        return Batch(table.append_column("_content", digest_array(content)), places)


def content_digests(x: F32, y: npt.NDArray[np.int64]) -> bytes:
    """Return the 16-byte digests of the features and label of each row, one after the other.

    Args:
        x: float32 [n, features].
        y: int64 [n].
    """
    width, count = x.shape[1] * 4, len(x)
    rows, labels = (np.ascontiguousarray(part).reshape(-1).view(np.uint8).data for part in (x, y.astype("<i8")))
    made = []
    for row in range(count):
        found = hashlib.blake2b(rows[row * width : row * width + width], digest_size=16)
        found.update(labels[row * 8 : row * 8 + 8])
        made.append(found.digest())
    return b"".join(made)


def columns_of(data: DataSettings, source: pads.Dataset, encoder: Encoder | None = None) -> tuple[Column, ...]:
    """Return how the feature columns of a table are encoded.

    Args:
        data: Declares fills, categories, buckets and scales.
        source: The table.
        encoder: Names the features; without one they are as declared, or all columns but id, group and label.
    """
    taken = {data.id, data.group, data.label}
    declared = data.features or tuple(name for name in source.schema.names if name not in taken)
    return make_columns(
        source.schema,
        declared if encoder is None else [column.name for column in encoder.columns],
        fills=data.fills,
        categories=data.categories,
        hash_buckets=data.hash_buckets,
        scale=data.scale,
    )


def open_source(url: str) -> pads.Dataset:
    """Return a Parquet file or folder as a dataset.

    Raises:
        DataError: It is none.
    """  # noqa: DOC501 - a function makes it
    fs, path = open_fs(url)
    try:
        return pads.dataset(path, filesystem=fs, format="parquet")
    except (OSError, pa.ArrowInvalid) as error:
        raise _unreadable(url, error) from None


def open_stored(storage: Storage, name: str) -> pads.Dataset:
    """Return a Parquet file in storage as a dataset.

    Raises:
        DataError: It is missing or damaged.
        OSError: Storage can't be read now.
    """  # noqa: DOC501 - functions make them
    try:
        return pads.dataset(storage.path(name), filesystem=storage.fs, format="parquet")
    except (FileNotFoundError, pa.ArrowInvalid) as error:
        raise _unreadable(name, error) from None


def key_type(source: pads.Dataset, name: str) -> str:
    """Return the Arrow type of a column as text; of a dictionary column, that of its values."""
    type_ = source.schema.field(name).type
    return str(type_.value_type if pa.types.is_dictionary(type_) else type_)


def batches(source: pads.Dataset, columns: list[str]) -> Iterator[pa.Table]:
    """Yield the rows of some columns, in source order.

    Args:
        source: The table.
        columns: Which columns.

    Yields:
        Tables with rows, all with the types of the first file.

    Raises:
        DataError: A file lacks a column, or has another type that can't be cast.
    """
    # Not source.to_batches(), which reads far ahead of us, nor all row groups at once: either holds the whole table.
    schema = pa.schema([source.schema.field(name) for name in columns])
    for fragment in source.get_fragments():
        with fragment.filesystem.open_input_file(fragment.path) as stream:
            file = pq.ParquetFile(stream, page_checksum_verification=True)
            if missing := sorted(set(columns) - set(file.schema_arrow.names)):
                raise DataError(f"{fragment.path} lacks columns {missing}", expected="the columns of the first file")
            groups = range(file.num_row_groups)
            for batch in chain.from_iterable(file.iter_batches(_BATCH_ROWS, [g], columns) for g in groups):
                try:
                    table = pa.Table.from_batches([batch]).select(columns).cast(schema)
                except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError) as error:
                    expected = "the column types of the first file"
                    raise DataError(f"can't use {fragment.path}", expected=expected, got=str(error)) from None
                if table.num_rows:
                    yield table


def fingerprint(source: pads.Dataset) -> str:
    """Return a hash of the bytes of all files of a table, by which a repeat is known."""
    found = hashlib.blake2b(digest_size=16)
    for fragment in sorted(source.get_fragments(), key=lambda fragment: str(fragment.path)):
        with fragment.filesystem.open_input_stream(fragment.path) as stream:
            while chunk := stream.read(_CHUNK_BYTES):
                found.update(chunk)
    return found.hexdigest()


def _unreadable(name: str, error: Exception) -> DataError:
    return DataError(f"can't read {name}", expected="a Parquet file or folder", got=str(error).split("\n")[0])
