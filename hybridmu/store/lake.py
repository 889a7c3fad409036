"""The Parquet lake: each split cut into shards, each shard sorted by slice and id digest.

A row keeps its own columns and gets four: `_slice`, `_id`, `_group`, `_content` (16-byte digests). One row group
per slice. Tombstoned rows stay in the file until purge; readers name the keys to leave out.

Reading the source is streaming: batches are appended to one staging file per shard, then each shard is sorted and
written slice by slice from a memory map.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads
import pyarrow.parquet as pq
import torch

from hybridmu.config import DataSettings, Settings
from hybridmu.core.encode import Encoder, infer_classes, label_set, make_columns
from hybridmu.core.partition import Digests, digest, digests, held_out, place
from hybridmu.core.rows import Rows, carries
from hybridmu.errors import DataError, StateError
from hybridmu.store.blobs import Storage, open_fs
from hybridmu.types import KeyKind, ResolvedKey

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")
_META = ("_slice", "_id", "_group", "_content")
_BATCH_ROWS = 16_384
_MANIFEST = "lake/manifest.json"
_DIGEST = pa.binary(16)


@dataclass(frozen=True)
class Manifest:
    """What the lake holds.

    Attributes:
        encoder: How rows become tensors; its class list is the schema's.
        classes_inferred: Whether the class list was read off the data once, instead of declared.
        id_type: Arrow type of the id column, as text.
        group_type: The same for the group column; None without one.
        rows: Split → rows per shard, per slice, tombstoned ones included.
    """

    encoder: Encoder
    classes_inferred: bool
    id_type: str
    group_type: str | None
    rows: dict[str, tuple[tuple[int, ...], ...]]

    @property
    def features(self) -> int:
        """Return the encoded width."""
        return self.encoder.features


class Lake:
    """The tables of one system.

    Args:
        settings: Names the source columns, shards, slices and the partition key.
        storage: Where the lake is kept.
    """

    def __init__(self, settings: Settings, storage: Storage) -> None:
        self.settings, self.storage = settings, storage
        self.shards, self.slices = settings.sisa.shards, settings.sisa.slices
        self.key = settings.partition_key()
        self._manifest: Manifest | None = None

    # ------------------------------------------------------------------ reading

    @property
    def manifest(self) -> Manifest:
        """Return the manifest.

        Raises:
            StateError: Nothing was ingested yet.
        """
        if self._manifest is None:
            if not self.storage.exists(_MANIFEST):
                raise StateError(
                    f"nothing was trained in {self.storage.url}", remedy="run `hybridmu train -c CONFIG` first"
                )
            raw = json.loads(self.storage.read(_MANIFEST))
            rows = {split: tuple(tuple(s) for s in shards) for split, shards in raw["rows"].items()}
            self._manifest = Manifest(
                Encoder.from_json(raw["encoder"]), raw["classes_inferred"], raw["id_type"], raw["group_type"], rows
            )
        return self._manifest

    def rows(self, split: Split, shard: int, revoked: set[tuple[str, bytes]], *, only_revoked: bool = False) -> Rows:
        """Return the live rows of a shard as tensors, or only the revoked ones.

        Args:
            split: Which table.
            shard: Shard number.
            revoked: (kind, digest) of tombstoned keys.
            only_revoked: Return what live reading leaves out (a removal's or audit's fenced read).

        Returns:
            Rows in canonical order; encoded slice by slice, so memory stays near the tensors' own size.
        """
        encoder = self.manifest.encoder
        total = sum(self.manifest.rows[split][shard]) if split in self.manifest.rows else 0
        x = np.empty((total, encoder.features), dtype=np.float32)
        y = np.empty(total, dtype=np.int64)
        slices = np.empty(total, dtype=np.int32)
        metas = {name: np.empty((total, 16), dtype=np.uint8) for name in _META[1:]}
        at = 0
        for table in self._groups(split, shard) if total else ():
            ids, groups = _bytes(table, "_id"), _bytes(table, "_group")
            mask = carries(ids, groups, revoked)
            mask = mask if only_revoked else ~mask
            if not mask.any():
                continue
            kept = table if mask.all() else table.filter(pa.array(mask))
            stop = at + kept.num_rows
            x[at:stop] = encoder.encode(kept)
            y[at:stop] = encoder.encode_labels(kept)
            slices[at:stop] = kept.column("_slice").to_numpy()
            for name, column in metas.items():
                column[at:stop] = _bytes(kept, name)
            at = stop
        return Rows(
            torch.from_numpy(x[:at]),
            torch.from_numpy(y[:at]),
            slices[:at],
            metas["_id"][:at],
            metas["_group"][:at],
            metas["_content"][:at],
        )

    def keys(self, split: Split, shard: int) -> tuple[npt.NDArray[np.int32], Digests, Digests, Digests]:
        """Return (slice, id, group, content digests) of every row of a shard, tombstoned ones included."""
        name = _shard_file(split, shard)
        if split not in self.manifest.rows or not self.storage.exists(name):
            none = np.empty((0, 16), dtype=np.uint8)
            return np.empty(0, dtype=np.int32), none, none, none
        return _key_columns(self.storage, name)

    def resolve(
        self, wanted: Iterable[tuple[KeyKind, object]], revoked: dict[int, set[tuple[str, bytes]]]
    ) -> tuple[list[ResolvedKey], list[ResolvedKey], list[str]]:
        """Find where the keys of a request live.

        Args:
            wanted: (kind, raw id or group) pairs.
            revoked: Shard → (kind, digest) of tombstones that exist already.

        Returns:
            (keys with live rows, keys whose rows are all revoked already, unknown keys as the caller wrote them).

        Raises:
            DataError: A group is asked of a table without groups, or a key has the wrong type.
        """
        fresh, known, unknown = [], [], []
        places: dict[int, list[tuple[KeyKind, bytes, object]]] = {}
        for kind, value in dict.fromkeys(wanted):
            key = digest(self.key, kind, self._typed(kind, value))
            for shard in self._shards_of(kind, key):
                places.setdefault(shard, []).append((kind, key, value))
        found: dict[tuple[KeyKind, bytes], ResolvedKey] = {}
        for shard, asked in sorted(places.items()):
            counted = self._count(shard, {(kind, key) for kind, key, _ in asked}, revoked.get(shard, set()))
            found |= {(item.kind, item.key): item for item in counted}
        for asked in places.values():
            for kind, key, value in asked:
                item = found.get((kind, key))
                if item is None:
                    continue
                (fresh if item.rows else known).append(item)
        missing = {(kind, key): value for asked in places.values() for kind, key, value in asked}
        seen_places = {(kind, key) for kind, key in found}
        unknown = [str(value) for pair, value in missing.items() if pair not in seen_places]
        return list(dict.fromkeys(fresh)), list(dict.fromkeys(known)), unknown

    def counts(
        self, split: Split, shard: int, revoked: set[tuple[str, bytes]]
    ) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return (live, revoked) rows per slice 1..R of a shard."""
        slices, ids, groups, _ = self.keys(split, shard)
        mask = carries(ids, groups, revoked)

        def per_slice(chosen: npt.NDArray[np.int32]) -> tuple[int, ...]:
            return tuple(int(c) for c in np.bincount(chosen, minlength=self.slices + 1)[1:])

        return per_slice(slices[~mask]), per_slice(slices[mask])

    def twins(self, keys: Sequence[ResolvedKey], revoked: dict[int, set[tuple[str, bytes]]]) -> int:
        """Count live training rows with the same features and label as a row that `keys` revoke.

        Args:
            keys: What a request is about to revoke.
            revoked: Shard → tombstones, `keys` included.

        Returns:
            Number of live twins over all shards; content digests are looked up in files partitioned by them.
        """
        going: set[bytes] = set()
        for shard in sorted({key.shard for key in keys}):
            _, ids, groups, content = self.keys("train", shard)
            mask = carries(ids, groups, {(k.kind, k.key) for k in keys if k.shard == shard})
            going |= {row.tobytes() for row in content[mask]}
        twins = 0
        for part in sorted({_part(content, self.shards) for content in going}):
            table = pq.read_table(self.storage.path(_content_file(part)), filesystem=self.storage.fs)
            hits = table.filter(pc.is_in(table["content"], value_set=pa.array(sorted(going), type=_DIGEST)))
            for shard in sorted(set(hits["shard"].to_pylist())):
                mine = hits.filter(pc.equal(hits["shard"], shard))
                ids, groups = _bytes(mine, "id"), _bytes(mine, "group")
                twins += int((~carries(ids, groups, revoked.get(shard, set()))).sum())
        return twins

    def _typed(self, kind: KeyKind, value: object) -> object:
        """Return a key in the column's own type: the text "7" is the integer 7 in an integer column."""
        type_ = self.manifest.id_type if kind == "id" else self.manifest.group_type
        if type_ is None:
            raise DataError(
                "this table has no groups", expected="ids", got="a group", remedy="set data.group before training"
            )
        if "int" not in type_:
            return str(value)
        try:
            return int(str(value))
        except ValueError:
            return str(value)  # can't be a key of this column, so it will be reported as unknown

    def _shards_of(self, kind: KeyKind, key: bytes) -> list[int]:
        """Return the shards that hold a key: computed, or looked up for ids of a grouped table."""
        if kind == "group" or self.manifest.group_type is None:
            shard, _ = place(np.frombuffer(key, dtype=np.uint8).reshape(1, 16), self.shards, self.slices)
            return [int(shard[0])]
        part = _part(key, self.shards)
        table = _read_index(self.storage, _id_file(part))
        hit = table.filter(pc.equal(table["id"], pa.scalar(key, type=_DIGEST)))
        # An unknown id still needs a place where it is reported as missing.
        return sorted(set(hit["shard"].to_pylist())) or [0]

    def _count(self, shard: int, asked: set[tuple[KeyKind, bytes]], revoked: set[tuple[str, bytes]]) -> list[ResolvedKey]:
        """Return one entry per asked key with rows in this shard; `rows` counts those not revoked yet."""
        totals: dict[tuple[KeyKind, bytes], list[int]] = {}
        for split in SPLITS:
            slices, ids, groups, _ = self.keys(split, shard)
            dead = carries(ids, groups, revoked)
            mine = np.flatnonzero(carries(ids, groups, {(str(k), d) for k, d in asked}))
            for row in mine:
                pairs: tuple[tuple[KeyKind, bytes], ...] = (("id", ids[row].tobytes()), ("group", groups[row].tobytes()))
                for pair in pairs:
                    if pair in asked:
                        entry = totals.setdefault(pair, [int(slices[row]), 0])
                        entry[1] += not dead[row]
        return [ResolvedKey(kind, key, shard, slice_, rows) for (kind, key), (slice_, rows) in totals.items()]

    def _groups(self, split: Split, shard: int) -> Iterator[pa.Table]:
        with self.storage.fs.open_input_file(self.storage.path(_shard_file(split, shard))) as source:
            file = pq.ParquetFile(source)
            for number in range(file.num_row_groups):
                yield file.read_row_group(number)

    # ------------------------------------------------------------------ ingestion

    def ingest(self) -> Manifest:
        """Read the source tables once and write the lake; the manifest is written last.

        Memory stays within 1.5 times one shard plus one source batch.

        Returns:
            The manifest. Running it again over an existing lake returns that one unchanged.

        Raises:
            DataError: Duplicate ids, wrong columns or types, nulls without fill, NaN, labels outside the classes.
        """
        if self.storage.exists(_MANIFEST):
            return self.manifest
        data = self.settings.data
        train = _source(data.train)
        encoder, inferred = self._encoder(data, train)
        sources = {"train": train}
        sources |= {split: _source(url) for split, url in (("validation", data.validation), ("test", data.test)) if url}
        staging_root = self.storage.local
        if staging_root:
            staging_root.mkdir(parents=True, exist_ok=True)
        rows: dict[str, tuple[tuple[int, ...], ...]] = {}
        with tempfile.TemporaryDirectory(dir=staging_root, prefix=".staging-") as folder:
            for split, dataset in sources.items():
                rows |= self._ingest_split(split, dataset, encoder, Path(folder))
        id_type = train.schema.field(data.id).type
        group_type = train.schema.field(data.group).type if data.group else None
        self.storage.write(
            _MANIFEST,
            json.dumps(
                {
                    "encoder": encoder.to_json(),
                    "classes_inferred": inferred,
                    "id_type": str(id_type),
                    "group_type": str(group_type) if group_type is not None else None,
                    "rows": rows,
                }
            ).encode(),
        )
        self._manifest = None
        return self.manifest

    def _encoder(self, data: DataSettings, train: pads.Dataset) -> tuple[Encoder, bool]:
        for role, name in (("id", data.id), ("group", data.group), ("label", data.label)):
            if name is not None and name not in train.schema.names:
                raise DataError(
                    f"data.{role} names a column that is not in the table",
                    expected=", ".join(train.schema.names),
                    got=name,
                )
        for field in train.schema:
            if isinstance(field.type, pa.BaseExtensionType):
                raise DataError(
                    f"column {field.name!r} has an Arrow extension type",
                    expected="plain Arrow types",
                    got=str(field.type),
                    remedy="cast it to its storage type before ingestion",
                )
        taken = {data.id, data.group, data.label}
        features = data.features or tuple(name for name in train.schema.names if name not in taken)
        columns = make_columns(
            train.schema,
            features,
            fills=data.fills,
            categories=data.categories,
            hash_buckets=data.hash_buckets,
            scale=data.scale,
        )
        classes = data.classes
        if classes is None:
            seen: set[int | str] = set()
            for batch in train.to_batches(columns=[data.label], batch_size=_BATCH_ROWS):
                seen |= label_set(pa.Table.from_batches([batch]).column(0))
            classes = infer_classes(sorted(seen, key=str))
        if len(classes) < 2:
            raise DataError(
                "there are fewer than two classes", expected="a classification task", got=f"{list(classes)}"
            )
        return Encoder(columns, data.label, classes), data.classes is None

    def _ingest_split(
        self, split: str, dataset: pads.Dataset, encoder: Encoder, folder: Path
    ) -> dict[str, tuple[tuple[int, ...], ...]]:
        fraction = self.settings.data.validation_fraction if split == "train" else 0.0
        names = [split, "validation"] if fraction and not self.settings.data.validation else [split]
        writers = {name: _Staging(folder / name, self.shards) for name in names}
        wanted = [c for c in (self.settings.data.id, self.settings.data.group, encoder.label) if c]
        wanted += [column.name for column in encoder.columns if column.name not in wanted]
        if missing := sorted(set(wanted) - set(dataset.schema.names)):
            raise DataError(f"the {split} table lacks columns {missing}", expected="the columns of the training table")
        for batch in dataset.to_batches(columns=wanted, batch_size=_BATCH_ROWS):
            if not batch.num_rows:
                continue
            table, places = self._annotate(pa.Table.from_batches([batch]), encoder)
            shard, slice_ = place(places, self.shards, self.slices)
            table = table.append_column("_slice", pa.array(slice_))
            aside = held_out(places, fraction)
            for name, writer in writers.items():
                writer.append(table, np.where(aside == (name == "validation") if len(writers) > 1 else True, shard, -1))
        found = {}
        for name, writer in writers.items():
            writer.close()
            found[name] = tuple(self._finish(name, shard, writer.path(shard)) for shard in range(self.shards))
            self._index(name, folder)
        return found

    def _annotate(self, table: pa.Table, encoder: Encoder) -> tuple[pa.Table, Digests]:
        """Add the digest columns; encoding the batch here refuses bad rows before anything is written for good."""
        data = self.settings.data
        ids = digests(self.key, "id", table.column(data.id).to_pylist())
        places, groups = ids, np.zeros_like(ids)
        if data.group:
            values = table.column(data.group).to_pylist()
            has = np.array([value is not None for value in values])
            groups = groups.copy()
            groups[has] = digests(self.key, "group", [value for value in values if value is not None])
            places = np.where(has[:, None], groups, ids)
        x, y = encoder.encode(table), encoder.encode_labels(table)
        content = b"".join(
            hashlib.blake2b(row.tobytes() + int(label).to_bytes(8, "little"), digest_size=16).digest()
            for row, label in zip(x, y, strict=True)
        )
        table = table.append_column("_id", _binary(ids.tobytes()))
        table = table.append_column("_group", _binary(groups.tobytes()))
        return table.append_column("_content", _binary(content)), places

    def _finish(self, split: str, shard: int, staging: Path) -> tuple[int, ...]:
        """Sort one staged shard and write it, one row group per slice, from a memory map."""
        if not staging.exists():
            return (0,) * self.slices
        counts = []
        output = staging.with_suffix(".parquet")
        with pa.memory_map(str(staging)) as source:
            table = pa.ipc.open_stream(source).read_all()
            order = pc.sort_indices(table.select(["_slice", "_id"]), [("_slice", "ascending"), ("_id", "ascending")])
            ids = table.column("_id").take(order)
            if len(ids) > 1 and pc.any(pc.equal(ids[1:], ids[:-1])).as_py():
                raise _duplicates(split)
            slices = table.column("_slice").take(order).to_numpy()
            edges = np.searchsorted(slices, np.arange(1, self.slices + 2))
            with pq.ParquetWriter(output, table.schema, compression="zstd") as writer:
                for start, stop in zip(edges, edges[1:], strict=False):
                    counts.append(int(stop - start))
                    if stop > start:
                        writer.write_table(table.take(order[start:stop]), row_group_size=int(stop - start))
        staging.unlink()
        self.storage.publish(output, _shard_file(split, shard))
        return tuple(counts)

    def _index(self, split: str, folder: Path) -> None:
        """Write id → shard (grouped tables) and content → row files, each partitioned by the hash."""
        grouped = self.settings.data.group is not None
        if not grouped and split != "train":
            return
        by_id, by_content = _Staging(folder / f"{split}-by-id", self.shards), _Staging(folder / f"{split}-by-content", self.shards)
        for shard in range(self.shards):
            if not self.storage.exists(_shard_file(split, shard)):
                continue
            table = pq.read_table(
                self.storage.path(_shard_file(split, shard)),
                filesystem=self.storage.fs,
                columns=["_id", "_group", "_content"],
            )
            ids, content = _bytes(table, "_id"), _bytes(table, "_content")
            entry = pa.table(
                {
                    "id": table["_id"],
                    "group": table["_group"],
                    "content": table["_content"],
                    "shard": pa.array(np.full(len(ids), shard, dtype=np.int32)),
                }
            )
            if grouped:
                by_id.append(entry.select(["id", "shard"]), _parts(ids, self.shards))
            if split == "train":
                by_content.append(entry, _parts(content, self.shards))
        for kind, staged, active in (("id", by_id, grouped), ("content", by_content, split == "train")):
            staged.close()
            for part in range(self.shards if active else 0):
                table = staged.read(part)
                name = _id_file(part) if kind == "id" else _content_file(part)
                if table is None:
                    table = pa.table({"id": pa.array([], _DIGEST), "shard": pa.array([], pa.int32())})
                    if kind == "content":
                        table = table.append_column("group", pa.array([], _DIGEST))
                        table = table.append_column("content", pa.array([], _DIGEST))
                if kind == "id":
                    if len(pc.unique(table["id"])) != len(table):
                        raise _duplicates(split)
                    if self.storage.exists(name):  # ids of another split, possibly of the same person
                        table = pa.concat_tables([_read_index(self.storage, name), table])
                sink = folder / "index.parquet"
                pq.write_table(table.sort_by(kind), sink)
                self.storage.publish(sink, name)


class _Staging:
    """One append-only Arrow stream per part, opened when the first row comes."""

    def __init__(self, folder: Path, parts: int) -> None:
        self._folder, self._parts = folder, parts
        self._open: dict[int, Any] = {}

    def path(self, part: int) -> Path:
        return self._folder / f"{part:05d}.arrow"

    def append(self, table: pa.Table, parts: npt.NDArray[Any]) -> None:
        for part in np.unique(parts[parts >= 0]):
            chosen = table.filter(pa.array(parts == part))
            if int(part) not in self._open:
                self._folder.mkdir(exist_ok=True)
                self._open[int(part)] = pa.ipc.new_stream(str(self.path(int(part))), table.schema)
            self._open[int(part)].write_table(chosen)

    def close(self) -> None:
        for writer in self._open.values():
            writer.close()

    def read(self, part: int) -> pa.Table | None:
        if not self.path(part).exists():
            return None
        with pa.ipc.open_stream(str(self.path(part))) as reader:
            return reader.read_all()


def _duplicates(split: str) -> DataError:
    return DataError(
        f"the {split} table has duplicate ids", expected="every id once", remedy="remove the duplicates, or name another data.id"
    )


def _source(url: str) -> pads.Dataset:
    fs, path = open_fs(url)
    try:
        return pads.dataset(path, filesystem=fs, format="parquet")
    except (OSError, pa.ArrowInvalid) as error:
        raise DataError(f"can't read {url}", expected="a Parquet file or folder", got=str(error).split("\n")[0]) from None


@lru_cache(maxsize=256)
def _cached_keys(url: str, name: str, stamp: int) -> tuple[npt.NDArray[np.int32], Digests, Digests, Digests]:
    storage = Storage(url)
    table = pq.read_table(storage.path(name), filesystem=storage.fs, columns=list(_META))
    return (
        table["_slice"].to_numpy().astype(np.int32),
        _bytes(table, "_id"),
        _bytes(table, "_group"),
        _bytes(table, "_content"),
    )


def _key_columns(storage: Storage, name: str) -> tuple[npt.NDArray[np.int32], Digests, Digests, Digests]:
    info = storage.fs.get_file_info(storage.path(name))
    return _cached_keys(storage.url, name, int(info.mtime_ns or 0))


def _read_index(storage: Storage, name: str) -> pa.Table:
    return pq.read_table(storage.path(name), filesystem=storage.fs)


def _binary(data: bytes) -> pa.Array:
    return pa.FixedSizeBinaryArray.from_buffers(_DIGEST, len(data) // 16, [None, pa.py_buffer(data)])


def _bytes(table: pa.Table, name: str) -> Digests:
    """Return a digest column as uint8 [n, 16]."""
    column = table.column(name).combine_chunks()
    if isinstance(column, pa.ChunkedArray):
        column = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], type=_DIGEST)
    data = np.frombuffer(column.buffers()[1] or b"", dtype=np.uint8)
    return data[column.offset * 16 : (column.offset + len(column)) * 16].reshape(-1, 16)


def _parts(keys: Digests, parts: int) -> npt.NDArray[np.int32]:
    return place(keys, parts, 1)[0]


def _part(key: bytes, parts: int) -> int:
    return int(_parts(np.frombuffer(key, dtype=np.uint8).reshape(1, 16), parts)[0])


def _shard_file(split: str, shard: int) -> str:
    return f"lake/{split}/shard-{shard:05d}.parquet"


def _id_file(part: int) -> str:
    return f"lake/index/id-{part:05d}.parquet"


def _content_file(part: int) -> str:
    return f"lake/index/content-{part:05d}.parquet"
