"""Purger: takes requests from SERVED and exact to PURGED, one batch at a time (`purge_batch.py`)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection

from hybridmu.errors import HybridMUError, LeaseLostError
from hybridmu.runtime.coordinator.certifier import Certifier
from hybridmu.runtime.coordinator.purge_batch import Clean, Means, PurgeBatch, Queue, Stage
from hybridmu.runtime.coordinator.purge_schedule import PurgeSchedule
from hybridmu.runtime.workers.context import Site
from hybridmu.store.ledger.database import Database
from hybridmu.store.ledger.file_recorder import Recorder
from hybridmu.types import JobResult, RequestNeed
from hybridmu.user_code import place, told

_log = logging.getLogger(__name__)
# What a purge itself may need before a deadline.
_MARGIN_SECONDS = 60.0


class Purger:
    """Picks what is purged together, drives that, and tries again later what failed.

    Args:
        site: Storage and settings.
        database: Of the system.
        queue: Queues a job with the coordinator.
        renew: Keeps the coordinator's lease during longer work.
        clean: Takes forgotten rows out of the copies of new data that wait; returns their names.
        recorder: Keeps what the lake's files hold.
    """

    def __init__(
        self,
        site: Site,
        database: Database,
        queue: Queue,
        renew: Callable[[], None],
        clean: Clean,
        recorder: Recorder,
    ) -> None:
        self._site, self._database, self._deletions = site, database, database.deletions
        self._journal, self._schedule = database.journal(site.storage), PurgeSchedule()
        self._certifier = Certifier(site, database, renew)
        self._means = Means(
            max_attempts=site.settings.policy.max_attempts,
            database=database,
            journal=self._journal,
            recorder=recorder,
            certifier=self._certifier,
            schedule=self._schedule,
            queue=queue,
            renew=renew,
            clean=clean,
        )
        self._batch: PurgeBatch | None = None
        self._proven: set[int] = set()  # shards whose refused evidence was made again

    @property
    def busy(self) -> bool:
        """Return whether a purge is at work, or has not yet looked whether there is one to do."""
        return self._batch is not None or self._schedule.unseen

    @property
    def shards(self) -> frozenset[int]:
        """Return the shards on which nothing else may start: a purge is at work there, or waited for them too long."""
        return self._batch.shards if self._batch else self._schedule.reserved

    def owns(self, job_id: str) -> bool:
        """Return whether a job is one of the running batch."""
        return self._batch is not None and job_id in self._batch.jobs

    def wake(self) -> None:
        """Look at the next step: a request was served or became exact."""
        self._schedule.wake()

    def begin(self, token: int, busy: Collection[int]) -> None:
        """Start a batch of everything that is due on shards that nobody works on.

        Args:
            token: The coordinator's fencing token.
            busy: Shards with jobs.
        """
        if self._batch is not None or not self._schedule.look():
            return
        if not self._guarded(token, self._certifier.resume):
            return
        holds = self._database.controls.holds()
        confirmed, retention = self._database.replicas.confirmed(), self._site.settings.policy.retention_seconds
        found = self._deletions.purgeable(confirmed, retention, _MARGIN_SECONDS, holds)
        blocked = {item.request_id: item.blocked for item in found if item.blocked and item.blocked != item.noted}
        if blocked:
            self._deletions.note(token, blocked)
        due = self._schedule.due(found)
        if joined := [item.request_id for item in due if not item.shards]:
            self._guarded(token, lambda token: self._end_joined(token, joined))
        together = self._schedule.together([item for item in due if item.shards], found, busy)
        if together:
            batch = self._batch = PurgeBatch(self._means, {item.request_id: item.shards for item in together})
            proving = self._guarded(token, lambda token: batch.prove(token, holds, self._unproven))
            if proving and not batch.jobs:
                self._go_on(token, batch)

    def receive(self, token: int, result: JobResult) -> None:
        """Take the result of one of the batch's jobs, and go on to the next stage when it was the last."""
        batch = self._batch
        assert batch is not None
        job = batch.jobs.pop(result.job_id)
        self._guarded(token, lambda token: batch.take(token, job, result))
        if not batch.jobs:
            if batch.requests:
                self._go_on(token, batch)
            else:
                self._end()

    def _end_joined(self, token: int, requests: Collection[str]) -> None:
        """End requests that revoked nothing themselves: nothing of them is left anywhere but in the ledger."""
        self._journal.scrub((), requests)
        self._deletions.end_joined(token, list(requests))
        self.wake()  # others may have waited for them

    def _unproven(self, shards: frozenset[int]) -> dict[int, tuple[RequestNeed, ...]]:
        """Return shard → requests without evidence, and, once per start, those whose evidence was refused.

        A person may have looked at these meanwhile.
        """
        evidence = self._database.evidence
        found = evidence.unproven(shards & self._proven) | evidence.unproven(shards - self._proven, again=True)
        self._proven |= shards
        return found

    def _go_on(self, token: int, batch: PurgeBatch) -> None:
        self._guarded(token, batch.go_on)
        if batch.ended:
            self._end()

    def _end(self) -> None:
        self._batch = None
        self.wake()  # more may have become due meanwhile

    def _guarded(self, token: int, do: Stage) -> bool:
        """Return whether something succeeded; whatever fails keeps the batch's requests back, and is tried again.

        Raises:
            LeaseLostError: Another coordinator took over.
        """
        try:
            do(token)
        except LeaseLostError:
            raise
        except Exception as error:  # the daemon must go on, whatever a driver, a disk or a file somebody made does
            # Of an unknown error only its type and place: its text may name a row.
            unknown = f"{type(error).__name__} at {place(error) or 'an unknown place'}"
            said = str(error) if isinstance(error, HybridMUError) else unknown
            _log.warning("a purge failed and is tried again: %s", said)
            batch = self._batch
            if batch is None:
                self._schedule.rest()
            else:
                batch.fail(token, list(batch.requests), told(error))
                if not batch.jobs:
                    self._end()
            return False
        return True
