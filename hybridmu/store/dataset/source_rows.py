"""Rows of source tables as the lake keeps them: columns checked, forgotten rows left out, digests added."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from hybridmu.config import DataSettings
from hybridmu.core.features import opened
from hybridmu.core.kernel.column_types import Role, check_role, kind_of
from hybridmu.core.kernel.partition import Digests, check_key, digests
from hybridmu.core.kernel.table_encoder import F32, Column, Encoder, Scalar, make_columns
from hybridmu.core.targets import Outcomes, TargetEncoder, check_target, outcome_columns
from hybridmu.errors import DataError
from hybridmu.store.dataset.lake import Lake
from hybridmu.store.dataset.layout import as_stored, digest_array
from hybridmu.store.dataset.source_table import SourceTable
from hybridmu.store.dataset.suppression import Suppression

# What a column without any value is kept as, since only its nulls are encoded.
_STAND_INS = {"number": pa.float64(), "bool": pa.bool_(), "category": pa.string(), "hash": pa.string()}


@dataclass(frozen=True, eq=False)
class Batch:
    """Some rows of a source.

    Attributes:
        table: The columns that the lake keeps, under its names, `_id`, `_group` and `_content`.
        places: uint8 [n, 16], the digest that decides where each row lives: its group's, or its own.
    """

    table: pa.Table
    places: Digests


class Reader:
    """Reads tables of one lake; bad rows are refused while they are read, before anything is published.

    Args:
        lake: Names the columns and the partition key.
        encoder: Feature columns, label and classes.
        guard: Knows what must not come in.
        returning: The request whose revoked rows may come back (a correction).
    """

    def __init__(self, lake: Lake, encoder: Encoder, guard: Suppression | None, returning: str | None = None) -> None:
        self.data, self.key, self.encoder = lake.settings.data, lake.key, encoder
        self._transform = opened(lake.features, encoder)
        self._derivation = lake.derivation
        self._guard, self._returning = guard, returning
        self.skipped = 0

    @property
    def columns(self) -> list[str]:
        """Return the columns that the lake keeps."""
        names = [self.data.id, self.data.group, *outcome_columns(self.encoder)]
        names += [*(column.name for column in self.encoder.columns), *self._derivation.sources]
        return list(dict.fromkeys(name for name in names if name))

    def fitted(self, name: str, source: SourceTable, id_type: str, group_type: str | None) -> SourceTable:
        """Return a table whose columns have the types in which the lake keeps them, after checking that they fit.

        Args:
            name: Of the table, for messages.
            source: The table.
            id_type: Arrow type of the id column as it is known so far.
            group_type: The same for the group column; None without one.

        Returns:
            The table; its values are checked when they are read.

        Raises:
            DataError: It has no rows, lacks columns, or its columns don't mean the same as in the first table.
        """  # noqa: DOC501 - functions make some of them
        if missing := sorted(set(self.columns) - set(source.names)):
            raise DataError(
                f"the {name} table lacks columns {missing}",
                expected="the columns of the training table",
                got=", ".join(source.names) or "no columns",
                remedy=source.remedy(missing, "add them, under the same names"),
            )
        if not source.rows and not source.stored:  # all rows of a copy may be forgotten by now
            raise no_rows(name, source.url)
        types = {self.data.id: _key_type(name, "id", source, self.data.id, id_type)}
        if self.data.group:
            types[self.data.group] = _key_type(name, "group", source, self.data.group, group_type or "null")
        types |= {name: _outcome_type(source, self.encoder, name) for name in outcome_columns(self.encoder)}
        for column in self.encoder.columns:
            found = source.type_of(column.name)
            width = column.width - (column.fill is not None)
            stand_in = _STAND_INS.get(column.kind) or pa.list_(pa.float32(), width)
            if column.name in source.spelled and stand_in == pa.string():
                types[column.name] = stand_in  # a folder's name is a text, whatever it looks like; so is CSV
            elif not _alike(found, stand_in):
                if source.first_value(column.name) is not None:
                    raise _other_feature(name, source, column)
                types[column.name] = stand_in
            elif pa.types.is_list(found) and column.kind == "list":
                types[column.name] = pa.list_(found.value_type, width)
        fitted = source.with_types(types)
        names = [column.name for column in self.encoder.columns]
        fills = {column.name: column.fill for column in self.encoder.columns if column.fill is not None}
        made_now = columns_of(self.data, fitted, names, fills, self._derivation.scales)
        for known, made in zip(self.encoder.columns, made_now, strict=True):
            if known != made:
                raise _other_feature(name, source, known)
        return fitted

    def read(self, source: SourceTable) -> Iterator[Batch]:
        """Yield the rows of a source that may come in, and count the others in `skipped`.

        Args:
            source: A fitted table.

        Yields:
            Batches in source order; never an empty one.

        Raises:
            DataError: A row can't be encoded, a label is outside the classes, or a key has the wrong type.
        """
        start = 0
        for table in source.batches(self.columns):
            if isinstance(self.encoder, TargetEncoder):
                self.encoder.check(table, start, source.url, lambda table=table: ~self.blocked(table))  # type: ignore[misc]
            start += len(table)
            for name in filter(None, (self.data.id, self.data.group)):
                _check_longest(table.column(name))
            yield from self.take([table])

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
        content = content_digests(self._transform(table), self.encoder.encode_labels(table))
        table = as_stored(table).append_column("_id", digest_array(ids.tobytes()))
        table = table.append_column("_group", digest_array(groups.tobytes()))
        return Batch(table.append_column("_content", digest_array(content)), places)


def content_digests(x: F32, y: Outcomes) -> bytes:
    """Return the 16-byte digests of the features and the label or target of each row, one after the other.

    Args:
        x: float32 [n, features].
        y: int64 [n], or float32 [n] of targets, or float32 [n, targets] of several.
    """
    wide = y.astype("<f4" if y.dtype == np.float32 else "<i8")
    width, size, count = x.shape[1] * 4, wide.itemsize * (wide.shape[1] if wide.ndim > 1 else 1), len(x)
    rows, labels = (np.ascontiguousarray(part).reshape(-1).view(np.uint8).data for part in (x, wide))
    made = []
    for row in range(count):
        found = hashlib.blake2b(rows[row * width : row * width + width], digest_size=16)
        found.update(labels[row * size : row * size + size])
        made.append(found.digest())
    return b"".join(made)


def no_rows(name: str, url: str) -> DataError:
    """Return the error for a table without rows."""
    return DataError(f"the {name} table has no rows", expected="at least one", got=url, remedy="name another table")


def columns_of(
    data: DataSettings,
    source: SourceTable,
    names: Sequence[str],
    fills: Mapping[str, Scalar],
    scales: Mapping[str, float],
) -> tuple[Column, ...]:
    """Return how feature columns of a table are encoded.

    Args:
        data: Declares categories, buckets and scales.
        source: The table.
        names: The columns, in order.
        fills: Column → stand-in for null.
        scales: Of derived columns.
    """
    return make_columns(
        pa.schema([(name, source.type_of(name)) for name in names]),
        names,
        fills=fills,
        categories=data.categories,
        hash_buckets=data.hash_buckets,
        scale={**data.scale, **scales},
    )


def _check_longest(keys: pa.ChunkedArray) -> None:
    """Check that keys can be named by requests: integers always can, and so can texts no longer than allowed.

    Raises:
        DataError: One is too long.
    """
    if pa.types.is_string(keys.type) or pa.types.is_large_string(keys.type):
        lengths = pc.utf8_length(keys)
        if (longest := pc.index(lengths, pc.max(lengths)).as_py()) >= 0:
            check_key(keys[longest].as_py())


def _key_type(name: str, role: Role, source: SourceTable, column: str, known: str) -> pa.DataType:
    """Return the type to which the keys of a table are cast; spelled ones are texts where the first keys were.

    Args:
        name: Of the table, for messages.
        role: Id or group.
        source: The table.
        column: The key column.
        known: Arrow type of the keys so far, as text; `null` where there are none.

    Raises:
        DataError: They are no keys, or mean something else than those: 7 is not "7".
    """
    found, spelled = source.type_of(column), column in source.spelled
    if role == "group" and (spelled or pa.types.is_floating(found)) and source.first_value(column) is None:
        return pa.null()  # pandas writes a column without any value as numbers
    if spelled and "int" not in known and known != "null" and not pa.types.is_null(found):
        return pa.string()
    if check_role(column, role, found) == "null" or known == "null":
        return found
    if ("int" in known) != pa.types.is_integer(found):
        raise DataError(
            f"column {column!r} has another type in the {name} table",
            expected=known,
            got=str(found),
            remedy=_cast(source, column, "a request could name its rows in one table only"),
        )
    # No type of integers holds those below 0 and those from 2^63 on: the first table decides.
    if known == "uint64":
        return pa.uint64()
    return pa.int64() if found == pa.uint64() and "int" in known else found


def _outcome_type(source: SourceTable, encoder: Encoder, name: str) -> pa.DataType:
    """Return the type to which labels or targets of a table are cast, after checking that they can be learned.

    "1" and 1 are two classes, and false and true are the classes 0 and 1, where there are no others. A target is a
    number.

    Raises:
        DataError: They are not.
    """
    if isinstance(encoder, TargetEncoder):
        check_target(name, source.type_of(name))
        return source.type_of(name)
    classes = encoder.classes
    found, text = source.type_of(name), isinstance(classes[0], str)
    if text and name in source.spelled:
        return pa.string()
    kind = check_role(name, "label", found)
    if text != (kind == "text") or (kind == "bool" and not set(classes) <= {0, 1}):
        raise DataError(
            f"label column {name!r} and the classes have different types",
            expected=f"one of {list(classes)[:20]}",
            got=str(found),
            remedy=_cast(source, name, "or correct data.classes before the first training"),
        )
    return found


def _other_feature(name: str, source: SourceTable, column: Column) -> DataError:
    return DataError(
        f"column {column.name!r} has another type in the {name} table than in the first one",
        expected=f"{column.kind} of width {column.width}",
        got=str(source.type_of(column.name)),
        remedy=_cast(source, column.name, "the encoding of a trained system is fixed"),
    )


def _alike(found: pa.DataType, expected: pa.DataType) -> bool:
    kinds = {kind_of(found), kind_of(expected)}
    # What is no plain type is not even looked into: its reader may run foreign code.
    return len(kinds) == 1 or kinds == {"integer", "float"} or isinstance(found, pa.BaseExtensionType)


def _cast(source: SourceTable, column: str, why: str) -> str:
    if column in source.folders:
        return f"write the column into the files, in that type, instead of into the names of folders; {why}"
    return f"cast the column; {why}"
