"""Jobs of a round: made from its plans, tried again after a failure, and replaced by a retrain where updates fail."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Sequence
from dataclasses import replace

from hybridmu.core.strategies import get
from hybridmu.kinds import FALLBACK
from hybridmu.runtime.coordinator.dispatcher import Dispatcher
from hybridmu.runtime.coordinator.rounds import Round
from hybridmu.runtime.workers.context import Site
from hybridmu.types import (
    JobResult,
    KeySet,
    ModelJob,
    RetrainJob,
    ShardFailure,
    ShardOutcome,
    SubModelRecord,
    UpdateJob,
)

_log = logging.getLogger(__name__)


class RoundJobs:
    """Makes the jobs of rounds and takes their results.

    Args:
        site: Recipes and settings.
        dispatcher: Where jobs wait for the executor.
    """

    def __init__(self, site: Site, dispatcher: Dispatcher) -> None:
        self._site, self._dispatcher = site, dispatcher

    def make(self, token: int, started: Round, shards: Sequence[SubModelRecord]) -> None:
        """Queue one job for every plan of a round.

        Args:
            token: The coordinator's fencing token.
            started: The round.
            shards: The sub-models that serve.
        """
        current = {sub.shard: sub for sub in shards}
        gone = self._dispatcher.take(token, list(started.plans))
        for shard, plan in started.plans.items():
            sub, stones = current[shard], gone.get(shard, [])
            upto = max([sub.removed_upto, *(stone.seq for stone in stones)])
            if plan.strategy == FALLBACK:
                self.retrain(started, shard, upto)
                continue
            # An update changes the current weights, or starts from a checkpoint of the last exact run.
            out = sub.exact_upto if get(plan.strategy).clean else sub.removed_upto
            job = UpdateJob(
                job_id=_job_id(),
                shard=shard,
                strategy=plan.strategy,
                upto=upto,
                trajectory=sub.trajectory(len(self._site.recipe_for(shard).epochs)),
                current_blob=sub.blob,
                alpha=plan.alpha,
                revoked=KeySet.of(stone for stone in stones if stone.seq > out),
                removed=KeySet.of(stone for stone in stones if stone.seq <= out),
            )
            self._queue(started, job)

    def retrain(self, owner: Round, shard: int, upto: int = 0) -> None:
        """Queue the exact retrain of one shard.

        Args:
            owner: The round.
            shard: Which.
            upto: The newest tombstone that it removes.
        """
        self._queue(owner, RetrainJob(job_id=_job_id(), shard=shard, upto=upto, mend=owner.mends))

    def take(self, owner: Round, job: ModelJob, result: JobResult) -> ShardFailure | None:
        """Take the result of a round's job; after a failure that may pass another job is queued.

        Args:
            owner: The round.
            job: One of its jobs, which is done.
            result: What came of it.

        Returns:
            The failure, where no other job would help.
        """
        if not isinstance(result, ShardFailure):
            if isinstance(result, ShardOutcome):
                owner.outcomes[job.shard] = result
            return None
        attempts, plan = owner.attempts[job.shard], owner.plans[job.shard]
        # Not the error: it may name a row.
        fields = {"shard": job.shard, "strategy": plan.strategy, "attempt": attempts}
        _log.warning("a job of shard %d failed", job.shard, extra=fields)
        if result.strategy_unavailable:
            reasons = (*plan.reasons, f"fell back to {FALLBACK}: {result.error.splitlines()[0]}")
            owner.plans[job.shard] = replace(plan, strategy=FALLBACK, rule="fallback", reasons=reasons)
            self.retrain(owner, job.shard, job.upto)
        elif result.retryable and attempts < self._site.settings.policy.max_attempts:
            self._queue(owner, replace(job, job_id=_job_id()))
        else:
            return result
        return None

    def withdraw(self, owner: Round) -> None:
        """Drop the jobs of a round that the executor does not have yet."""
        self._dispatcher.withdraw(owner.jobs)

    def _queue(self, owner: Round, job: ModelJob) -> None:
        owner.jobs[job.job_id] = job
        owner.attempts[job.shard] = owner.attempts.get(job.shard, 0) + 1
        self._dispatcher.queue(job)


def _job_id() -> str:
    return uuid.uuid4().hex
