"""Mending a table from an older copy: what was purged since is left out, and the seal says whether that was all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hybridmu.errors import StorageError
from hybridmu.store.dataset.key_index import index_seal, keys_in
from hybridmu.store.dataset.lake import Lake
from hybridmu.store.dataset.layout import META, SPLITS, digest_column
from hybridmu.store.ledger.suppression_list import Guard
from hybridmu.store.storage.parquet import open_parquet, publish_parquet, writing
from hybridmu.store.storage.storage import Storage


def mend(lake: Lake, guard: Guard, name: str, copy: Path) -> int:
    """Write a table or an index file again from a copy, which may be older than purges.

    Rows of a table that the guard knows to be purged are left out; of an index, those that no table has. Nothing is
    written unless the rest is what the ledger recorded of the file.

    Args:
        lake: Compares its files with the ledger.
        guard: Recognises what was purged.
        name: Of the file in storage.
        copy: A file on this machine.

    Returns:
        How many rows of the copy were left out.

    Raises:
        StorageError: The copy is damaged, or lacks rows, or has others than were recorded.
    """
    seals = dict(lake.recorded([name]) or ())
    index = "/index/" in name
    with lake.storage.staging() as folder, open_parquet(Storage(str(copy.resolve().parent)), copy.name) as file:
        target, dropped = folder / "mended.parquet", 0
        with pq.ParquetWriter(target, file.schema_arrow, **writing(file.schema_arrow)) as writer:
            for number in range(file.num_row_groups):
                table = file.read_row_group(number, use_threads=False)
                kept = table.filter(pa.array(_there(lake, table) if index else ~_purged(lake, guard, table)))
                dropped += len(table) - len(kept)
                if len(kept):
                    writer.write_table(kept, row_group_size=len(kept))
        made = pq.read_table(target) if index else pq.read_table(target, columns=list(META))
        if (index_seal(made) if index else keys_in(made).seal) not in seals.get(name, ()):
            raise StorageError(
                f"{copy.name} is no copy of {name} from which it could be made again; nothing was changed",
                expected="all rows that were there after the last change, besides those that were purged since",
                got=f"{len(made)} row(s) that are not these" if name in seals else "a file that is not recorded",
                remedy="try another copy; without one see docs/operations.md, A damaged table",
            )
        publish_parquet(lake.storage, target, name)
    return dropped


def _purged(lake: Lake, guard: Guard, table: pa.Table) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    data = lake.settings.data
    gone = guard.purged("id", table[data.id].to_pylist())
    return gone | guard.purged("group", table[data.group].to_pylist()) if data.group else gone


def _there(lake: Lake, table: pa.Table) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Return which rows of an index file name a row of a table."""
    shards = table["shard"].to_pylist()
    have = {
        (shard, row.tobytes())
        for shard in set(shards)
        for split in SPLITS
        for name in lake.files(split, shard)
        for row in lake.keys_of(name).ids
    }
    rows = zip(shards, map(bytes, digest_column(table, "_id")), strict=True)
    return np.fromiter((pair in have for pair in rows), dtype=np.bool_, count=len(table))
