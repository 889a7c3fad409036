"""Jobs on their way to the executor: each learns what is revoked when it leaves, not before."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import assert_never

from hybridmu.core.strategies import get
from hybridmu.faults import reach
from hybridmu.runtime.purge.row_purge import touched_indexes
from hybridmu.runtime.workers.context import Site
from hybridmu.runtime.workers.executor import Executor, failure
from hybridmu.runtime.workers.isolation import apart
from hybridmu.store.dataset.lake import Lake
from hybridmu.store.dataset.layout import HELD_OUT, MANIFEST, SPLITS
from hybridmu.store.ledger.journal.journal import Journal
from hybridmu.store.ledger.progress import Progress
from hybridmu.types import (
    AuditJob,
    CalibrateJob,
    EvaluateJob,
    ForeseeIndexJob,
    ForeseeRowsJob,
    Job,
    KeySet,
    ProveJob,
    PurgeIndexJob,
    PurgeRowsJob,
    RetrainJob,
    SearchJob,
    ShardFailure,
    Tombstone,
    UpdateJob,
    UpdaterJob,
)


class Dispatcher:
    """Holds jobs back until the executor has room for them.

    Args:
        site: Whose tables the jobs read.
        progress: Hands out tombstones.
        journal: Remembers in storage who brought them.
        executor: Runs the jobs.
    """

    def __init__(self, site: Site, progress: Progress, journal: Journal, executor: Executor) -> None:
        self._site, self._progress, self._journal, self._executor = site, progress, journal, executor
        self._waiting: list[Job] = []
        self._given: dict[str, Job] = {}  # what the executor has

    @property
    def busy(self) -> bool:
        """Return whether any job waits or runs."""
        return bool(self._waiting or self._given)

    @property
    def shards(self) -> set[int]:
        """Return the shards of all jobs that wait or run, of those that are on one."""
        return {job.shard for job in (*self._waiting, *self._given.values()) if job.shard is not None}

    def queue(self, job: Job) -> None:
        """Let a job wait for its turn."""
        self._waiting.append(job)

    def withdraw(self, job_ids: Collection[str]) -> None:
        """Drop jobs that were not given to the executor yet."""
        self._waiting = [job for job in self._waiting if job.job_id not in job_ids]

    def came_back(self, job_id: str) -> None:
        """Take note that the executor is done with a job."""
        self._given.pop(job_id, None)

    def give(self, token: int) -> list[ShardFailure]:
        """Give the executor what its pools have room for, in order; what waits for its node holds up nobody else.

        A job learns the tombstones only now: rows that were revoked while it waited must not be read any more. A
        retrain removes them as well; an update leaves them to the request that named them.

        Args:
            token: Of the lease.

        Returns:
            The jobs that could not be given, whatever the reason: the others were.

        Raises:
            LeaseLostError: Another coordinator took over.
        """
        pools = self._executor.pools()
        room = {False: pools.workers, True: pools.updaters}
        for given in self._given.values():
            room[isinstance(given, UpdaterJob)] -= 1
        later, failed = list[Job](), list[ShardFailure]()
        for job in self._waiting:
            errors: list[Exception] = []
            with apart("giving a job", errors.append):
                central = isinstance(job, UpdaterJob)
                if room[central] <= 0 or not self._executor.has_core(job):
                    later.append(job)
                    continue
                room[central] -= 1
                self._submit(token, job)
            failed += [failure(job, error, retryable=True) for error in errors]
        self._waiting = later
        return failed

    def _submit(self, token: int, job: Job) -> None:
        lake = self._site.lake
        seals = lake.recorded(_read_by(lake, job))
        job = replace(job, generations=len(lake.manifest.generations), seals=seals)
        self._given[job.job_id] = job
        reach("job.submit")
        self._executor.submit(self._informed(token, job))

    def _informed(self, token: int, job: Job) -> Job:
        """Return a job with the tombstones that it needs; what only removes rows, or looks for them, needs none."""
        match job:
            case RetrainJob():
                stones = self._stones(token, [job.shard])
                upto = max([job.upto, *(stone.seq for stone in stones)])
                return replace(job, tombstones=KeySet.of(stones), upto=upto)
            case UpdateJob() if get(job.strategy).exact:
                # As a retrain: what was revoked while the job waited is removed too, since nothing else would be exact.
                stones = self._stones(token, [job.shard])
                keys = KeySet.of(stones)
                upto = max([job.upto, *(stone.seq for stone in stones)])
                return replace(job, tombstones=keys, revoked=KeySet(keys - job.removed), upto=upto)
            case UpdateJob() | AuditJob():
                return replace(job, tombstones=KeySet.of(self._stones(token, [job.shard])))
            case CalibrateJob() | EvaluateJob():
                return replace(job, tombstones=KeySet.of(self._stones(token, None)))
            case ProveJob() | ForeseeRowsJob() | PurgeRowsJob() | ForeseeIndexJob() | PurgeIndexJob() | SearchJob():
                return job
            case _:
                assert_never(job)

    def _stones(self, token: int, shards: Sequence[int] | None) -> list[Tombstone]:
        return [stone for found in self.take(token, shards).values() for stone in found]

    def take(self, token: int, shards: Sequence[int] | None) -> dict[int, list[Tombstone]]:
        """Return the tombstones that a job must know, once storage remembers who brought them.

        Args:
            token: Of the lease.
            shards: Which; None: all.

        Raises:
            LeaseLostError: Another coordinator took over.
        """
        gone = self._progress.take(token, shards)
        self._journal.keep({stone.request_id for stones in gone.values() for stone in stones})
        return gone


def files_of(lake: Lake, shard: int) -> list[str]:
    """Return the names of the manifest and of a shard's tables."""
    return [MANIFEST, *(name for split in SPLITS for name in lake.files(split, shard))]


def _read_by(lake: Lake, job: Job) -> list[str]:
    """Return the names of the files of the lake that a job may read."""
    match job:
        case ForeseeIndexJob() | PurgeIndexJob():
            names = [MANIFEST, *touched_indexes(lake, job.rows, job.content)]
        case SearchJob():
            names = [MANIFEST]
        case CalibrateJob():  # compares accuracies on validation rows of other shards, too
            every = [name for shard in range(lake.shards) for name in lake.files("validation", shard)]
            names = [*files_of(lake, job.shard), *every]
        case EvaluateJob():
            every = [name for split in HELD_OUT for shard in range(lake.shards) for name in lake.files(split, shard)]
            names = [MANIFEST, *every]
        case RetrainJob() | UpdateJob() | AuditJob() | ProveJob() | ForeseeRowsJob() | PurgeRowsJob():
            names = files_of(lake, job.shard)
        case _:
            assert_never(job)
    return list(dict.fromkeys(names))
