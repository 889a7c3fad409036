"""Calibrator: has canaries deleted once version 1 is served, and again when some were revoked.

All that it needs is in the ledger: what a crash leaves undone is found lacking by the next coordinator. What one job
measured is committed at once.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Collection

from hybridmu.core.calibration.fit import usable
from hybridmu.faults import reach
from hybridmu.planning.canary_schedule import affordable
from hybridmu.runtime.coordinator.canary_jobs import Canaries
from hybridmu.runtime.workers.isolation import apart
from hybridmu.types import CalibrateJob, CalibrationCell, CalibrationOutcome, Job, JobResult

# How often the ledger is asked while nothing changed, and when a job that failed is tried again.
_LOOK_SECONDS = 30.0
_RETRY_SECONDS = 600.0


class Calibrator:
    """Drives the canary deletions of one system.

    Args:
        canaries: What is known and lacking.
        queue: Queues a job with the coordinator.
    """

    def __init__(self, canaries: Canaries, queue: Callable[[Job], None]) -> None:
        self._canaries, self._queue = canaries, queue
        self._measurements = canaries.measurements
        self._jobs: dict[str, CalibrateJob] = {}
        self._again: set[str] = set()  # jobs that count against the budget for measuring again
        self._apart: dict[int, list[CalibrationCell]] = {}  # what `begin` has not sent yet
        self._done = self._total = 0
        self._look_at = 0.0
        self._not_before: dict[tuple[int, CalibrationCell], float] = {}

    @property
    def at_work(self) -> bool:
        """Return whether canaries are being deleted."""
        return bool(self._jobs)

    @property
    def busy(self) -> bool:
        """Return whether canaries are being deleted, or nobody has looked yet whether some lack."""
        return self.at_work or (self._canaries.wanted and self._look_at == 0.0)

    @property
    def needs_checkpoints(self) -> bool:
        """Return whether the first calibration is still to come, which needs every checkpoint of the first run."""
        first = self._measurements.first_calibration()
        within = first.seconds < self._canaries.site.settings.policy.calibration_seconds
        return self.at_work or (not first.over and within and bool(self._canaries.lacking()))

    @property
    def shards(self) -> frozenset[int]:
        """Return the shards it is at work on."""
        return frozenset(job.shard for job in self._jobs.values())

    def owns(self, job_id: str) -> bool:
        """Return whether a job is one of its own."""
        return job_id in self._jobs

    def wake(self) -> None:
        """Look at the next step: shards have changed."""
        self._look_at = 0.0

    def begin(self) -> None:
        """Queue the first calibration at once, a set of canaries per shard at a time: somebody waits for it."""
        if self._jobs or not self._canaries.wanted:
            return
        self._apart = {}
        for shard, cell in self._canaries.lacking():
            self._apart.setdefault(shard, []).append(cell)
        self._done, self._total = 0, sum(map(len, self._apart.values()))
        for shard in list(self._apart):
            self._send_next(shard)

    def again(self, token: int, busy: Collection[int], spare: float) -> None:
        """Queue what lacks most, if the budget allows it and nothing of it is under way; nothing else is to do.

        Args:
            token: The coordinator's fencing token.
            busy: Shards on which nothing may start.
            spare: Seconds until something has to start; a job that ever took longer waits.
        """
        now = time.monotonic()
        if self._jobs or now < self._look_at or not self._canaries.wanted:
            return
        self._look_at = now + _LOOK_SECONDS
        ledger, known = self._canaries.ledger, self._measurements.curves()
        # No request waits: nobody can take one back any more that revoked canaries.
        self._measurements.drop_curves(token, ledger.revoked({key for curve in known for key in curve.keys}))
        self._not_before = {what: at for what, at in self._not_before.items() if at > now}
        due = [what for what in self._canaries.lacking(busy) if what not in self._not_before]
        first = self._first(token, bool(due))
        share = self._canaries.site.settings.policy.recalibration_share
        longest = max((curve.seconds for curve in known), default=0.0)
        if due and longest <= spare and (first or affordable(*self._measurements.effort(), share)):
            reach("calibrate.launch")
            shard, cell = due[0]
            self._done, self._total = 0, len(due)
            job_id = self._send(shard, cell)
            if not first:
                self._again.add(job_id)

    def receive(self, token: int, result: JobResult) -> None:
        """Take the result of one of its jobs."""
        job = self._jobs.pop(result.job_id)
        again = result.job_id in self._again
        self._again.discard(result.job_id)
        self._done += 1
        measured: set[CalibrationCell] = set()
        if isinstance(result, CalibrationOutcome):
            measured = {curve.cell for curve in result.curves if usable(curve)}
            if measured or result.seconds:
                with apart("keeping a calibration", lambda _: measured.clear()):
                    self._measurements.add_curves(token, result.curves, result.seconds, first=not again)
        # Without its curve `auto` retrains, and says why. A shard that is too small for a cell stays so.
        for cell in set(job.cells) - measured:
            self._not_before[job.shard, cell] = time.monotonic() + _RETRY_SECONDS
        if self._apart:
            self._send_next(job.shard) if self._first(token, True) else self._apart.clear()
        self.wake()

    @property
    def progress(self) -> tuple[int, int]:
        """Return how many sets of canaries are measured, and how many of them there are in all."""
        return (self._done, self._total) if self.at_work else (0, 0)

    def _first(self, token: int, due: bool) -> bool:
        """Return whether what lacks belongs to the first calibration; it ends when nothing lacks or its time is up.

        Args:
            token: The coordinator's fencing token.
            due: Whether anything lacks.
        """
        first = self._measurements.first_calibration()
        if first.over:
            return False
        if due and first.seconds < self._canaries.site.settings.policy.calibration_seconds:
            return True
        if not self._canaries.needless():  # later rows may make it worth while
            self._measurements.end_first_calibration(token)
        return False

    def _send_next(self, shard: int) -> None:
        """Queue a shard's next set of canaries: which rows are left for it is known once the one before is measured."""
        if cells := self._apart.pop(shard, None):
            if cells[1:]:
                self._apart[shard] = cells[1:]
            self._send(shard, cells[0])

    def _send(self, shard: int, cell: CalibrationCell) -> str:
        avoid = {key for c in self._canaries.curves() if c.shard == shard and c.cell != cell for key in c.keys}
        job = CalibrateJob(job_id=uuid.uuid4().hex, shard=shard, cells=(cell,), avoid=tuple(sorted(avoid)))
        self._jobs[job.job_id] = job
        self._queue(job)
        return job.job_id
