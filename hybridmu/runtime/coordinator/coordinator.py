"""The coordinator: step() = claim → plan → dispatch → poll → publish → confirm served → purge.

Sole writer of plans, outcomes and the serving pointer, fenced by a lease. Requests that share shards are fulfilled
together in one *round*; rounds on different shards run side by side. Everything in memory can be lost: a restart
claims open requests again, and finished slices are found by their lineage. What an update changed is retrained exactly
in a round of its own, without requests.

What a request, a round or an errand raises ends that one alone (`isolation.py`); a lost lease, database or storage
ends the step.
"""

from __future__ import annotations

import logging

from hybridmu.config import Settings
from hybridmu.faults import reach
from hybridmu.runtime.coordinator.calibrator import Calibrator
from hybridmu.runtime.coordinator.canary_jobs import Canaries
from hybridmu.runtime.coordinator.checkpoint_keeper import CheckpointKeeper
from hybridmu.runtime.coordinator.dispatcher import Dispatcher
from hybridmu.runtime.coordinator.evaluator import Evaluator
from hybridmu.runtime.coordinator.first_training import FirstTraining
from hybridmu.runtime.coordinator.ingestion import Growth
from hybridmu.runtime.coordinator.integrity import Healer
from hybridmu.runtime.coordinator.leadership import Leadership
from hybridmu.runtime.coordinator.occupied_shards import OccupiedShards
from hybridmu.runtime.coordinator.open_rounds import OpenRounds
from hybridmu.runtime.coordinator.purger import Purger
from hybridmu.runtime.coordinator.removal_planner import RemovalPlanner
from hybridmu.runtime.coordinator.repairs import Repairs
from hybridmu.runtime.coordinator.retry_times import RetryTimes
from hybridmu.runtime.coordinator.round_jobs import RoundJobs
from hybridmu.runtime.coordinator.rounds import Round, new_id
from hybridmu.runtime.coordinator.scheduler import Claimer
from hybridmu.runtime.coordinator.snapshot import Snapshot
from hybridmu.runtime.coordinator.start_checks import StartChecks
from hybridmu.runtime.coordinator.table_layout import TableLayout
from hybridmu.runtime.linked.forwarder import Forwarder
from hybridmu.runtime.workers.context import Site
from hybridmu.runtime.workers.executor import Executor
from hybridmu.runtime.workers.isolation import Errands
from hybridmu.store.dataset.ingest import ingest
from hybridmu.store.keyring import Keyring
from hybridmu.store.ledger.database import Database
from hybridmu.store.ledger.file_recorder import Recorder
from hybridmu.store.ownership import bind, take
from hybridmu.types import JobResult, RequestState

_log = logging.getLogger(__name__)


class Coordinator:
    """Drives every request from RECEIVED to SERVED.

    Args:
        settings: The configuration.
        executor: Where shard jobs run.
        holder: Name under which the lease is taken.
    """

    def __init__(self, settings: Settings, executor: Executor, holder: str) -> None:
        self.settings, self.executor = settings, executor
        self.site = site = Site(settings)
        take(site.storage, settings)  # before the ledger, which may lie in it, is made
        # Made where there is none: it may be here to train.
        database = self.database = Database.open(settings.database, create=True, modes=site.storage.modes)
        self.registry = database.registry
        self.leadership = Leadership(database.lease, holder)
        journal, keyring = database.journal(site.storage), Keyring(settings)
        self._checks = StartChecks(site, database, journal, keyring)
        self._guard, self._recorder = database.guard(keyring), Recorder(site.lake, database)
        self._errands, self._retries = Errands(), RetryTimes(settings.policy.max_attempts)

        self._planner = RemovalPlanner(site, database.ledger, database.measurements, database.registry)
        self._claimer = Claimer(settings, database, self._planner, journal)
        self._dispatcher = Dispatcher(site, database.progress, journal, executor)
        self._growth = Growth(site, database.registry, database.ingestions, self._guard, self._planner, self._recorder)
        canaries = Canaries(site, database.ledger, database.measurements, database.registry)
        self._calibrator = Calibrator(canaries, self._dispatcher.queue)
        self._calibrate_next = False  # somebody waits for it
        self._evaluator = Evaluator(site, database.registry, database.evaluations, self._dispatcher.queue)
        self._purger = Purger(
            site,
            database,
            self._dispatcher.queue,
            self.leadership.renew,
            self._growth.forget_waiting,
            self._recorder,
        )
        healer, jobs = Healer(site, database), RoundJobs(site, self._dispatcher)
        self._training = FirstTraining(site, database.registry, journal, jobs)
        self._rounds = OpenRounds(
            database, journal, jobs, self._claimer, self._growth, healer, self._retries, self._wake
        )
        self._occupied = OccupiedShards(self._training, self._rounds, self._calibrator, self._dispatcher, self._purger)
        self._repairs = Repairs(
            site,
            database.registry,
            self._planner,
            executor,
            healer,
            self._rounds,
            self._occupied,
            self._retries,
            self._errands,
        )
        self._keeper = CheckpointKeeper(site, database.ledger, database.registry)
        self._layout = TableLayout(site)
        self._forwarder = Forwarder(settings, database)

    # ------------------------------------------------------------------ lease

    def acquire(self) -> bool:
        """Return whether the lease was taken; false when another coordinator holds it."""
        self._checks.before_lease()
        token = self.leadership.take()
        if token is not None:
            self._recorder.settle(token)
        return token is not None

    def close(self) -> None:
        """Release the lease and the executor."""
        try:
            self.leadership.release()
        finally:
            self.executor.close()

    # ------------------------------------------------------------------ the loop

    def begin_training(self, calibrate: bool = False) -> Snapshot:
        """Return the state after reading the source and queueing every shard; nothing that is there is redone.

        Args:
            calibrate: Delete canaries once version 1 is published; otherwise when nothing else is to do.
        """
        lake = self.site.lake
        bind(self.site.storage, self.database.identity, self.settings, create=True, replace=not lake.exists)
        ingest(lake, self._guard, self._recorder.begin)
        self._calibrate_next = calibrate
        if self.registry.served() is None and not self._training.rounds:
            self._training.begin()
        elif self.registry.served() is not None:
            self._begin_calibration()
        return self.snapshot()

    def step(self, wait_seconds: float = 0.0) -> Snapshot:
        """Return the state after one transition of everything that can move.

        Args:
            wait_seconds: How long it may block, at most until a request comes.

        Raises:
            LeaseLostError: Another coordinator took over.
            ShardFailedError: A shard could not be trained in the first training.
        """
        reach("step")
        self.leadership.renew()
        token, ledger = self.leadership.token(), self.database.ledger
        self._checks.tidy()
        self._layout.step(self._occupied.flying(), self.leadership.renew)
        newest = ledger.newest()
        version = self.registry.served()
        if version is not None and not self._training.rounds:
            self._begin_work(token)
        self._dispatch(token)
        for result in self.executor.poll(wait_seconds, lambda: ledger.newest() != newest):
            self._receive(token, result)
        self._dispatch(token)  # to the places that came free, before anything else is looked at
        self._confirm_served(token)
        return self.snapshot()

    def snapshot(self) -> Snapshot:
        """Return where things stand."""
        rounds = [*self._rounds.rounds, *self._training.rounds]
        open_states = (RequestState.RECEIVED, RequestState.PLANNED, RequestState.APPLIED)
        waiting = self.database.ledger.requests(open_states)
        version, paused = self.registry.served(), self.database.controls.paused() is not None
        looks = version is not None and not (rounds or waiting or paused)  # then it may delete canaries next
        owing = set() if version is None else set(self.registry.debts())
        blocked = self._retries.blocked(owing)
        return Snapshot(
            version=version,
            jobs_total=sum(len(r.plans) for r in rounds),
            jobs_done=sum(len(r.outcomes) for r in rounds),
            open_requests=len(waiting),
            evaluating=self._errands.due("evaluation") and self._evaluator.busy(version),
            canaries=self._calibrator.progress,
            calibrating=self._calibrator.at_work or (looks and self._calibrator.busy),
            paused=paused,
            purging=self._purger.busy and not paused,
            ingestions=self._growth.open(),
            repairing=bool(owing - blocked) and self.settings.policy.repair == "idle" and not paused,
            blocked=tuple(sorted(blocked)),
        )

    # ------------------------------------------------------------------ what begins, most urgent first

    def _begin_work(self, token: int) -> None:
        """Begin what waits on the served version, and look after all that no request asked for."""
        self._evaluate()  # what was just published, before what comes next keeps the workers busy
        paused = self.database.controls.paused() is not None
        idle = False
        if paused or not self._grow(token):
            idle = not self._claim(token, paused)
            # Who waits for the new version's quality may ask for another deletion then, and not for shards in repair.
            self._repairs.repair(token, idle and not paused, patient=self._evaluator.at_work)
        if self._forwarder.step(self.leadership.renew):
            self._purger.wake()
        if not paused:
            self._repairs.heal(token, idle and not self._rounds.rounds and not self._dispatcher.busy)
            self._purge(token)
            self._calibrate(token, idle)

    def _grow(self, token: int) -> bool:
        """Bring in rows that were ingested.

        Returns:
            Whether requests wait for that.
        """
        grown = self._growth.step(token, self.executor.pools(), self._occupied.flying(), self.leadership.renew)
        if grown.plans:
            started = Round(new_id("ingest"), {}, grown.plans, grown.ingest_id)
            self._rounds.launch(token, started, self.registry.version().shards)
        return grown.requests_wait

    def _claim(self, token: int, paused: bool) -> bool:
        """Start what waits and is due.

        Returns:
            Whether any request waits.
        """
        flying = self._rounds.requests
        waiting = self._claimer.waiting(flying)
        if not paused:
            busy, pools = self._occupied.busy(), self.executor.pools()
            for started, shards in self._claimer.claim(token, waiting, busy, pools):
                reach("round.launch")
                self._rounds.launch(token, started, shards)
        return bool(waiting or flying)

    def _purge(self, token: int) -> None:
        """Purge what is due."""
        if self._errands.due("purging"):
            with self._errands.apart("purging"):
                self._purger.begin(token, self._occupied.at_work())

    def _calibrate(self, token: int, idle: bool) -> None:
        """Delete canaries again where they were revoked, when nothing at all is more urgent.

        Nor while the quality of a version is measured: `train` ends with it, and would wait for both.
        """
        at_work = self._rounds.rounds or self._dispatcher.busy or self._purger.busy or self._evaluator.at_work
        if idle and not at_work:
            with self._errands.apart("calibration"):
                self._calibrator.again(token, self._occupied.busy(), self._repairs.spare_seconds)

    def _evaluate(self) -> None:
        """Measure the quality of new versions, when nothing that somebody waits for needs the workers."""
        version = self.registry.served()
        if version is not None and self._errands.due("evaluation"):
            with self._errands.apart("evaluation"):
                self._evaluator.begin(version, urgent=bool(self._rounds.rounds))

    def _begin_calibration(self) -> None:
        if not self._calibrate_next:
            return
        with self._errands.apart("calibration"):
            self._calibrator.begin()

    # ------------------------------------------------------------------ what comes back

    def _dispatch(self, token: int) -> None:
        for failed in self._dispatcher.give(token):
            self._receive(token, failed)

    def _receive(self, token: int, result: JobResult) -> None:
        """Give a result to who asked for the job; nobody, if that was given up."""
        reach("job.result")
        self._dispatcher.came_back(result.job_id)
        if self._purger.owns(result.job_id):
            self._purger.receive(token, result)
        elif self._calibrator.owns(result.job_id):
            self._calibrator.receive(token, result)
            self._evict()
        elif self._evaluator.owns(result.job_id):
            self._evaluator.receive(token, result)
        elif self._rounds.owns(result.job_id):
            if self._rounds.receive(token, result):
                self._evict()
        elif self._training.owns(result.job_id) and self._training.receive(token, result):
            self._evaluate()  # first: the quality of what is served says whether anything else is worth it
            self._begin_calibration()
            self._evict()

    def _confirm_served(self, token: int) -> None:
        confirmed = self.database.replicas.confirmed()
        self._growth.ingestions.mark_served(token, confirmed)
        if served := self.database.progress.mark_served(token, confirmed):
            _log.info("%d request(s) are served", len(served), extra={"requests": served})
            self._purger.wake()

    def _wake(self) -> None:
        """Let those look at once who act on new versions."""
        self._purger.wake()
        self._calibrator.wake()

    def _evict(self) -> None:
        with self._errands.apart("eviction"):
            if self._calibrator.needs_checkpoints:
                return
            self._keeper.evict_surplus(self._occupied.busy())
