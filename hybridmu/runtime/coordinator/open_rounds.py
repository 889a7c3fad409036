"""Open rounds: begun on top of the served version, fulfilled job by job, and published as the next one.

What fails on one shard fails the requests that wait for it; a round that can't go on ends alone.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from hybridmu.runtime.coordinator.ingestion import Growth
from hybridmu.runtime.coordinator.integrity import Healer
from hybridmu.runtime.coordinator.retry_times import RetryTimes
from hybridmu.runtime.coordinator.round_jobs import RoundJobs
from hybridmu.runtime.coordinator.rounds import Round
from hybridmu.runtime.coordinator.scheduler import Claimer
from hybridmu.runtime.workers.isolation import apart
from hybridmu.store.ledger.database import Database
from hybridmu.store.ledger.journal.journal import Journal
from hybridmu.types import JobResult, ShardOutcome, ShardPlan, SubModelRecord
from hybridmu.user_code import told

_log = logging.getLogger(__name__)


class OpenRounds:
    """Brings rounds from their first job to a version.

    Args:
        database: Where versions are published and requests fail.
        journal: What storage remembers of the ledger.
        jobs: Makes jobs and takes their results.
        claimer: Is told of requests that failed together.
        growth: Is told of new rows that are trained on, or could not be.
        healer: Is told of shards with new weights.
        retries: When a shard is tried again.
        published: Called when shards have changed: others look at once whether they have work.
    """

    def __init__(
        self,
        database: Database,
        journal: Journal,
        jobs: RoundJobs,
        claimer: Claimer,
        growth: Growth,
        healer: Healer,
        retries: RetryTimes,
        published: Callable[[], None],
    ) -> None:
        self._registry, self._progress, self._journal = database.registry, database.progress, journal
        self._jobs, self._claimer, self._growth, self._healer = jobs, claimer, growth, healer
        self._retries, self._published = retries, published
        self._rounds: dict[str, Round] = {}

    @property
    def rounds(self) -> tuple[Round, ...]:
        """Return the rounds at work."""
        return tuple(self._rounds.values())

    @property
    def requests(self) -> set[str]:
        """Return the requests that they fulfil."""
        return {request_id for r in self._rounds.values() for request_id in r.places}

    def owns(self, job_id: str) -> bool:
        """Return whether a job is one of theirs; one that is not is an attempt that was given up."""
        return any(job_id in r.jobs for r in self._rounds.values())

    def launch(self, token: int, started: Round, shards: Sequence[SubModelRecord]) -> None:
        """Queue the jobs of a round; one whose jobs can't be made ends at once.

        Args:
            token: The coordinator's fencing token.
            started: The round.
            shards: The sub-models that serve.
        """
        self._rounds[started.round_id] = started
        with apart("the start of a round", lambda error: self._fail_round(token, started, error)):
            self._jobs.make(token, started, shards)

    def receive(self, token: int, result: JobResult) -> bool:
        """Take the result of one of their jobs.

        Args:
            token: The coordinator's fencing token.
            result: Of the job.

        Returns:
            Whether a round was fulfilled by that.
        """
        owner = next(r for r in self._rounds.values() if result.job_id in r.jobs)
        job = owner.jobs.pop(result.job_id)
        with apart("a round", lambda error: self._fail_round(token, owner, error)):
            if failure := self._jobs.take(owner, job, result):
                self._fail_shard(token, owner, job.shard, failure.error)
            if not owner.plans:
                del self._rounds[owner.round_id]
            elif len(owner.outcomes) == len(owner.plans):
                self._finish(token, owner)
                return True
        return False

    def _finish(self, token: int, done: Round) -> None:
        """Publish what a round made, and tell everybody whom it concerns."""
        pairs = [(done.plans[shard], done.outcomes[shard]) for shard in sorted(done.plans)]
        if not done.mends or self._differs(pairs):
            version = self._registry.publish(token, done.round_id, list(done.places), pairs)
            fields = {"version": version, "requests": list(done.places), "shards": sorted(done.plans)}
            _log.info("version %d is published", version, extra=fields)
            self._journal.settle()
        self._healer.changed(token, list(done.plans), mended=done.mends)
        self._published()
        del self._rounds[done.round_id]
        self._retries.came_through(done.plans)
        self._growth.settle(token)

    def _differs(self, pairs: Sequence[tuple[ShardPlan, ShardOutcome]]) -> bool:
        """Return whether outcomes are anything but what is served already."""
        served = {sub.shard: (sub.blob, sub.exact, sub.removed_upto) for sub in self._registry.version().shards}
        return any(served[made.shard] != (made.blob, made.exact, made.upto) for _, made in pairs)

    def _fail_shard(self, token: int, owner: Round, shard: int, error: str) -> None:
        """Fail the requests that wait for one shard; the round goes on with its other shards."""
        failed = [request_id for request_id, shards in owner.places.items() if shard in shards]
        self._progress.mark_failed(token, failed, f"shard {shard}: {error}")
        owner.places = {request_id: shards for request_id, shards in owner.places.items() if shard not in shards}
        if owner.ingest_id is not None:
            self._growth.postpone(token, owner.ingest_id, f"shard {shard}: {error}")
        del owner.plans[shard]
        self._retries.use_up(shard)

    def _fail_round(self, token: int, owner: Round, error: Exception) -> None:
        """End a round that can't go on, and what it was for; its shards are free for others when no job is left."""
        if owner.places:
            self._claimer.fail(token, owner.places, told(error))
        if owner.ingest_id is not None:
            self._growth.postpone(token, owner.ingest_id, told(error))
        if not owner.places:
            self._retries.put_off(owner.plans)
        self._jobs.withdraw(owner)
        self._rounds.pop(owner.round_id, None)
