"""Evaluator: has the quality of every version measured once it is published."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable

from hybridmu.runtime.workers.context import Site
from hybridmu.store.dataset.layout import HELD_OUT
from hybridmu.store.ledger.evaluations import Evaluations
from hybridmu.store.ledger.registry import Registry
from hybridmu.types import EvaluateJob, EvaluationOutcome, Job, JobResult, Quality, ShardFailure

_log = logging.getLogger(__name__)
_ATTEMPTS = 3
# What is more urgent may hold an evaluation up for so long.
_PATIENCE_SECONDS = 60.0


class Evaluator:
    """Evaluates one version at a time, the newest first. All that it needs is in the ledger.

    Args:
        site: Whose held-out tables are asked about.
        registry: Versions.
        evaluations: What was measured.
        queue: Queues a job with the coordinator.
    """

    def __init__(self, site: Site, registry: Registry, evaluations: Evaluations, queue: Callable[[Job], None]) -> None:
        self._site, self._registry, self._evaluations, self._queue = site, registry, evaluations, queue
        self._job: EvaluateJob | None = None
        self._settled: int | None = None  # no version up to this one lacks its evaluation
        self._waiting_since: float | None = None
        self._attempts: dict[int, int] = {}

    @property
    def at_work(self) -> bool:
        """Return whether a version is being evaluated."""
        return self._job is not None

    def busy(self, version: int | None) -> bool:
        """Return whether a version is being evaluated, or the served one may be next.

        Args:
            version: The served one.
        """
        return self._job is not None or (version is not None and self._settled != version and self._wanted)

    def owns(self, job_id: str) -> bool:
        """Return whether a job is one of its own."""
        return self._job is not None and self._job.job_id == job_id

    def begin(self, version: int, urgent: bool) -> None:
        """Queue the evaluation of the newest version that lacks it.

        Args:
            version: The served one.
            urgent: Something else wants the workers; an evaluation goes first only when it waited for a minute.
        """
        if self._job is not None or self._settled == version or not self._wanted:
            return
        now = time.monotonic()
        self._waiting_since = since = now if self._waiting_since is None else self._waiting_since
        if urgent and now - since < _PATIENCE_SECONDS:
            return
        self._waiting_since = None
        lacking = self._evaluations.lacking()
        if lacking is None:
            self._settled = version
            return
        voters = [(sub.shard, sub.blob) for sub in self._registry.version(lacking).shards if sub.blob is not None]
        self._job = EvaluateJob(job_id=uuid.uuid4().hex, version=lacking, sub_models=tuple(voters))
        self._queue(self._job)

    def receive(self, token: int, result: JobResult) -> None:
        """Take the result of its job; a version that can't be evaluated is left without figures after some attempts.

        Args:
            token: The coordinator's fencing token.
            result: Of the job.
        """
        job, self._job = self._job, None
        assert job is not None
        if isinstance(result, EvaluationOutcome):
            self._evaluations.record(token, result.quality)
            if self._evaluations.lacking() is None:  # said at once: `train` ends here, before anything else begins
                self._settled = self._registry.served()
            return
        assert isinstance(result, ShardFailure)
        tried = self._attempts[job.version] = self._attempts.get(job.version, 0) + 1
        # An older version's weights may be purged; they don't come back.
        if tried >= _ATTEMPTS or job.version != self._registry.served():
            _log.warning("version %d could not be evaluated: %s", job.version, result.error)
            self._evaluations.record(token, Quality(job.version, None, 0.0))

    @property
    def _wanted(self) -> bool:
        """Return whether versions are evaluated at all: the configuration says so, and rows are held out."""
        if not self._site.settings.evaluation.every_version:
            return False
        rows = self._site.lake.manifest.rows
        return any(sum(map(sum, rows[split])) for split in HELD_OUT if split in rows)
