"""Purging storage: rows are rewritten out of the Parquet files, files that saw them are deleted, then the code looks.

Every touched file is read and written once, and read once more to look. All steps may be repeated: what an
interrupted purge did is found done.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from hybridmu.core.needles import search
from hybridmu.core.rows import carries
from hybridmu.errors import PurgeError
from hybridmu.store.blobs import Blobs
from hybridmu.store.lake import Lake
from hybridmu.store.layout import DIGEST, SPLITS, digest_column, part_of
from hybridmu.store.parquet import WRITING, open_parquet, read_parquet

# Shorter raw ids occur by chance in any file.
_DISTINCTIVE = 8
_REMEDY = "another process wrote to storage, or the disk lies: stop that process, and let the purge run again"
Keys = Collection[tuple[str, bytes]]


@dataclass(frozen=True, slots=True)
class Survey:
    """What a purge of one shard will remove; made and kept before anything is removed, so that it survives a crash.

    Attributes:
        shard: Shard number.
        rows: How many rows.
        ids: Id digests of the rows.
        content: Content digests of those in the training table.
        needles: Byte strings that must not occur anywhere any more: digests, and raw ids long enough to be telling.
    """

    shard: int
    rows: int = 0
    ids: tuple[bytes, ...] = ()
    content: tuple[bytes, ...] = ()
    needles: tuple[bytes, ...] = ()

    def to_json(self) -> str:
        """Return the text that `from_json` reads."""
        hexed = {name: [x.hex() for x in getattr(self, name)] for name in ("ids", "content", "needles")}
        return json.dumps({"shard": self.shard, "rows": self.rows, **hexed})

    @classmethod
    def from_json(cls, text: str) -> Survey:
        """Return the survey that `to_json` wrote."""
        raw = json.loads(text)
        ids, content, needles = (tuple(map(bytes.fromhex, raw[name])) for name in ("ids", "content", "needles"))
        return cls(raw["shard"], raw["rows"], ids, content, needles)


def survey(lake: Lake, shard: int, keys: Keys) -> Survey:
    """Look up what carries a key in a shard's files; changes nothing.

    Args:
        lake: The tables.
        shard: Shard number.
        keys: (kind, digest) of what will go.

    Returns:
        The rows and how to find their traces.
    """
    wanted = set(keys)
    forgotten = {pair for pair in wanted if pair[0] == "group"}  # other rows of the group may stay
    rows, ids, content = 0, [], []
    needles = {key for _, key in wanted}
    for split in SPLITS:
        for name in lake.files(split, shard):
            columns = lake.keys_of(name)
            mask = carries(columns.ids, columns.groups, wanted)
            if not mask.any():
                continue
            rows += int(mask.sum())
            ids += [row.tobytes() for row in columns.ids[mask]]
            content += [row.tobytes() for row in columns.content[mask]] if split == "train" else []
            whole = carries(columns.ids, columns.groups, forgotten)
            for column, going in ((lake.settings.data.id, mask), (lake.settings.data.group, whole)):
                if column is not None and going.any():
                    values = read_parquet(lake.storage, name, [column])[column].filter(pa.array(going))
                    needles |= {found for value in values.to_pylist() if (found := _telling(value))}
    return Survey(shard, rows, tuple(ids), tuple(content), tuple(sorted(needles | set(ids))))


def purge_rows(lake: Lake, shard: int, keys: Keys) -> tuple[str, ...]:
    """Rewrite a shard's files without the rows that carry a key, and look at what was written.

    Args:
        lake: The tables.
        shard: Shard number.
        keys: (kind, digest) of what must go.

    Returns:
        The files that were rewritten; none when an earlier call did it already.

    Raises:
        PurgeError: A rewritten file still holds such a row, or lost another one.
    """
    wanted = set(keys)
    done = []
    for split in SPLITS:
        for name in lake.files(split, shard):
            columns = lake.keys_of(name)
            mask = carries(columns.ids, columns.groups, wanted)
            if not mask.any():
                continue
            expected = Counter(row.tobytes() for row in columns.content[~mask])  # live duplicates stay
            _rewrite(lake, name, wanted)
            left = lake.keys_of(name)
            same = Counter(row.tobytes() for row in left.content) == expected
            if carries(left.ids, left.groups, wanted).any() or not same:
                raise PurgeError(f"{name} is not what a purge should leave", remedy=_REMEDY)
            done.append(name)
    return tuple(done)


def purge_indexes(lake: Lake, keys: Keys, ids: Collection[bytes], content: Collection[bytes]) -> tuple[str, ...]:
    """Rewrite the index files that name rows to be purged, and look at what was written.

    Done before the rows go: afterwards nothing would tell which parts name them.

    Args:
        lake: The tables.
        keys: (kind, digest) of what must go.
        ids: Id digests of the rows, which name the parts of the id index.
        content: Content digests of the training rows, which name the parts of the content index.

    Returns:
        The files that were rewritten.

    Raises:
        PurgeError: A rewritten file still names such a row.
    """
    wanted = set(keys) | {("id", row) for row in ids}
    parts = {part_of(row, lake.shards) for row in (*ids, *content)}
    done = []
    for name in (name for part in sorted(parts) for name in lake.index_files(part)):
        if not _named(read_parquet(lake.storage, name, ["_id", "_group"]), wanted).any():
            continue
        _rewrite(lake, name, wanted)
        if _named(read_parquet(lake.storage, name), wanted).any():
            raise PurgeError(f"{name} is not what a purge should leave", remedy=_REMEDY)
        done.append(name)
    return tuple(done)


def sweep(blobs: Blobs, shard: int, refs: Collection[str], keys: Collection[str]) -> int:
    """Delete every blob and lineage entry of a shard but those that the served version stands on.

    What nobody knows of goes as well: finished slices of runs that were given up, temporary files of a crash.

    Args:
        blobs: Where they are.
        shard: Shard number; no job may be at work on it.
        refs: Blobs to keep.
        keys: Lineage entries to keep.

    Returns:
        How many files went.

    Raises:
        PurgeError: One of them is still there.
    """
    have_refs, have_keys = blobs.listed(shard)
    unfinished = blobs.unfinished(shard)
    old_refs, old_keys = have_refs - set(refs), have_keys - set(keys)
    if old_refs or old_keys or unfinished:
        blobs.drop(shard, old_refs, old_keys)
    left_refs, left_keys = blobs.listed(shard)
    if left := [*(left_refs - set(refs)), *(left_keys - set(keys)), *blobs.unfinished(shard)]:
        raise PurgeError(f"{len(left)} old file(s) of shard {shard} are still there", remedy="check rights and locks")
    return len(old_refs) + len(old_keys) + len(unfinished)


def look(lake: Lake, needles: Collection[bytes], database: str) -> dict[str, int]:
    """Search every file in storage that is neither weights nor a table of an untouched shard for byte strings.

    Tables were decoded when they were rewritten, weights are swept by reference; everything else, known or not, is
    read as bytes: manifests, journals, certificates, and whatever somebody put there.

    Args:
        lake: Names the storage.
        needles: Digests and telling raw ids of purged rows.
        database: Path of SQLite's file, which may lie in storage; it is searched once it is cleaned.

    Returns:
        How many needles were looked for in how many files and bytes.

    Raises:
        PurgeError: A needle was found; the file is named.
    """
    wanted = {*needles, *(needle.hex().encode() for needle in needles if len(needle) == DIGEST.byte_width)}
    files = size = 0
    for info in lake.storage.list():
        if info.name.startswith(("lake/", "blobs/")) and info.name.endswith((".parquet", ".safetensors")):
            continue
        if lake.storage.path(info.name) in {f"{database}{suffix}" for suffix in ("", "-wal", "-shm", "-journal")}:
            continue
        try:
            data = _decoded(lake, info.name)
        except FileNotFoundError:
            continue  # somebody's temporary file
        files, size = files + 1, size + len(data)
        if search(data, wanted):
            raise PurgeError(
                f"{info.name} still names a purged row", remedy="it is not one of ours: delete it, or move it elsewhere"
            )
    return {"needles": len(needles), "files": files, "bytes": size}


def _decoded(lake: Lake, name: str) -> bytes:
    """Return a file's content as bytes to search; of a Parquet file somebody put there, its values."""
    if not name.endswith(".parquet"):
        return lake.storage.read(name)
    table = read_parquet(lake.storage, name)
    return b"".join(str(value).encode() for column in table.columns for value in column.to_pylist())


def _rewrite(lake: Lake, name: str, wanted: set[tuple[str, bytes]]) -> None:
    """Publish a table without some rows, row group by row group."""
    with open_parquet(lake.storage, name) as file, lake.storage.staging() as folder:
        target = folder / "purged.parquet"
        # Same schema with its metadata, same types: timestamps keep their unit and zone.
        with pq.ParquetWriter(target, file.schema_arrow, **WRITING) as writer:
            for number in range(file.num_row_groups):
                table = file.read_row_group(number, use_threads=False)
                kept = table.filter(pa.array(~_named(table, wanted)))
                if len(kept):
                    writer.write_table(kept, row_group_size=len(kept))
        lake.storage.publish(target, name)


def _telling(value: object) -> bytes | None:
    data = value if isinstance(value, bytes) else value.encode() if isinstance(value, str) else b""
    return data if len(data) >= _DISTINCTIVE else None


def _named(table: pa.Table, wanted: set[tuple[str, bytes]]) -> npt.NDArray[np.bool_]:
    ids = digest_column(table, "_id")
    groups = digest_column(table, "_group") if "_group" in table.schema.names else ids[:0]
    if len(groups):
        return carries(ids, groups, wanted)
    return carries(ids, ids, {pair for pair in wanted if pair[0] == "id"})
