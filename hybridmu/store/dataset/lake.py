"""Reading the Parquet lake: live rows of all generations as tensors, exact counts, twins.

Tombstoned rows stay in the files until purge; every reader names the keys to leave out. What is read is compared with
what the ledger recorded of it: a file of another day or another system is refused, whole as it may be.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from hybridmu.config import Settings
from hybridmu.core import features, partitioners
from hybridmu.core.features import FeatureSource
from hybridmu.core.kernel.revoked_keys import carries
from hybridmu.errors import StateError, StorageError, StorageMismatchError
from hybridmu.store.dataset.key_index import KeyColumns, joined, key_columns, stored_content, stored_seal
from hybridmu.store.dataset.layout import (
    INCOMING,
    MANIFEST,
    PUT_BACK,
    SPLITS,
    Manifest,
    Split,
    content_file,
    id_file,
    part_of,
    shard_file,
)
from hybridmu.store.dataset.list_packing import unpacked
from hybridmu.store.storage.parquet import open_parquet
from hybridmu.store.storage.sealed_json import file_seal, stream_seal
from hybridmu.store.storage.storage import Storage
from hybridmu.types import NO_KEYS, KeySet, ResolvedKey

if TYPE_CHECKING:
    from hybridmu.core.features.derived import Derivation
    from hybridmu.core.kernel.rows import Rows
    from hybridmu.store.dataset.shard_reader import ShardTables

# Names of files → the seals that each may have; two of them while it is rewritten.
Recorded = Callable[[Sequence[str]], Mapping[str, frozenset[str]]]
_T = TypeVar("_T")
_READS = 3


class OtherRowsError(StorageError):
    """A file is whole, but not the one that was recorded; it may have been rewritten while it was read."""


class MissingFileError(StorageError):
    """A file that the lake should have is not there."""


class Lake:
    """The tables of one system.

    Args:
        settings: Names the source columns, shards, slices and the partition key.
        storage: Where the lake is kept.
    """

    def __init__(self, settings: Settings, storage: Storage) -> None:
        self.settings, self.storage = settings, storage
        self.shards = settings.sisa.shards
        self.key = settings.partition_key()
        self.partitioner = partitioners.get(settings.partitioner.name)
        self._manifest: Manifest | None = None
        self._version = ""
        self._recorded: Recorded | None = None
        self._seals: dict[str, frozenset[str]] = {}

    @cached_property
    def features(self) -> FeatureSource:
        """Return what makes numbers of the feature columns."""
        return features.get(self.settings.features.name)

    @cached_property
    def derivation(self) -> Derivation:
        """Return the derived columns; no encoder is made for it."""
        from hybridmu.core.features.derived import Derivation  # loads pandas; look-ups do without

        return Derivation.of(self.settings.features, self.settings.data.fills)

    @cached_property
    def encoding(self) -> Derivation:
        """Return the derived columns, for new values, once it is known that the stored rows had these encoders."""
        return self.derivation.known_as(self.manifest.encoders)

    # ------------------------------------------------------------------ what was recorded

    def compare_with(self, recorded: Recorded) -> None:
        """Compare every file that is read from now on with what was recorded of it.

        Args:
            recorded: Asked for files whose seals are not known yet, or don't match what is known.
        """
        self._recorded, self._seals = recorded, {}

    def recorded(self, names: Sequence[str]) -> tuple[tuple[str, tuple[str, ...]], ...] | None:
        """Return the seals that files may have now, for a process that has no ledger; None when nothing is compared."""
        if self._recorded is None:
            return None
        found = self._recorded(names)
        return tuple((name, tuple(sorted(found[name]))) for name in names if name in found)

    def check(self, *names: str) -> None:
        """Check that files hold the rows that were recorded.

        Args:
            names: Tables, index files or waiting copies of new rows.

        Raises:
            StorageError: One of them is damaged, or another one than was recorded.
        """
        for name in names:
            try:
                self._settled(lambda name=name: self._compare(name, self.seal_of(name)))  # type: ignore[misc]
            except FileNotFoundError:
                raise self._missing(name) from None

    def seal_of(self, name: str) -> str:
        """Return the seal of a table, an index file or a waiting copy of new rows as it is now."""
        if name.startswith(f"{INCOMING}/"):
            return self.storage.settled(lambda: self._copy_seal(name))
        return stored_seal(self.storage, name) if "/index/" in name else key_columns(self.storage, name).seal

    def _copy_seal(self, name: str) -> str:
        with self.storage.reading(name) as file:
            return stream_seal(file, self.manifest.salt)

    def _compare(self, name: str, seal: str) -> None:
        """Compare a seal with what was recorded; asked again when it is none of those that are known.

        Raises:
            OtherRowsError: It is another one.
        """
        if self._recorded is None or seal in self._seals.get(name, ()):
            return
        self._seals |= self._recorded([name])
        if seal not in self._seals.get(name, ()):
            raise OtherRowsError(
                f"{name} in {self.storage.url} is not the file that was recorded",
                expected="the rows that the last ingestion or purge left there"
                if name in self._seals
                else "a file that this system wrote",
                got="a whole file with other content: of an older day, of another place, or of another system",
                remedy=f"{PUT_BACK}. Nothing is trained or answered from it",
            )

    def _missing(self, name: str) -> MissingFileError:
        return MissingFileError(
            f"{name} in {self.storage.url} is missing", expected="a file of the lake", remedy=PUT_BACK
        )

    def _settled(self, read: Callable[[], _T]) -> _T:
        """Return what a function reads; a file that was rewritten between two looks is read again."""
        for _ in range(_READS - 1):
            with suppress(OtherRowsError):
                return read()
        return read()

    # ------------------------------------------------------------------ the manifest

    @property
    def exists(self) -> bool:
        """Return whether the source was read completely."""
        return self.storage.exists(MANIFEST)

    @property
    def manifest(self) -> Manifest:
        """Return the manifest, as it was when it was last looked at.

        Raises:
            StateError: Nothing was ingested yet.
            CorruptBlobError: It is damaged.
            StorageError: It is not the one that was recorded.
            StorageMismatchError: It holds out another share than the configuration says.
        """
        if self._manifest is None:
            if not self.exists:
                raise StateError(
                    f"nothing was trained in {self.storage.url}",
                    expected=MANIFEST,
                    remedy=f"run `hybridmu train -c CONFIG` first; if it was trained, {MANIFEST} is lost: put back its "
                    "newest copy",
                )
            self._manifest = self._settled(self._read_manifest)
        return self._manifest

    def _read_manifest(self) -> Manifest:
        self._version = self.storage.version(MANIFEST)  # asked first: what is read may be newer, never older
        data = self.storage.read(MANIFEST)
        found = Manifest.from_bytes(data)
        self._compare(MANIFEST, file_seal(data))
        if self.settings.data.test_fraction not in {None, found.test_fraction}:
            raise StorageMismatchError(
                "this storage holds out another share of its training table as the test table",
                expected=f"data.test_fraction: {found.test_fraction:g}, or none",
                got=f"{self.settings.data.test_fraction:g}",
                remedy="use the share that it was trained with, or another storage_url",
            )
        return found

    @property
    def training_splits(self) -> tuple[Split, ...]:
        """Return the splits whose rows come from training tables: those that a hash holds out are among them."""
        held: tuple[Split, ...] = () if self.settings.data.validation else ("validation",)
        return ("train", *held, *(("test",) if self.manifest.test_fraction else ()))

    def refresh(self) -> None:
        """See what came in, or was purged, since the manifest was last looked at."""
        self._seals = {}
        if self._manifest is not None and self.storage.version(MANIFEST) != self._version:
            self._manifest = None

    def see(self, generations: int) -> None:
        """See at least so many generations.

        Raises:
            StateError: There are fewer.
        """
        if len(self.manifest.generations) < generations:
            self._manifest = None
        if (have := len(self.manifest.generations)) < generations:
            raise StateError(
                "storage lacks rows that were ingested",
                expected=f"{generations} generation(s)",
                got=str(have),
                remedy=f"lake/manifest.json is older than the ledger: {PUT_BACK}",
            )

    def rows(
        self,
        split: Split,
        shard: int,
        revoked: KeySet,
        *,
        only_revoked: bool = False,
        generations: int | None = None,
    ) -> Rows:
        """Return the live rows of a shard as tensors, or only the revoked ones.

        Args:
            split: Which table.
            shard: Shard number.
            revoked: Tombstoned keys.
            only_revoked: Return what live reading leaves out (a removal's or audit's fenced read).
            generations: Read only the first so many; all by default.

        Returns:
            Rows in canonical order.
        """
        tables = self.shard(split, shard, generations)
        mask = carries(tables.outline.ids, tables.outline.groups, revoked)
        (rows,) = tables.rows(np.flatnonzero(mask if only_revoked else ~mask))
        pa.default_memory_pool().release_unused()  # a holder of the rows should not keep what they were decoded from
        return rows

    def shard(self, split: Split, shard: int, generations: int | None = None) -> ShardTables:
        """Return a shard's tables, with the keys of every row read.

        Args:
            split: Which table.
            shard: Shard number.
            generations: Read only the first so many; all by default.
        """
        from hybridmu.store.dataset.shard_reader import ShardTables  # it makes tensors; look-ups do without PyTorch

        names, encoder = self.files(split, shard, generations), self.manifest.encoder
        try:
            return self._settled(lambda: ShardTables(self.storage, names, encoder, self.features, self._compare))
        except FileNotFoundError as error:
            raise self._missing(str(error.filename)) from None

    def keys(self, split: Split, shard: int) -> KeyColumns:
        """Return the keys of every row of a shard, tombstoned ones included."""
        return joined([self.keys_of(name) for name in self.files(split, shard)])

    def files(self, split: Split, shard: int, generations: int | None = None) -> list[str]:
        """Return the names of a shard's tables: one per generation that brought it rows, in that order.

        Args:
            split: Which table.
            shard: Shard number.
            generations: Of the first so many; of all by default.

        Returns:
            Names in storage. A table that lost all its rows is still there: a missing file is damage.
        """
        given = enumerate(self.manifest.generations[:generations])
        return [shard_file(g, split, shard) for g, found in given if found.has_rows(split, shard)]

    def index_files(self, part: int) -> list[str]:
        """Return the names of one part of the indexes that are there, in the order of generations."""
        return [*self.index_of(id_file, part), *self.index_of(content_file, part)]

    def index_of(self, name: Callable[[int, int], str], part: int) -> list[str]:
        """Return the names of one part of one index that are there, in the order of generations.

        Args:
            name: `id_file` or `content_file`.
            part: Which part.

        Raises:
            StorageError: One that was recorded is not there.
        """
        every = [name(generation, part) for generation in range(len(self.manifest.generations))]
        there = [found for found in every if self.storage.exists(found)]
        absent = [found for found in every if found not in there]
        if absent and self._recorded is not None and (lost := self._recorded(absent)):
            raise self._missing(min(lost))
        return there

    def names(self) -> frozenset[str]:
        """Return the names that tables and index files of this lake can have, whether or not they are there."""
        numbers, given = range(self.shards), [*enumerate(self.manifest.generations)]
        tables = {shard_file(g, split, shard) for g, found in given for split in found.rows for shard in numbers}
        return frozenset(
            tables | {name(g, part) for g, _ in given for part in numbers for name in (id_file, content_file)}
        )

    def every_file(self) -> list[str]:
        """Return the names of the tables and index files that should be there, of all generations."""
        tables = [name for split in SPLITS for shard in range(self.shards) for name in self.files(split, shard)]
        return tables + [name for part in range(self.shards) for name in self.index_files(part)]

    def keys_of(self, name: str) -> KeyColumns:
        """Return the keys of every row of one table, tombstoned ones included."""

        def read() -> KeyColumns:
            found = key_columns(self.storage, name)
            self._compare(name, found.seal)
            return found

        try:
            return self._settled(read)
        except FileNotFoundError:
            raise self._missing(name) from None

    def outline(self, shard: int, revoked: KeySet) -> Rows:
        """Return the live training rows of a shard without features and labels: enough for lineage keys."""
        from hybridmu.store.dataset.shard_reader import outline  # as above

        keys = self.keys("train", shard)
        live = ~carries(keys.ids, keys.groups, revoked)
        return outline(keys.slices[live], keys.ids[live], keys.groups[live], keys.content[live])

    def counts(self, split: Split, shard: int, revoked: KeySet) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return (live, revoked) rows of a shard, per slice of all generations."""
        keys = self.keys(split, shard)
        mask = carries(keys.ids, keys.groups, revoked)

        def per_slice(chosen: npt.NDArray[np.int32]) -> tuple[int, ...]:
            return tuple(int(c) for c in np.bincount(chosen, minlength=self.manifest.slices + 1)[1:])

        return per_slice(keys.slices[~mask]), per_slice(keys.slices[mask])

    def twins(self, keys: Sequence[ResolvedKey], revoked: Mapping[int, KeySet]) -> int:
        """Count live training rows with the same features and label as a row that `keys` revoke.

        Args:
            keys: What a request is about to revoke.
            revoked: Shard → tombstones, `keys` included.

        Returns:
            Number of live twins over all shards; content digests are looked up in files partitioned by them.
        """
        going: set[bytes] = set()
        for shard in sorted({key.shard for key in keys}):
            mine = KeySet.of(key for key in keys if key.shard == shard)
            for name in self.files("train", shard):
                held = self.keys_of(name)
                going |= {row.tobytes() for row in held.content[held.carrying(mine)]}
        twins = 0
        for part in sorted({part_of(content, self.shards) for content in going}):
            wanted = np.frombuffer(b"".join(sorted(going)), dtype=np.uint8).reshape(-1, 16)
            for name in self.index_of(content_file, part):
                self.check(name)
                index = stored_content(self.storage, name)
                hits = index.by_content.having(wanted)
                for shard in np.unique(index.shards[hits]).tolist():
                    there = hits[index.shards[hits] == shard]
                    gone = carries(index.ids[there], index.groups[there], revoked.get(shard, NO_KEYS))
                    twins += int((~gone).sum())
        return twins

    def tables(self, names: Sequence[str]) -> Iterator[pa.Table]:
        """Yield the rows of files, revoked ones included, some at a time."""
        for name in names:
            self.check(name)
            with open_parquet(self.storage, name) as file:
                for number in range(file.num_row_groups):
                    yield unpacked(file.read_row_group(number, use_threads=False))
        pa.default_memory_pool().release_unused()
