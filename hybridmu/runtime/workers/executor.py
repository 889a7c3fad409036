"""Executors of shard jobs: the protocol, and the one that runs them in this process."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Protocol

from hybridmu.config import Settings
from hybridmu.errors import HybridMUError, StorageError, StrategyUnavailableError
from hybridmu.planning.planner import Pools
from hybridmu.runtime.workers.shard_worker import ShardWorker
from hybridmu.runtime.workers.update_worker import Updater
from hybridmu.types import Job, JobResult, ShardFailure, ShardOutcome, UpdaterJob
from hybridmu.user_code import told

_IDLE_SECONDS = 0.02


class Executor(Protocol):
    """Runs jobs somewhere. One job per shard at a time is the caller's duty."""

    def pools(self) -> Pools:
        """Return how many retrains and updates run at once."""
        ...

    def has_core(self, job: Job) -> bool:
        """Return whether a core is free where the job would run, as far as that is settled."""
        ...

    def submit(self, job: Job) -> None:
        """Start or queue a job; returns at once."""
        ...

    def poll(self, wait_seconds: float, called: Callable[[], bool] = lambda: False) -> list[JobResult]:
        """Return what has finished, waiting at most this long for the first.

        Args:
            wait_seconds: The longest wait.
            called: Asked while it waits: whether the caller has something else to do.
        """
        ...

    def close(self) -> None:
        """Free what is held."""
        ...


class LocalExecutor:
    """Runs one job per poll in this process; for tests and notebooks.

    Args:
        settings: The configuration.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._queue: deque[Job] = deque()
        self._workers: dict[int, ShardWorker] = {}
        self._updater: Updater | None = None

    def pools(self) -> Pools:
        """Return one worker and one updater."""
        return Pools(1, 1)

    def has_core(self, job: Job) -> bool:
        """Return true: there is one place, and jobs take turns."""
        return True

    def submit(self, job: Job) -> None:
        """Queue a job."""
        self._queue.append(job)

    def poll(self, wait_seconds: float, called: Callable[[], bool] = lambda: False) -> list[JobResult]:
        """Return the result of the oldest queued job, after running it to its end; without one it waits for 20 ms."""
        if not self._queue:
            time.sleep(min(wait_seconds, _IDLE_SECONDS))
            return []
        job = self._queue.popleft()
        try:
            return [self._run(job)]
        except HybridMUError as error:
            return [failure(job, error)]
        except (Exception, SystemExit) as error:  # the user's own code
            return [failure(job, error, retryable=True)]
        except BaseException:
            self._queue.appendleft(job)  # interrupted: the caller may go on later
            raise

    def close(self) -> None:
        """Drop all workers."""
        self._workers.clear()
        self._updater = None

    def _run(self, job: Job) -> JobResult:
        if not isinstance(job, UpdaterJob):
            return self._worker(job.shard).run(job)
        if self._updater is None:
            self._updater = Updater(self._settings)
        outcome = self._updater.run(job)
        if isinstance(outcome, ShardOutcome) and outcome.blob:
            self._worker(outcome.shard).adopt(outcome.blob)
        return outcome

    def _worker(self, shard: int) -> ShardWorker:
        if shard not in self._workers:
            self._workers[shard] = ShardWorker(self._settings, shard)
        return self._workers[shard]


def failure(job: Job, error: BaseException, *, retryable: bool = False) -> ShardFailure:
    """Return a description of why a job failed."""
    again = retryable or isinstance(error, StorageError)  # a network that fails now may not fail the next time
    return ShardFailure(job.job_id, job.shard, told(error), again, isinstance(error, StrategyUnavailableError))
