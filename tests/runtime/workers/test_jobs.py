"""Every type of job has a worker that does it, and crosses process borders as it is."""

from __future__ import annotations

import pickle
from dataclasses import fields
from typing import get_args

import pytest
import ray.cloudpickle

from hybridmu.runtime.coordinator.dispatcher import Dispatcher
from hybridmu.runtime.workers.shard_worker import ShardWorker
from hybridmu.runtime.workers.update_worker import Updater
from hybridmu.store.dataset.layout import MANIFEST
from hybridmu.types import (
    NO_KEYS,
    AuditJob,
    CalibrateJob,
    CalibrationCell,
    EvaluateJob,
    ForeseeIndexJob,
    ForeseeRowsJob,
    Job,
    KeySet,
    PastSubModel,
    ProveJob,
    PurgeIndexJob,
    PurgeRowsJob,
    RequestNeed,
    RetrainJob,
    SearchJob,
    ShardJob,
    SubModelRecord,
    Tombstone,
    UpdateJob,
    UpdaterJob,
)

KEYS = KeySet([("id", bytes(range(16))), ("group", bytes(16))])
STONES = tuple(Tombstone(seq, kind, key, 1, 1, "r") for seq, (kind, key) in enumerate(sorted(KEYS), start=1))
COMMON = {"generations": 2, "seals": (("lake/a.parquet", ("seal",)),)}
CELL = CalibrationCell(1, 0.01)
NEED = RequestNeed("r", 2)
PAST = PastSubModel(1, "retrain", SubModelRecord(1, "blob", True, 0, 0, ()))

JOBS = [
    RetrainJob(job_id="1", shard=1, tombstones=KEYS, upto=7, mend=True, **COMMON),
    UpdateJob(job_id="2", shard=1, strategy="dpus", tombstones=KEYS, revoked=KEYS, trajectory=("a",), **COMMON),
    CalibrateJob(job_id="3", shard=1, cells=(CELL,), avoid=(b"a",), tombstones=KEYS, **COMMON),
    AuditJob(job_id="4", shard=1, strategy="dpus", number=3, canaries=KEYS, watched=KEYS, **COMMON),
    ProveJob(
        job_id="5", shard=1, tombstones=STONES, history=(PAST,), needs=(RequestNeed("r", 2),), held=KEYS, **COMMON
    ),
    ForeseeRowsJob(job_id="6", shard=1, keys=KEYS, **COMMON),
    PurgeRowsJob(job_id="7", shard=1, keys=KEYS, blobs=("a",), lineage_keys=("b",), **COMMON),
    ForeseeIndexJob(job_id="8", rows=((1, bytes(16)),), content=(bytes(16),), **COMMON),
    PurgeIndexJob(job_id="9", rows=((1, bytes(16)),), content=(bytes(16),), **COMMON),
    SearchJob(job_id="10", needles=(b"a",), purged_shards=(1,), **COMMON),
    EvaluateJob(job_id="11", version=3, sub_models=((0, "a"), (1, "b")), tombstones=KEYS, **COMMON),
]
METHODS = {
    RetrainJob: "retrain",
    CalibrateJob: "calibrate",
    ProveJob: "prove",
    ForeseeRowsJob: "foresee",
    PurgeRowsJob: "purge",
    UpdateJob: "update",
    AuditJob: "audit",
    ForeseeIndexJob: "foresee_index",
    PurgeIndexJob: "purge_index",
    SearchJob: "search",
    EvaluateJob: "evaluate",
}
every_job = pytest.mark.parametrize("job", JOBS, ids=lambda job: type(job).__name__)


def test_the_jobs_here_are_all_that_there_are():
    assert {type(job) for job in JOBS} == set(get_args(Job)) == set(METHODS)
    assert set(get_args(ShardJob)) | set(get_args(UpdaterJob)) == set(get_args(Job))
    assert not set(get_args(ShardJob)) & set(get_args(UpdaterJob))


@every_job
@pytest.mark.parametrize("pickler", [pickle, ray.cloudpickle], ids=["pickle", "ray"])
def test_a_job_survives_serialisation(job, pickler):
    again = pickler.loads(pickler.dumps(job))
    assert (again, type(again)) == (job, type(job))
    for field in fields(job):
        assert type(getattr(again, field.name)) is type(getattr(job, field.name))


@every_job
def test_a_job_is_on_one_shard_or_on_none(job):
    whole = isinstance(job, ForeseeIndexJob | PurgeIndexJob | SearchJob | EvaluateJob)
    assert job.shard == (None if whole else 1)


@every_job
def test_a_worker_does_every_job_of_its_kind(job, monkeypatch):
    worker = Updater if isinstance(job, UpdaterJob) else ShardWorker
    monkeypatch.setattr(worker, METHODS[type(job)], lambda self, job: ("done", job))
    assert worker.run(object.__new__(worker), job) == ("done", job)


@every_job
def test_a_worker_refuses_what_is_not_its_own(job):
    other = ShardWorker if isinstance(job, UpdaterJob) else Updater
    with pytest.raises(AssertionError):
        other.run(object.__new__(other), job)


class Lake:
    """Two shards of one table each, and one index file per row that is named."""

    shards = 2

    class manifest:
        """Of three generations."""

        generations = (1, 2, 3)

    def files(self, split, shard):
        return [f"{split}-{shard}"]

    def index_files(self, part):
        return [f"index-{part}"]

    def recorded(self, names):
        return tuple((name, ("seal",)) for name in names)


class Records:
    """Stands in for a site, a ledger, a journal and an executor."""

    def __init__(self):
        self.lake, self.asked, self.jobs = Lake(), [], []

    def take(self, token, shards):
        self.asked.append(shards)
        stones = {stone.shard: [] for stone in STONES} | {1: list(STONES)}
        return {shard: found for shard, found in stones.items() if shards is None or shard in shards}

    def keep(self, names):
        assert names <= {"r"}

    def has_core(self, job):
        return True

    def submit(self, job):
        self.jobs.append(job)

    def pools(self):
        return type("Pools", (), {"workers": 1, "updaters": 1})


def given(job) -> tuple[Job, Records]:
    """Return a job as the executor gets it."""
    all_ = Records()
    dispatcher = Dispatcher(all_, all_, all_, all_)
    dispatcher.queue(job)
    assert dispatcher.shards == ({1} if job.shard else set())
    assert not dispatcher.give(1)
    [found] = all_.jobs
    return found, all_


@every_job
def test_a_job_learns_what_is_recorded_and_revoked_when_it_leaves(job):
    fresh = {"tombstones": NO_KEYS} if isinstance(getattr(job, "tombstones", ()), KeySet) else {}
    found, records = given(type(job)(**{f.name: getattr(job, f.name) for f in fields(job)} | {"seals": None} | fresh))
    assert found.generations == 3
    names = [name for name, _ in found.seals]
    assert (names[0], len(set(names))) == (MANIFEST, len(names))
    if isinstance(job, ForeseeIndexJob | PurgeIndexJob):
        assert names[1:] == ["index-0"]
    elif isinstance(job, SearchJob):
        assert names[1:] == []
    elif isinstance(job, EvaluateJob):
        assert sorted(names[1:]) == [f"{split}-{shard}" for split in ("test", "validation") for shard in (0, 1)]
    else:
        others = ["validation-0"] if isinstance(job, CalibrateJob) else []
        assert sorted(names[1:]) == sorted(["train-1", "validation-1", "test-1", *others])
    if isinstance(job, RetrainJob | UpdateJob | AuditJob | CalibrateJob | EvaluateJob):
        assert records.asked == [None if isinstance(job, CalibrateJob | EvaluateJob) else [1]]
        assert found.tombstones == KEYS
    else:
        assert records.asked == []
        assert getattr(found, "tombstones", STONES) == STONES


def test_a_retrain_covers_what_was_revoked_while_it_waited():
    assert given(RetrainJob(job_id="a", shard=1))[0].upto == 2
    assert given(RetrainJob(job_id="a", shard=1, upto=9))[0].upto == 9
    assert given(UpdateJob(job_id="a", shard=1, strategy="dpus"))[0].upto == 0, "only what its request named"


def test_a_key_set_is_one_of_pairs():
    assert KeySet.of(STONES) == KEYS == {(stone.kind, stone.key) for stone in STONES}
    assert ("id", bytes(range(16))) in KEYS
    with pytest.raises(AttributeError):
        KEYS.more = 1
