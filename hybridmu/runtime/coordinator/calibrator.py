"""Calibrator: has canaries deleted after training, and again when some were revoked.

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
        self._again: set[str] = set()  # jobs that count against the budget
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
        """Queue everything that lacks, one job per shard: the first calibration, or what a crash left of it."""
        apart: dict[int, list[CalibrationCell]] = {}
        for shard, cell in self._canaries.lacking():
            apart.setdefault(shard, []).append(cell)
        for shard, cells in apart.items():
            self._send(shard, tuple(cells))

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
        share = self._canaries.site.settings.policy.recalibration_share
        longest = max((curve.seconds for curve in known), default=0.0)
        if due and longest <= spare and affordable(*self._measurements.effort(), share):
            reach("calibrate.launch")
            shard, cell = due[0]
            self._again.add(self._send(shard, (cell,)))

    def receive(self, token: int, result: JobResult) -> None:
        """Take the result of one of its jobs."""
        job = self._jobs.pop(result.job_id)
        again = result.job_id in self._again
        self._again.discard(result.job_id)
        measured: set[CalibrationCell] = set()
        if isinstance(result, CalibrationOutcome):
            measured = {curve.cell for curve in result.curves if usable(curve)}
            spent = result.seconds if again else 0.0
            if measured or spent:
                with apart("keeping a calibration", lambda _: measured.clear()):
                    self._measurements.add_curves(token, result.curves, spent)
        # Without its curve `auto` retrains, and says why. A shard that is too small for a cell stays so.
        for cell in set(job.cells) - measured:
            self._not_before[job.shard, cell] = time.monotonic() + _RETRY_SECONDS
        self.wake()

    def _send(self, shard: int, cells: tuple[CalibrationCell, ...]) -> str:
        avoid = {key for c in self._canaries.curves() if c.shard == shard and c.cell not in cells for key in c.keys}
        job = CalibrateJob(job_id=uuid.uuid4().hex, shard=shard, cells=cells, avoid=tuple(sorted(avoid)))
        self._jobs[job.job_id] = job
        self._queue(job)
        return job.job_id
