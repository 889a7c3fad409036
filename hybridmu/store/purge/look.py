"""Looking through storage for what a purge should have left nowhere.

Tables are looked at when they are rewritten, weights are swept by reference, certificates hold keyed hashes alone and
are covered by their chain. Everything else under `storage_url`, known or not, is searched: names, bytes, and the
values of Parquet, Arrow, CSV, JSON and compressed files.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Collection, Iterator
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from hybridmu.core.needles import DIGEST_BYTES, Needles, spelled
from hybridmu.core.partition import digest
from hybridmu.errors import DataError, HybridMUError, PurgeError
from hybridmu.store.files.object_versions import Leftover, delete_noncurrent, list_noncurrent
from hybridmu.store.lake.lake import Lake
from hybridmu.types import KeyKind

_LINEAGE_BYTES = 92  # a shard's number, a hash and a check
_WEIGHTS = re.compile(r"blobs/shard-(\d{5})/[0-9a-f]{48}\.safetensors")
_LINEAGE = re.compile(r"lineage/shard-(\d{5})/[0-9a-f]{48}")
_CERTIFICATE = re.compile(r"certificates/\d{8,}\.json")
_OF_A_SHARD = re.compile(r"(?:^|/)shard-(\d{5})(?:/|\.parquet$)")
_COMPRESSED = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd", ".lz4": "lz4"}
_SEPARATED = {".csv": ",", ".tsv": "\t"}
_LINES = {".jsonl", ".ndjson"}
_JSON = {".json", *_LINES}
_ARROW = {".feather", ".arrow"}


class Look:
    """One search of storage.

    Args:
        lake: Names storage, its tables and the columns of ids and groups.
        needles: Digests and telling raw ids of purged rows.
        database: Path of SQLite's file, which may lie in storage; it is searched when it is cleaned.
        waiting: Names of copies of new rows, which went through the guard; those of a correction have the same ids.
    """

    def __init__(
        self, lake: Lake, needles: Collection[bytes], database: str = "", waiting: Collection[str] = ()
    ) -> None:
        self._lake, self._storage, self._waiting = lake, lake.storage, frozenset(waiting)
        self._needles = Needles(spelled(needles))
        self._meaning = {spelling: needle for needle in needles for spelling in spelled([needle])}
        self._digests = frozenset(needle for needle in needles if len(needle) == DIGEST_BYTES)
        self._skipped = _within(self._storage.local, database)

    def run(self) -> tuple[dict[str, frozenset[bytes]], dict[str, int]]:
        """Search every file.

        Returns:
            (file → needles that it holds, how many needles, files and bytes were searched).
        """
        self._storage.drop_stale_staging()
        found: dict[str, frozenset[bytes]] = {}
        files = size = 0
        tables = self._lake.names()
        for info in self._storage.list():
            if self._is_ours(info.name, info.size, tables):
                continue
            try:
                held = self._in_file(info.name)
            except FileNotFoundError:
                continue  # somebody's temporary file
            files, size = files + 1, size + info.size
            if held:
                found[info.name] = frozenset(held)
        return found, {"needles": len(set(self._meaning.values())), "files": files, "bytes": size}

    def _is_ours(self, name: str, size: int, tables: frozenset[str]) -> bool:
        """Return whether other checks than this search cover a file."""
        if name in tables or name in self._waiting or _CERTIFICATE.fullmatch(name):
            return True
        if match := _WEIGHTS.fullmatch(name) or (_LINEAGE.fullmatch(name) if size <= _LINEAGE_BYTES else None):
            return int(match[1]) < self._lake.shards
        return name in self._skipped

    def _in_file(self, name: str) -> set[bytes]:
        held = self._in_bytes(name.encode())
        with self._storage.reading(name) as file:
            for found in self._needles.in_stream(file.read):
                held |= {self._meaning[spelling] for spelling in found}
        with suppress(pa.ArrowException, OSError, ValueError, csv.Error, HybridMUError):
            # What is not what its name says ends early; its bytes were searched.
            for found in self._in_values(name):
                held |= found
        return held

    def _in_bytes(self, data: bytes) -> set[bytes]:
        return {self._meaning[spelling] for spelling in self._needles.in_(data)}

    def _in_values(self, name: str) -> Iterator[set[bytes]]:
        """Yield what is found in a file whose bytes are not its values."""
        *stem, last = [f".{part}" for part in name.rpartition("/")[2].split(".")]
        if last == ".parquet":
            with self._storage.reading(name) as source:
                file = pq.ParquetFile(source)
                for number in range(file.num_row_groups):
                    yield self._in_table(file.read_row_group(number))
        elif last in {*_COMPRESSED, *_SEPARATED, *_JSON, *_ARROW}:
            data = self._storage.read(name)
            if codec := _COMPRESSED.get(last):
                data = pa.CompressedInputStream(pa.BufferReader(data), codec).read()
                yield self._in_bytes(data)
                last = stem[-1] if stem else ""
            if last in _SEPARATED:
                for row in csv.DictReader(io.StringIO(data.decode()), delimiter=_SEPARATED[last]):
                    yield self._in_document(row)
            elif last in _JSON:
                for text in data.decode().splitlines() if last in _LINES else [data.decode()]:
                    yield self._in_document(json.loads(text) if text.strip() else None)
            elif last in _ARROW:
                yield self._in_table(pa.ipc.open_file(pa.BufferReader(data)).read_all())

    def _in_table(self, table: pa.Table) -> set[bytes]:
        held: set[bytes] = set()
        for name in table.schema.names:
            values = table.column(name).to_pylist()
            data = b"\n".join(value if isinstance(value, bytes) else str(value).encode() for value in values)
            held |= self._in_bytes(data)
            held |= self._keyed(name, values)
        return held

    def _in_document(self, value: object) -> set[bytes]:
        if isinstance(value, list):
            return set().union(*map(self._in_document, value))
        if isinstance(value, dict):
            return set().union(*(self._keyed(name, [x]) | self._in_document(x) for name, x in value.items()))
        return set()

    def _keyed(self, name: object, values: Collection[object]) -> set[bytes]:
        """Return the digests of ids and groups in a column of their name: numbers are too short to be searched for."""
        data, manifest = self._lake.settings.data, self._lake.manifest
        kinds: list[tuple[KeyKind, str | None, str | None]] = [
            ("id", data.id, manifest.id_type),
            ("group", data.group, manifest.group_type),
        ]
        held: set[bytes] = set()
        for kind, column, type_ in kinds:
            if column is None or name != column:
                continue
            for value in values:
                number = "int" in (type_ or "") and str(value).lstrip("-").isdigit()
                try:
                    held.add(digest(self._lake.key, kind, int(str(value)) if number else str(value)))
                except DataError:
                    continue
        return held & self._digests


def _within(root: Path | None, database: str) -> frozenset[str]:
    """Return the names of SQLite's files, if they lie in storage."""
    if root is None or not database or not Path(database).resolve().is_relative_to(root.resolve()):
        return frozenset()
    name = Path(database).resolve().relative_to(root.resolve()).as_posix()
    return frozenset(f"{name}{suffix}" for suffix in ("", "-wal", "-shm", "-journal"))


def drop_old_versions(lake: Lake, shards: Collection[int]) -> int:
    """Delete what a versioned bucket keeps of replaced and deleted objects, and look whether it is gone.

    Left alone are the old versions of other shards' files, at which jobs may be at work, and unfinished uploads of
    files that belong to no shard, which a client may be making.

    Args:
        lake: Names storage.
        shards: Shards whose files were purged.

    Returns:
        How many old versions went; 0 where storage keeps none.

    Raises:
        PurgeError: One is still there.
        StorageError: S3 does not let us look.
    """
    there = _leftovers(lake, shards)
    dropped = delete_noncurrent(lake.storage.url, {item.name for item in there})
    if left := _leftovers(lake, shards) if there else []:
        raise PurgeError(
            f"{len(left)} old version(s) of purged files are still there",
            got=", ".join(sorted({item.name for item in left})[:3]),
            remedy="end the bucket's retention or legal hold on them, or abort the uploads",
        )
    return dropped


def _leftovers(lake: Lake, shards: Collection[int]) -> list[Leftover]:
    return list(_ours(list_noncurrent(lake.storage.url), set(shards)))


def _ours(found: Collection[Leftover], shards: set[int]) -> Iterator[Leftover]:
    for item in found:
        match = _OF_A_SHARD.search(item.name)
        if match is None and item.kind == "upload":
            continue
        if match is None or int(match[1]) in shards:
            yield item
