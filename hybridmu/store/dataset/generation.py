"""Writing one generation of rows: streaming, all or nothing.

Batches are appended to one staging file per shard; each shard is then sorted and written slice by slice from a
memory map, so memory stays within 1.5 times one shard plus one row group of the source. Nothing is published before
every table was read and checked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from hybridmu.core.kernel.partition import Digests, held_out
from hybridmu.core.kernel.revoked_keys import carries
from hybridmu.errors import DataError
from hybridmu.faults import reach
from hybridmu.store.dataset.held_out_people import held_out_for_test
from hybridmu.store.dataset.key_index import index_seal, keys_in
from hybridmu.store.dataset.lake import Lake
from hybridmu.store.dataset.layout import (
    META,
    SPLITS,
    Split,
    content_file,
    digest_column,
    folder,
    id_file,
    parts_of,
    shard_file,
)
from hybridmu.store.dataset.list_packing import packed
from hybridmu.store.dataset.source_rows import Batch
from hybridmu.store.dataset.spill_files import Streams
from hybridmu.store.storage.file_modes import PRIVATE
from hybridmu.store.storage.parquet import TableWriter, publish_parquet, read_parquet, write_parquet
from hybridmu.types import KeySet

# A reader holds several times a row group while it decodes it: small ones keep a loading actor near its rows' size.
_GROUP_ROWS = 1_024
Beat = Callable[[], None]


class Draft:
    """A generation in the making.

    Args:
        lake: Names the storage and the partition.
        staging: An empty folder on this machine.
        number: Of the generation; ids of a later one are checked against all earlier ones.
        first_slice: Number of its first slice.
        slices: How many slices it gets.
        test_fraction: Share of the people of a training table that are held out as the test table.
        beat: Called again and again; for a process that must show that it is alive.

    Attributes:
        seals: Name → seal of every file that `finish` wrote.
    """

    def __init__(
        self,
        lake: Lake,
        staging: Path,
        number: int,
        first_slice: int,
        slices: int,
        test_fraction: float,
        beat: Beat = lambda: None,
    ) -> None:
        self.lake, self.number = lake, number
        self._staging, self._first, self._slices, self._beat = staging, first_slice, slices, beat
        self._test_fraction = test_fraction
        self._tables = {split: Streams(staging / split) for split in SPLITS}
        self._by_id, self._by_content = Streams(staging / "by-id"), Streams(staging / "by-content")
        self._splits: list[Split] = []
        self.seals: dict[str, str] = {}

    def add(self, split: Split, batches: Iterable[Batch], source: int = 0) -> None:
        """Take in one source table.

        Args:
            split: Which table; a training table may be cut into train, validation and test.
            batches: Its rows.
            source: Its number; 0 is the training table. Ids are unique within one source.
        """
        data = self.lake.settings.data
        names: list[Split] = [split]
        if split == "train" and not data.validation and data.validation_fraction:
            names.append("validation")
        if split == "train" and self._test_fraction:
            names.append("test")
        self._splits += [name for name in names if name not in self._splits]
        for batch in batches:
            self._beat()
            shard, slice_ = self.lake.partitioner.place(batch.places, self.lake.shards, self._slices)
            table = batch.table.append_column("_slice", pa.array(slice_ + np.int32(self._first - 1)))
            left = np.ones(len(shard), dtype=np.bool_)
            for name in reversed(names):  # the table itself comes last, with all that no other one took
                chosen = left & self._belongs(name, split, batch.places)
                self._tables[name].append(table, np.where(chosen, shard, -1))
                left &= ~chosen
            if data.group or self.number:
                entry = table.select(["_id"]).append_column("shard", pa.array(shard))
                entry = entry.append_column("source", pa.array(np.full(len(shard), source, dtype=np.int32)))
                self._by_id.append(entry, parts_of(digest_column(table, "_id"), self.lake.shards))
            if split == "train":
                entry = table.select(["_id", "_group", "_content"]).append_column("shard", pa.array(shard))
                kept = entry.filter(pa.array(chosen))
                self._by_content.append(kept, parts_of(digest_column(kept, "_content"), self.lake.shards))

    def _belongs(self, name: Split, source: Split, places: Digests) -> npt.NDArray[np.bool_]:
        if name == source:
            return np.ones(len(places), dtype=np.bool_)
        if name == "test":
            return held_out_for_test(places, self._test_fraction)
        return held_out(places, self.lake.settings.data.validation_fraction)

    def finish(self) -> dict[str, tuple[tuple[int, ...], ...]]:
        """Sort everything, and check that ids are unique.

        Returns:
            Split → rows per shard, per slice of this generation.

        Raises:
            DataError: An id occurs twice, or in an earlier generation.
        """
        for streams in (*self._tables.values(), self._by_id, self._by_content):
            streams.close()
        for part in range(self.lake.shards):
            self._index(part)
        return {
            split: tuple(self._sort(split, shard, self._tables[split].path(shard)) for shard in range(self.lake.shards))
            for split in self._splits
        }

    def publish(self) -> None:
        """Move the files into storage, after removing what an interrupted attempt left there."""
        self.lake.storage.delete_folder(folder(self.number))
        reach("ingest.cleared")
        for file in sorted((self._staging / "done").glob("*")):
            self._beat()
            publish_parquet(self.lake.storage, file, file.name.replace("+", "/"))
            reach("ingest.published")

    def _index(self, part: int) -> None:
        """Write one part of the indexes id → shard (grouped tables) and content → row."""  # noqa: DOC501
        ids = self._by_id.read(part)
        if ids is not None:
            pairs = ids.group_by(["_id", "source"]).aggregate([([], "count_all")])
            if pc.max(pairs["count_all"]).as_py() > 1:
                raise duplicates("source")
            if self.number and known_ids(self.lake, part, digest_column(ids, "_id")).any():
                raise already_there()
            if self.lake.settings.data.group:
                self._write_index(id_file(self.number, part), ids.sort_by("_id"))
        content = self._by_content.read(part)
        if content is not None:
            self._write_index(content_file(self.number, part), content.sort_by("_content"))

    def _write_index(self, name: str, table: pa.Table) -> None:
        write_parquet(self._done(name), table)
        self.seals[name] = index_seal(table)

    def _sort(self, split: str, shard: int, staging: Path) -> tuple[int, ...]:
        # Row groups never cross a slice.
        if not staging.exists():
            return (0,) * self._slices
        counts = []
        with pa.memory_map(str(staging)) as source:
            table = packed(pa.ipc.open_stream(source).read_all())
            name = shard_file(self.number, split, shard)
            with TableWriter(self._done(name), table.schema) as writer:
                # Filter first: take() on the shard would copy all of it.
                for slice_ in range(self._first, self._first + self._slices):
                    self._beat()
                    mine = table.filter(pc.equal(table["_slice"], slice_)).sort_by("_id")
                    ids = mine["_id"]
                    if len(ids) > 1 and pc.any(pc.equal(ids[1:], ids[:-1])).as_py():
                        raise duplicates(split)
                    counts.append(len(mine))
                    if len(mine):
                        writer.write(mine, row_group_size=_GROUP_ROWS)
            self.seals[name] = keys_in(pq.read_table(self._done(name), columns=list(META))).seal
        staging.unlink()
        return tuple(counts)

    def _done(self, name: str) -> Path:
        done = self._staging / "done"
        done.mkdir(mode=PRIVATE.folder, exist_ok=True)
        return done / name.replace("/", "+")


def known_ids(lake: Lake, part: int, ids: Digests) -> npt.NDArray[np.bool_]:
    """Return which ids have a row in the lake that came from a training table, revoked ones included.

    Args:
        lake: The tables.
        part: The part of all indexes that these ids belong to.
        ids: uint8 [n, 16].

    Returns:
        bool [n].
    """
    found = np.zeros(len(ids), dtype=np.bool_)
    for there in _training_ids(lake, part):
        found |= carries(ids, ids, KeySet(("id", row.tobytes()) for row in there))
    return found


def _training_ids(lake: Lake, part: int) -> Iterator[Digests]:
    data = lake.settings.data
    if data.group:
        for name in lake.index_of(id_file, part):
            lake.check(name)
            index = read_parquet(lake.storage, name, ["_id", "source"])
            yield digest_column(index.filter(pc.equal(index["source"], 0)), "_id")
        return
    # Without groups the hash that names the part of an index names the shard, too.
    for split in lake.training_splits:
        for name in lake.files(split, part):
            yield lake.keys_of(name).ids


def duplicates(table: str) -> DataError:
    """Return the error for ids that occur twice in one table."""
    return DataError(
        f"the {table} table has duplicate ids",
        expected="every id once",
        remedy="remove the duplicates, or name another data.id",
    )


def already_there() -> DataError:
    """Return the error for ids that came in before."""
    return DataError(
        "ids of the new table are in the system already, or are not purged yet",
        expected="new ids only; nothing was changed",
        remedy="leave these rows out; to replace rows by corrected ones use `hybridmu correct`",
    )
