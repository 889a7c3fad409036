"""Healer: finds shards whose served weights or checkpoints storage lost or changed; a retrain makes the same bits.

Nothing in storage is believed without its hash, so damage never ends in wrong answers; this is about getting out of
it without a person. Replicas, `verify` and `predict` report what they meet through the ledger. The coordinator itself
reads what a shard stands on, after its start and after every change of the shard, when it has nothing else to do.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress

from hybridmu.errors import CorruptBlobError, DatabaseError
from hybridmu.runtime.workers.context import Site
from hybridmu.store.ledger.database import Database
from hybridmu.store.storage.blob_names import BLOBS, blob_file
from hybridmu.types import SubModelRecord


class Healer:
    """Knows which shards have to be retrained because of storage.

    Args:
        site: Where the blobs are.
        database: Of the system.
    """

    def __init__(self, site: Site, database: Database) -> None:
        self._site, self._registry, self._damages = site, database.registry, database.damages
        self._unread: list[int] | None = None
        self._broken: set[int] = set()

    def due(self, busy: Collection[int], idle: bool) -> set[int]:
        """Return the shards to retrain, among those that nobody works on.

        The first call lists the served files; later ones read the files of at most one shard.

        Args:
            busy: Shards with jobs.
            idle: Whether there is time to read.
        """
        if self._unread is None:
            served = [sub for sub in self._registry.version().shards if sub.blob]
            names = {file.name for file in self._site.storage.list(BLOBS)}
            self._broken = {sub.shard for sub in served if blob_file(sub.blob or "") not in names}
            self._unread = [sub.shard for sub in served if sub.shard not in self._broken]
        reported = self._damages.reported()
        if idle and not reported and not self._broken:
            shard = next((shard for shard in self._unread if shard not in busy), None)
            if shard is not None:
                self._unread.remove(shard)
                if not _whole(self._site, self._registry.version().shards[shard]):
                    self._broken.add(shard)
        return (self._broken | reported.keys()) - set(busy)

    def changed(self, token: int, shards: Collection[int], *, mended: bool = False) -> None:
        """Take note of shards that have new weights, fenced; they are read again when there is time.

        Args:
            token: The coordinator's fencing token.
            shards: Which shards.
            mended: They were made again just now: reading them at once could end in a circle on a disk that lies.
        """
        for shard in self._damages.reported().keys() & set(shards):
            self._damages.settle(token, shard)
        self._broken -= set(shards)
        if self._unread is not None and not mended:
            self._unread += [shard for shard in sorted(shards) if shard not in self._unread]


@contextmanager
def reporting(site: Site, database: Database) -> Iterator[None]:
    """Tell the coordinator which shards' served weights are damaged, when what is done inside meets some.

    Args:
        site: Where the blobs are.
        database: Of the system.

    Yields:
        Nothing.

    Raises:
        CorruptBlobError: As it came from inside.
    """
    try:
        yield
    except CorruptBlobError:
        with suppress(DatabaseError):  # what was met says more
            for sub in database.registry.version().shards:
                if sub.blob and not site.blobs.intact(sub.blob):
                    database.damages.report(sub.shard, sub.blob)
        raise


def _whole(site: Site, sub: SubModelRecord) -> bool:
    keys = [record.lineage_key for record in sub.checkpoints]
    return (sub.blob is None or site.blobs.intact(sub.blob)) and not site.blobs.damaged(sub.shard, keys)
