"""An update reads as little as it can: its result has the bits of one whose rows all lie in memory."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

import hybridmu
from hybridmu.core.audit import measures
from hybridmu.core.kernel.partition import digest
from hybridmu.core.kernel.revoked_keys import carries
from hybridmu.core.strategies import Context, get, newton
from hybridmu.errors import StorageError, StrategyUnavailableError
from hybridmu.runtime.workers.update_worker import Updater
from hybridmu.types import NO_KEYS, KeySet, UpdateJob
from tests.support import lake_rows, local_system, table, write

STRATEGIES = ("dpus", "dpus-newton", "dpus-optimised", "rewind")


@dataclass
class World:
    """A trained system of two generations, with validation rows."""

    system: hybridmu.System
    ids: list[int]


@pytest.fixture(scope="module")
def it(tmp_path_factory):
    folder = tmp_path_factory.mktemp("updates")
    write(folder, table(200))
    write(folder, table(50, start=5000, seed=1), "new.parquet")
    config = {"data": {"validation_fraction": 0.2}, "sisa": {"shards": 2}, "policy": {"retention_seconds": 1e9}}
    with local_system(folder, **config) as system:
        system.train()
        system.ingest(folder / "new.parquet", wait=True)
        rows = [row for row in lake_rows(system.site.lake) if row["shard"] == 0]
        assert {row["_slice"] for row in rows} == {1, 2, 3, 4}
        yield World(system, [row["id"] for row in np.random.default_rng(0).permutation(rows)])


def keys_of(it: World, ids) -> KeySet:
    return KeySet(("id", digest(it.system.site.lake.key, "id", row)) for row in ids)


def job_of(it: World, strategy: str, revoked: KeySet, removed: KeySet = NO_KEYS) -> UpdateJob:
    sub = it.system.registry.version().shards[0]
    return UpdateJob(
        job_id="update", shard=0, strategy=strategy, tombstones=KeySet(revoked | removed), generations=2, alpha=0.4,
        revoked=KeySet([*revoked, *sorted(removed)[:1]]), removed=removed, current_blob=sub.blob,
        trajectory=tuple(record.blob for record in sub.checkpoints),
    )  # fmt: skip


def in_memory(it: World, job: UpdateJob, budget: float = 2.0) -> Context:
    """Return what the job asks for, every row read."""
    site = it.system.site
    rows = site.lake.rows("train", 0, NO_KEYS)
    gone, revoked, removed = (
        carries(rows.ids, rows.groups, keys) for keys in (job.tombstones, job.revoked, job.removed)
    )
    context = site.strategy_context(
        0,
        rows.where(~gone),
        rows.where(revoked & ~removed),
        checkpoint=lambda slice_: site.blobs.get(job.trajectory[slice_ - 1]),
        current=site.blobs.get(job.current_blob),
        held_out=site.lake.rows("validation", 0, job.tombstones),
        alpha=job.alpha,
    )
    return replace(context, finetune_epochs=budget)


@pytest.mark.parametrize("budget", [0.4, 2.5])
@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.sampled
def test_an_update_has_the_bits_of_one_in_memory(it, monkeypatch, strategy, budget):
    monkeypatch.setattr(newton, "_LEAST_ROWS", 20)  # fewer than there are
    settings = it.system.settings
    policy = settings.policy.model_copy(update={"finetune_epochs": budget})
    updater = Updater(settings.model_copy(update={"policy": policy}))
    places = it.ids
    for fresh, removed in ((places[:9], ()), (places[5:6], places[:5]), (places[::2], places[1:4:2])):
        job = job_of(it, strategy, keys_of(it, fresh), keys_of(it, removed))
        context = in_memory(it, job, budget)
        assert len(context.held_out) > 3
        assert len(context.revoked) >= len(fresh) > 0
        expected = get(strategy).run(context)
        outcome = updater.update(job)
        assert not measures.differing_tensors(it.system.site.blobs.get(outcome.blob), expected.state)
        assert (outcome.visits, outcome.first_slice) == (expected.visits, expected.first_slice)
        assert outcome.live == len(context.live)


def test_all_rows_revoked_at_once(it):
    job = job_of(it, "dpus-newton", KeySet(("id", row.tobytes()) for row in it.system.site.lake.keys("train", 0).ids))
    outcome = Updater(it.system.settings).update(job)
    expected = get("dpus-newton").run(in_memory(it, job))
    assert outcome.live == 0
    assert not measures.differing_tensors(it.system.site.blobs.get(outcome.blob), expected.state)


def test_every_blob_is_read_once(it, monkeypatch):
    updater = Updater(it.system.settings)
    read: Counter[str] = Counter()
    get_blob = updater.site.blobs.get
    monkeypatch.setattr(updater.site.blobs, "get", lambda ref: read.update([ref]) or get_blob(ref))
    job = job_of(it, "dpus-newton", keys_of(it, it.ids[:9]))
    outcome = updater.update(job)
    assert read == Counter(set(job.trajectory))
    assert outcome.checkpoints_read > len(job.trajectory)


@pytest.mark.parametrize(
    ("strategy", "column", "reads"),
    [("dpus", "_id", True), ("dpus", "x0", False), ("rewind", "x0", True), ("dpus-optimised", "x0", True)],
)
def test_damage_is_found_by_who_reads_it(it, strategy, column, reads):
    """The last row group of the first generation holds none of the revoked rows."""
    lake = it.system.site.lake
    path = Path(lake.storage.path(lake.files("train", 0)[0]))
    early = [row.tobytes() for row, s in zip(*_keys(lake), strict=True) if s == 1][:4]
    job = job_of(it, strategy, KeySet(("id", key) for key in early))
    metadata = pq.ParquetFile(path).metadata
    group = metadata.row_group(metadata.num_row_groups - 1)
    (chunk,) = (c for c in map(group.column, range(group.num_columns)) if c.path_in_schema == column)
    whole = path.read_bytes()
    data = bytearray(whole)
    data[chunk.data_page_offset + chunk.total_compressed_size - 1] ^= 1
    path.write_bytes(data)
    try:
        if reads:
            with pytest.raises(StorageError, match="damaged"):
                Updater(it.system.settings).update(job)
        else:
            assert Updater(it.system.settings).update(job).blob
    finally:
        path.write_bytes(whole)


def _keys(lake):
    keys = lake.keys("train", 0)
    return keys.ids, keys.slices


def test_a_missing_checkpoint_makes_the_update_unavailable(it):
    job = job_of(it, "dpus", keys_of(it, it.ids[:3]))
    cut = replace(job, trajectory=job.trajectory[:-1])
    with pytest.raises(StrategyUnavailableError, match="no checkpoint after slice"):
        Updater(it.system.settings).update(cut)
