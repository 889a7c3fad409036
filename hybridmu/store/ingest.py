"""First read of the source tables into the lake: streaming, all or nothing.

Batches are appended to one staging file per shard; each shard is then sorted and written slice by slice from a
memory map, so memory stays within 1.5 times one shard plus one row group of the source. Nothing is published before
every table was read and checked; the manifest comes last.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads
import pyarrow.parquet as pq

from hybridmu.core.encode import Encoder, infer_classes, label_set, make_columns
from hybridmu.core.partition import Digests, digests, held_out, place
from hybridmu.errors import DataError
from hybridmu.store.lake import Lake
from hybridmu.store.layout import (
    MANIFEST,
    Manifest,
    content_file,
    digest_array,
    digest_column,
    id_file,
    parts_of,
    shard_file,
)
from hybridmu.store.parquet import WRITING
from hybridmu.store.storage import open_fs

_BATCH_ROWS = 16_384
# A reader holds several times a row group while it decodes it: small ones keep a loading actor near its rows' size.
_GROUP_ROWS = 1_024


def ingest(lake: Lake) -> Manifest:
    """Read the source tables once and write the lake.

    Args:
        lake: Names the source, the storage and the partition.

    Returns:
        The manifest; an existing lake is returned unchanged.

    Raises:
        DataError: Duplicate ids, wrong columns or types, nulls without fill, NaN, labels outside the classes.
    """
    if not lake.storage.exists(MANIFEST):
        with lake.storage.staging() as folder:
            _Ingestion(lake, folder).run()
    return lake.manifest


class _Ingestion:
    """One pass over all source tables."""

    def __init__(self, lake: Lake, folder: Path) -> None:
        self.lake, self.folder = lake, folder
        self.data = lake.settings.data
        self.shards, self.slices = lake.shards, lake.slices
        self.by_id = _Staging(folder / "by-id")
        self.by_content = _Staging(folder / "by-content")

    def run(self) -> None:
        data = self.data
        train = _source(data.train)
        encoder, inferred = self._encoder(train)
        tables = [("train", train)]
        tables += [(name, _source(url)) for name, url in (("validation", data.validation), ("test", data.test)) if url]
        rows: dict[str, tuple[tuple[int, ...], ...]] = {}
        for number, (split, table) in enumerate(tables):
            self._check(split, table, train, encoder)
            rows |= self._split(split, table, encoder, number)
        self._indexes()
        self.lake.storage.delete_folder("lake")  # what an interrupted first read left
        for file in sorted((self.folder / "done").glob("*")):
            self.lake.storage.publish(file, file.name.replace("+", "/"))
        manifest = Manifest(
            encoder,
            inferred,
            _key_type(train, data.id),
            _key_type(train, data.group) if data.group else None,
            rows,
            secrets.token_bytes(32),
        )
        self.lake.storage.write(MANIFEST, manifest.to_bytes())

    def _encoder(self, train: pads.Dataset) -> tuple[Encoder, bool]:
        data = self.data
        for role, name in (("id", data.id), ("group", data.group), ("label", data.label)):
            if name is not None and name not in train.schema.names:
                have = ", ".join(train.schema.names)
                raise DataError(f"data.{role} names a column that is not in the table", expected=have, got=name)
        taken = {data.id, data.group, data.label}
        columns = make_columns(
            train.schema,
            data.features or tuple(name for name in train.schema.names if name not in taken),
            fills=data.fills,
            categories=data.categories,
            hash_buckets=data.hash_buckets,
            scale=data.scale,
        )
        classes = data.classes
        if classes is None:
            seen: set[int | str] = set()
            for table in _batches(train, [data.label]):
                seen |= label_set(table.column(0))
            classes = infer_classes(sorted(seen, key=str))
        if len(classes) < 2:
            raise DataError(
                "there are fewer than two classes", expected="a classification task", got=f"{list(classes)}"
            )
        return Encoder(columns, data.label, classes), data.classes is None

    def _wanted(self, encoder: Encoder) -> list[str]:
        names = [self.data.id, self.data.group, encoder.label, *(column.name for column in encoder.columns)]
        return list(dict.fromkeys(name for name in names if name))

    def _check(self, split: str, source: pads.Dataset, train: pads.Dataset, encoder: Encoder) -> None:
        if missing := sorted(set(self._wanted(encoder)) - set(source.schema.names)):
            raise DataError(f"the {split} table lacks columns {missing}", expected="the columns of the training table")
        for name in filter(None, (self.data.id, self.data.group)):
            # 7 is not "7": a request could name the row in one table only.
            expected, got = _key_type(train, name), _key_type(source, name)
            if {"int" in expected, "int" in got} == {True, False} and "null" not in {expected, got}:
                raise DataError(f"column {name!r} has another type in the {split} table", expected=expected, got=got)

    def _split(
        self, split: str, source: pads.Dataset, encoder: Encoder, number: int
    ) -> dict[str, tuple[tuple[int, ...], ...]]:
        # `train` may be cut into train and validation.
        fraction = self.data.validation_fraction if split == "train" and not self.data.validation else 0.0
        writers = {name: _Staging(self.folder / name) for name in (split, "validation")[: 1 + (fraction > 0)]}
        for batch in _batches(source, self._wanted(encoder)):
            table, places = self._annotate(batch, encoder)
            shard, slice_ = place(places, self.shards, self.slices)
            table = table.append_column("_slice", pa.array(slice_))
            aside = held_out(places, fraction)
            for name, writer in writers.items():
                writer.append(table, np.where(aside == (name == "validation" and fraction > 0), shard, -1))
            if self.data.group:
                entry = table.select(["_id"]).append_column("shard", pa.array(shard))
                entry = entry.append_column("source", pa.array(np.full(len(shard), number, dtype=np.int32)))
                self.by_id.append(entry, parts_of(digest_column(table, "_id"), self.shards))
            if split == "train":
                entry = table.select(["_id", "_group", "_content"]).append_column("shard", pa.array(shard))
                kept = entry.filter(pa.array(~aside))
                self.by_content.append(kept, parts_of(digest_column(kept, "_content"), self.shards))
        found = {}
        for name, writer in writers.items():
            writer.close()
            found[name] = tuple(self._sort(name, shard, writer.path(shard)) for shard in range(self.shards))
        return found

    def _annotate(self, table: pa.Table, encoder: Encoder) -> tuple[pa.Table, Digests]:
        # Encoding the batch here refuses bad rows before anything is published.
        key = self.lake.key
        ids = digests(key, "id", table.column(self.data.id).to_pylist())
        places, groups = ids, np.zeros_like(ids)
        if self.data.group:
            values = table.column(self.data.group).to_pylist()
            has = np.array([value is not None for value in values])
            groups[has] = digests(key, "group", [value for value in values if value is not None])
            places = np.where(has[:, None], groups, ids)
        x, y = encoder.encode(table), encoder.encode_labels(table)
        content = b"".join(
            hashlib.blake2b(row.tobytes() + int(label).to_bytes(8, "little"), digest_size=16).digest()
            for row, label in zip(x, y, strict=True)
        )
        table = table.append_column("_id", digest_array(ids.tobytes()))
        table = table.append_column("_group", digest_array(groups.tobytes()))
        return table.append_column("_content", digest_array(content)), places

    def _sort(self, split: str, shard: int, staging: Path) -> tuple[int, ...]:
        # Row groups never cross a slice.
        if not staging.exists():
            return (0,) * self.slices
        counts = []
        with pa.memory_map(str(staging)) as source:
            table = pa.ipc.open_stream(source).read_all()
            with pq.ParquetWriter(self._done(shard_file(split, shard)), table.schema, **WRITING) as writer:
                for slice_ in range(1, self.slices + 1):  # filter first: take() on the shard would copy all of it
                    mine = table.filter(pc.equal(table["_slice"], slice_)).sort_by("_id")
                    ids = mine["_id"]
                    if len(ids) > 1 and pc.any(pc.equal(ids[1:], ids[:-1])).as_py():
                        raise _duplicates(split)
                    counts.append(len(mine))
                    if len(mine):
                        writer.write_table(mine, row_group_size=_GROUP_ROWS)
        staging.unlink()
        return tuple(counts)

    def _indexes(self) -> None:
        # id → shard (grouped tables) and content → row, one file per part; ids are checked to be unique.
        self.by_id.close()
        self.by_content.close()
        for part in range(self.shards):
            ids = self.by_id.read(part)
            if ids is not None:
                pairs = ids.group_by(["_id", "source"]).aggregate([([], "count_all")])
                if pc.max(pairs["count_all"]).as_py() > 1:
                    raise _duplicates("source")
                pq.write_table(ids.select(["_id", "shard"]).sort_by("_id"), self._done(id_file(part)), **WRITING)
            content = self.by_content.read(part)
            if content is not None:
                pq.write_table(content.sort_by("_content"), self._done(content_file(part)), **WRITING)

    def _done(self, name: str) -> Path:
        folder = self.folder / "done"
        folder.mkdir(exist_ok=True)
        return folder / name.replace("/", "+")


class _Staging:
    """One append-only Arrow stream per part, opened when the first row comes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._open: dict[int, Any] = {}

    def path(self, part: int) -> Path:
        return self._folder / f"{part:05d}.arrow"

    def append(self, table: pa.Table, parts: npt.NDArray[Any]) -> None:
        """Append each row to its part; rows of part −1 are left out."""
        for part in np.unique(parts[parts >= 0]).tolist():
            if part not in self._open:
                self._folder.mkdir(exist_ok=True)
                self._open[part] = pa.ipc.new_stream(str(self.path(part)), table.schema)
            self._open[part].write_table(table.filter(pa.array(parts == part)))

    def close(self) -> None:
        for writer in self._open.values():
            writer.close()

    def read(self, part: int) -> pa.Table | None:
        if not self.path(part).exists():
            return None
        with pa.ipc.open_stream(str(self.path(part))) as reader:
            return reader.read_all()


def _duplicates(table: str) -> DataError:
    return DataError(
        f"the {table} table has duplicate ids",
        expected="every id once",
        remedy="remove the duplicates, or name another data.id",
    )


def _key_type(source: pads.Dataset, name: str) -> str:
    type_ = source.schema.field(name).type
    return str(type_.value_type if pa.types.is_dictionary(type_) else type_)


def _batches(source: pads.Dataset, columns: list[str]) -> Iterator[pa.Table]:
    # Not source.to_batches(), which reads far ahead of us, nor all row groups at once: either holds the whole table.
    schema = pa.schema([source.schema.field(name) for name in columns])
    for fragment in source.get_fragments():
        with fragment.filesystem.open_input_file(fragment.path) as stream:
            file = pq.ParquetFile(stream)
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


def _source(url: str) -> pads.Dataset:
    fs, path = open_fs(url)
    try:
        return pads.dataset(path, filesystem=fs, format="parquet")
    except (OSError, pa.ArrowInvalid) as error:
        expected, got = "a Parquet file or folder", str(error).split("\n")[0]
        raise DataError(f"can't read {url}", expected=expected, got=got) from None
