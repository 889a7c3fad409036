"""The first start on a storage of an older release: what its files hold is compared with the lineage and recorded."""

from __future__ import annotations

from hybridmu.core.proof.lineage import chain
from hybridmu.errors import StorageError
from hybridmu.runtime.workers.context import Site
from hybridmu.store.dataset.lake import Lake
from hybridmu.store.dataset.layout import MANIFEST, PUT_BACK
from hybridmu.store.ledger.database import Database
from hybridmu.store.storage.sealed_json import file_seal
from hybridmu.types import KeySet, SubModelRecord, Tombstone


def adopt(site: Site, database: Database) -> bool:
    """Record what the files of a lake hold that an older release made; done once, and nothing on a recorded lake.

    Args:
        site: Where it is; no other process is at work there.
        database: Of the system.

    Returns:
        Whether there was anything to record.

    Raises:
        StorageError: A table does not hold the rows that the served version was made of.
    """
    seals, registry, journal = database.seals, database.registry, database.journal(site.storage)
    lake = Lake(site.settings, site.storage)  # compares nothing: there is nothing to compare with yet
    if not lake.exists or seals.any():
        return False
    journal.check()
    if registry.served() is not None:
        tombstones = database.ledger.tombstones()
        for sub in registry.version().shards:
            _refuse_other_rows(lake, sub, tombstones.get(sub.shard, []))
            for record in sub.checkpoints:
                site.blobs.adopt(sub.shard, record.lineage_key, record.blob)
    data = lake.manifest.to_bytes()
    lake.storage.write(MANIFEST, data)
    copies = [new.source for new in database.ingestions.waiting() if lake.storage.exists(new.source)]
    names = [*lake.every_file(), *copies]
    seals.begin({name: lake.seal_of(name) for name in names} | {MANIFEST: file_seal(data)})
    journal.reseal()
    return True


def _refuse_other_rows(lake: Lake, sub: SubModelRecord, stones: list[Tombstone]) -> None:
    """Check that a table has the rows that the last exact run of a shard was made of.

    Raises:
        StorageError: It has others.
    """
    manifest = lake.manifest
    schedule = manifest.epochs_of(sub.shard, sub.generations)
    gone = KeySet.of(stone for stone in stones if stone.seq <= sub.exact_upto)
    rows = lake.outline(sub.shard, gone)
    rows = rows.where(rows.slice <= len(schedule))
    keys = chain(sub.head or "", rows, schedule, manifest.salt).keys
    same = all(record.lineage_key == keys[record.slice - 1] for record in sub.checkpoints)
    if not same or (sub.blob is None and len(rows)):
        raise StorageError(
            f"the tables of shard {sub.shard} in {lake.storage.url} are not those that its sub-model was trained on",
            expected="the rows whose lineage was recorded when it was trained",
            got="other rows: a table was restored from an older copy, or changed from outside",
            remedy=PUT_BACK,
        )
