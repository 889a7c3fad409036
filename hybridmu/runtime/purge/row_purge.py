"""Purging storage: rows are rewritten out of the Parquet files, and files that saw them are deleted.

Every touched file is read and written once, and its keys are read once more to look. All steps may be repeated: what
an interrupted purge did is found done.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from hybridmu.core.kernel.revoked_keys import carries
from hybridmu.errors import PurgeError
from hybridmu.faults import reach
from hybridmu.runtime.purge.table_rewrite import Gone, rewrite
from hybridmu.store.dataset.key_index import index_seal
from hybridmu.store.dataset.lake import Lake
from hybridmu.store.dataset.layout import SPLITS, digest_column, part_of
from hybridmu.store.storage.blobs import Blobs
from hybridmu.store.storage.parquet import read_parquet
from hybridmu.types import KeySet

_REMEDY = "another process wrote to storage, or the disk lies: stop that process, and let the purge run again"


def purge_rows(lake: Lake, shard: int, keys: KeySet) -> tuple[str, ...]:
    """Rewrite a shard's tables without the rows that carry a key, and look at what was written.

    Args:
        lake: The tables.
        shard: Shard number.
        keys: Those of what must go.

    Returns:
        The files that were rewritten; none when an earlier call did it already.

    Raises:
        PurgeError: A rewritten file still holds such a row, or lost another one.
    """

    def gone(table: pa.Table) -> npt.NDArray[np.bool_]:
        return carries(digest_column(table, "_id"), digest_column(table, "_group"), keys)

    done = []
    for split in SPLITS:
        for name in lake.files(split, shard):
            columns = lake.keys_of(name)
            mask = carries(columns.ids, columns.groups, keys)
            if not mask.any():
                continue
            expected = Counter(row.tobytes() for row in columns.content[~mask])  # live duplicates stay
            rewrite(lake.storage, name, gone)
            reach("purge.rows")
            left = lake.keys_of(name)
            same = Counter(row.tobytes() for row in left.content) == expected
            if carries(left.ids, left.groups, keys).any() or not same:
                raise PurgeError(f"{name} is not what a purge should leave", remedy=_REMEDY)
            done.append(name)
    return tuple(done)


def purge_indexes(
    lake: Lake, rows: Collection[tuple[int, bytes]], content: Collection[bytes]
) -> tuple[tuple[str, ...], int]:
    """Rewrite the index files that name rows to be purged, and look at what was written.

    Args:
        lake: The tables.
        rows: (shard, id digest) of the rows; an id may have another row in another shard, which stays.
        content: Content digests of those in the training table, which name the parts of the content index.

    Returns:
        The files that were rewritten, and how many training rows with the same content are left anywhere.

    Raises:
        PurgeError: A rewritten file still names such a row.
    """
    same, gone = set(content), _indexed(rows)
    done, left = [], 0
    for name in touched_indexes(lake, rows, content):
        lake.check(name)
        if rewrite(lake.storage, name, gone):
            reach("purge.index")
            done.append(name)
        table = read_parquet(lake.storage, name)
        if gone(table).any():
            raise PurgeError(f"{name} is not what a purge should leave", remedy=_REMEDY)
        if "_content" in table.schema.names:
            left += sum(bytes(row) in same for row in digest_column(table, "_content"))
    return tuple(done), left


def touched_indexes(lake: Lake, rows: Collection[tuple[int, bytes]], content: Collection[bytes]) -> list[str]:
    """Return the names of the index files that may name rows, as in `purge_indexes`."""
    by_id, by_content = ({part_of(key, lake.shards) for key in keys} for keys in ([id_ for _, id_ in rows], content))
    return [name for part in sorted(by_id | by_content) for name in lake.index_files(part)]


def foresee_rows(lake: Lake, shard: int, keys: KeySet) -> dict[str, tuple[str, str]]:
    """Return name → (seal now, seal once `purge_rows` is done) of a shard's tables."""
    found = {}
    for split in SPLITS:
        for name in lake.files(split, shard):
            columns = lake.keys_of(name)
            gone = carries(columns.ids, columns.groups, keys)
            found[name] = (columns.seal, columns.where(~gone).seal)
    return found


def foresee_indexes(
    lake: Lake, rows: Collection[tuple[int, bytes]], content: Collection[bytes]
) -> dict[str, tuple[str, str]]:
    """Return name → (seal now, seal once `purge_indexes` is done) of the index files that may name rows."""
    gone = _indexed(rows)
    found = {}
    for name in touched_indexes(lake, rows, content):
        lake.check(name)
        table = read_parquet(lake.storage, name)
        found[name] = (index_seal(table), index_seal(table.filter(pa.array(~gone(table)))))
    return found


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
        reach("purge.swept")
    left_refs, left_keys = blobs.listed(shard)
    if left := [*(left_refs - set(refs)), *(left_keys - set(keys)), *blobs.unfinished(shard)]:
        raise PurgeError(f"{len(left)} old file(s) of shard {shard} are still there", remedy="check rights and locks")
    return len(old_refs) + len(old_keys) + len(unfinished)


def _indexed(rows: Collection[tuple[int, bytes]]) -> Gone:
    """Return what tells which rows of an index file name one of these (shard, id digest)."""
    wanted = _places(rows)

    def gone(table: pa.Table) -> npt.NDArray[np.bool_]:
        places = zip(table["shard"].to_pylist(), map(bytes, digest_column(table, "_id")), strict=True)
        return np.isin(_places(places), wanted)

    return gone


def _places(rows: Iterable[tuple[int, bytes]]) -> npt.NDArray[np.bytes_]:
    """Return (shard, id digest) pairs as fixed-width byte strings; the last byte is there since NULs at the end go."""
    joined = b"".join(shard.to_bytes(4, "big") + id_ + b"." for shard, id_ in rows)
    return np.frombuffer(joined, dtype="S21")
