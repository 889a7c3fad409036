"""The coordinator: step() = claim → plan → dispatch → poll → publish → confirm served.

Sole writer of plans, outcomes and the serving pointer, fenced by a lease. Requests that share shards are fulfilled
together in one *round*; rounds on different shards run side by side. Everything in memory can be lost: a restart
claims open requests again, and finished slices are found by their lineage. What an update changed is retrained exactly
in a round of its own, without requests.

What a request, a round or an errand raises ends that one alone (`isolation.py`); a lost lease, database or storage
ends the step.
"""

from __future__ import annotations

import logging
import math
import time
import uuid
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from hybridmu.config import Settings
from hybridmu.core.strategies import get
from hybridmu.errors import LeaseLostError, ShardFailedError, StateError
from hybridmu.faults import reach
from hybridmu.kinds import FALLBACK
from hybridmu.planning.repair import Debt, repair_due
from hybridmu.runtime.coordinator.calibrator import Calibrator
from hybridmu.runtime.coordinator.canary_jobs import Canaries
from hybridmu.runtime.coordinator.checkpoint_keeper import CheckpointKeeper
from hybridmu.runtime.coordinator.dispatcher import Dispatcher
from hybridmu.runtime.coordinator.ingestion import Growth
from hybridmu.runtime.coordinator.integrity import Healer
from hybridmu.runtime.coordinator.purger import Purger
from hybridmu.runtime.coordinator.removal_planner import RemovalPlanner
from hybridmu.runtime.coordinator.rounds import Round, new_id
from hybridmu.runtime.coordinator.scheduler import Claimer
from hybridmu.runtime.coordinator.table_layout import TableLayout
from hybridmu.runtime.linked.forwarder import Forwarder
from hybridmu.runtime.workers.context import Site
from hybridmu.runtime.workers.executor import Executor
from hybridmu.runtime.workers.isolation import Errands, apart
from hybridmu.runtime.workers.task_checks import TaskChecks
from hybridmu.store.dataset.ingest import ingest
from hybridmu.store.keyring import Keyring
from hybridmu.store.ledger.consistency_check import check_soundness
from hybridmu.store.ledger.database import Database
from hybridmu.store.ledger.file_recorder import Recorder
from hybridmu.store.ownership import bind, claim, refuse_links, refuse_lost_rows, take
from hybridmu.types import (
    NO_KEYS,
    JobResult,
    KeySet,
    ModelJob,
    Plan,
    RequestState,
    RetrainJob,
    ShardFailure,
    ShardOutcome,
    ShardPlan,
    ShardStats,
    SubModelRecord,
    UpdateJob,
)
from hybridmu.user_code import told

_log = logging.getLogger(__name__)
LEASE_SECONDS = 15.0
_REPAIR_RETRY_SECONDS = 60.0
_SOON_SECONDS = 0.5  # until what failed for the first times is tried again: a crowded machine is calm again, or not
_BEGUN = (RequestState.PLANNED, RequestState.APPLIED, RequestState.SERVED, RequestState.FAILED)


@dataclass(frozen=True)
class Snapshot:
    """Where the coordinator stands after a step.

    Attributes:
        version: What is served.
        jobs_total: Shard jobs of all rounds at work.
        jobs_done: How many of them came back.
        open_requests: Requests that are not served yet.
        calibrating: Whether canaries are deleted, or may be next.
        paused: Whether requests are accepted and not begun.
        purging: Whether a purge is at work or due.
        ingestions: New data that is not in yet.
        repairing: Whether a shard owes an exact retrain that comes next, or again in a moment.
        blocked: Shards that owe one which failed again and again; it is tried once a minute.
    """

    version: int | None
    jobs_total: int
    jobs_done: int
    open_requests: int
    calibrating: bool = False
    paused: bool = False
    purging: bool = False
    ingestions: int = 0
    repairing: bool = False
    blocked: tuple[int, ...] = ()


class Coordinator:
    """Drives every request from RECEIVED to SERVED.

    Args:
        settings: The configuration.
        executor: Where shard jobs run.
        holder: Name under which the lease is taken.
    """

    def __init__(self, settings: Settings, executor: Executor, holder: str) -> None:
        self.settings = settings
        self.site = Site(settings)
        take(self.site.storage, settings)  # before the ledger, which may lie in it, is made
        # Made where there is none: it may be here to train.
        database = Database.open(settings.database, create=True, modes=self.site.storage.modes)
        self.ledger, self.registry, self.replicas = database.ledger, database.registry, database.replicas
        self.lease, self.measurements, self.controls = database.lease, database.measurements, database.controls
        self._journal = database.journal(self.site.storage)
        self._database, self._sound, self._tried = database, False, False
        self.executor, self.holder = executor, holder
        self._planner = RemovalPlanner(self.site, self.ledger, self.measurements, self.registry)
        self._claimer = Claimer(settings, database, self._planner, self._journal)
        self._dispatcher = Dispatcher(self.site, database.progress, self._journal, executor)
        self.token: int | None = None
        self._rounds: dict[str, Round] = {}
        self._training: Round | None = None
        self._not_before: dict[int, float] = {}  # shard → when a failed repair is tried again
        self._failures: Counter[int] = Counter()  # shard → how often it failed since one came through
        self._keeper = CheckpointKeeper(self.site, self.ledger, self.registry)
        self._keyring, self._tidied = Keyring(settings), False
        self._guard = database.guard(self._keyring)
        self._recorder = Recorder(self.site.lake, database)
        self._growth = Growth(self.site, self.registry, database.ingestions, self._guard, self._planner, self._recorder)
        queue, clean = self._dispatcher.queue, self._growth.forget_waiting
        canaries = Canaries(self.site, self.ledger, self.measurements, self.registry)
        self._calibrator = Calibrator(canaries, queue)
        self._errands = Errands()
        self._purger = Purger(self.site, database, queue, self._renew, clean, self._recorder)
        self._healer = Healer(self.site, database)
        self._layout = TableLayout(self.site)
        self._forwarder = Forwarder(settings, database)
        self._renewed = 0.0
        self._spare = math.inf  # seconds until a repair has to start to meet its deadline

    # ------------------------------------------------------------------ lease

    def acquire(self) -> bool:
        """Return whether the lease was taken; false when another coordinator holds it."""
        refuse_links(self.site.storage)
        if self.site.lake.exists:
            self._bind(create=False)  # first: the journal of a storage says nothing of another system's ledger
            if not self._sound:
                check_soundness(self._database.engine, self._journal)
                self._sound = True
            self._journal.check()
            claim(self.site.storage, self._database.identity, self.settings)  # an earlier release did not
            self._check_task()
        else:
            refuse_lost_rows(self.site.storage, self._database.identity)
        self.token = self.lease.acquire(self.holder, LEASE_SECONDS)
        self._renewed = time.monotonic()
        if self.token is not None:
            self._recorder.settle(self.token)
        return self.token is not None

    def _check_task(self) -> None:
        """Try the task once where its code, or what runs it, is not what made the served weights."""
        if self._tried or self.registry.served() is None:
            return
        voters = [sub for sub in self.registry.version().shards if sub.blob]
        if not all(self.site.made_alike(sub.shard, sub.head) for sub in voters):
            TaskChecks(self.site).of_lake(self.ledger.tombstones(), begins=False)
        self._tried = True

    def close(self) -> None:
        """Release the lease and the executor."""
        token, self.token = self.token, None
        try:
            if token is not None:
                self.lease.release(token)
        finally:
            self.executor.close()

    # ------------------------------------------------------------------ training

    def begin_training(self) -> Snapshot:
        """Return the state after reading the source and queueing every shard; nothing that is there is redone."""
        self._bind(create=True, replace=not self.site.lake.exists)
        ingest(self.site.lake, self._guard, self._recorder.begin)
        if self.registry.served() is None and self._training is None:
            work = {shard: self._training_plan(shard) for shard in range(self.settings.sisa.shards)}
            self._training = Round(new_id("train"), {}, work)
            for plan in sorted(work.values(), key=lambda p: (-p.sample_visits, p.shard)):
                self._queue(self._training, RetrainJob(job_id=_job_id(), shard=plan.shard))
        elif self.registry.served() is not None and not self._calibrator.at_work:
            self._begin_calibration()  # what a crash after the first version may have left undone
        return self.snapshot()

    def _training_plan(self, shard: int) -> ShardPlan:
        epochs = self.site.recipe_for(shard).epochs
        slices = len(epochs)
        rows = self.site.lake.counts("train", shard, NO_KEYS)[0][:slices]
        work = self.site.learner.workload(
            ShardStats(shard, epochs, rows, (0,) * slices, (0,) * slices, (False,) * slices)
        )
        return ShardPlan(
            shard, FALLBACK, 1, 0, work.full_visits, 1.0, 0.0, (0.0, 0.0), (), "training", ("first training",)
        )

    def _finish_training(self, done: Round) -> None:
        outcomes = [done.outcomes[shard] for shard in sorted(done.outcomes)]
        if not any(outcome.blob for outcome in outcomes):
            raise StateError("no shard has a row to train on", remedy="check the training table")
        self.registry.publish_training(self._token(), outcomes)
        self._journal.settle()
        self._training = None
        self._begin_calibration()

    def _begin_calibration(self) -> None:
        with self._errands.apart("calibration"):
            self._calibrator.begin()

    # ------------------------------------------------------------------ the loop

    def step(self, wait_seconds: float = 0.0) -> Snapshot:
        """Return the state after one transition of everything that can move.

        Args:
            wait_seconds: How long it may block, at most until a request comes.

        Raises:
            LeaseLostError: Another coordinator took over.
            ShardFailedError: A shard could not be trained in the first training.
        """
        reach("step")
        self._renew()
        self._tidy()
        self._layout.step(self._flying(), self._renew)
        newest = self.ledger.newest()
        version = self.registry.served()
        if version is not None and not self._training:
            paused = self.controls.paused() is not None
            idle = False
            if paused or not self._grow():
                idle = not self._claim(paused)
                self._repair(idle and not paused)
            if self._forwarder.step(self._renew):
                self._purger.wake()
            if not paused:
                self._heal(idle)
                self._purge()
                self._calibrate(idle)
        self._give()
        for result in self.executor.poll(wait_seconds, lambda: self.ledger.newest() != newest):
            self._receive(result)
        self._give()  # to the places that came free, before anything else is looked at
        confirmed = self.replicas.confirmed()
        self._growth.ingestions.mark_served(self._token(), confirmed)
        if served := self._database.progress.mark_served(self._token(), confirmed):
            _log.info("%d request(s) are served", len(served), extra={"requests": served})
            self._purger.wake()
        return self.snapshot()

    def snapshot(self) -> Snapshot:
        """Return where things stand."""
        rounds = [*self._rounds.values(), *([self._training] if self._training else [])]
        waiting = self.ledger.requests((RequestState.RECEIVED, RequestState.PLANNED, RequestState.APPLIED))
        version, paused = self.registry.served(), self.controls.paused() is not None
        looks = version is not None and not (rounds or waiting or paused)  # then it may delete canaries next
        owing = set() if version is None else set(self.registry.debts())
        blocked = {shard for shard in owing if self._failures[shard] >= self.settings.policy.max_attempts}
        return Snapshot(
            version=version,
            jobs_total=sum(len(r.plans) for r in rounds),
            jobs_done=sum(len(r.outcomes) for r in rounds),
            open_requests=len(waiting),
            calibrating=self._calibrator.at_work or (looks and self._calibrator.busy),
            paused=paused,
            purging=self._purger.busy and not paused,
            ingestions=self._growth.open(),
            repairing=bool(owing - blocked) and self.settings.policy.repair == "idle" and not paused,
            blocked=tuple(sorted(blocked)),
        )

    def _receive(self, result: JobResult) -> None:
        reach("job.result")
        self._dispatcher.came_back(result.job_id)
        if self._purger.owns(result.job_id):
            self._purger.receive(self._token(), result)
            return
        if self._calibrator.owns(result.job_id):
            self._calibrator.receive(self._token(), result)
            if not self._calibrator.at_work:
                self._evict()  # canaries need every checkpoint
            return
        rounds = [*self._rounds.values(), *([self._training] if self._training else [])]
        owner = next((r for r in rounds if result.job_id in r.jobs), None)
        if owner is None:
            return  # an attempt that was given up
        job = owner.jobs.pop(result.job_id)
        if owner is self._training:  # somebody waits for it, and nothing else is there yet
            self._take(owner, job, result)
            return
        with apart("a round", lambda error: self._fail_round(owner, error)):
            self._take(owner, job, result)

    def _take(self, owner: Round, job: ModelJob, result: JobResult) -> None:
        """Take the result of a round's job.

        Raises:
            ShardFailedError: A shard could not be trained in the first training.
        """
        if not isinstance(result, ShardFailure):
            if isinstance(result, ShardOutcome):
                owner.outcomes[job.shard] = result
                self._finish_if_done(owner)
            return
        attempts, plan = owner.attempts[job.shard], owner.plans[job.shard]
        # Not the error: it may name a row.
        fields = {"shard": job.shard, "strategy": plan.strategy, "attempt": attempts}
        _log.warning("a job of shard %d failed", job.shard, extra=fields)
        if result.strategy_unavailable:
            reasons = (*plan.reasons, f"fell back to {FALLBACK}: {result.error.splitlines()[0]}")
            owner.plans[job.shard] = replace(plan, strategy=FALLBACK, rule="fallback", reasons=reasons)
            self._queue(owner, RetrainJob(job_id=_job_id(), shard=job.shard, upto=job.upto, mend=owner.mends))
        elif result.retryable and attempts < self.settings.policy.max_attempts:
            self._queue(owner, replace(job, job_id=_job_id()))
        elif owner is self._training:
            self._training = None
            raise ShardFailedError(f"shard {job.shard} could not be trained", got=result.error)
        else:
            self._fail_shard(owner, job.shard, result.error)

    def _fail_shard(self, owner: Round, shard: int, error: str) -> None:
        """Fail the requests that wait for one shard; the round goes on with its other shards."""
        failed = [request_id for request_id, shards in owner.places.items() if shard in shards]
        self._database.progress.mark_failed(self._token(), failed, f"shard {shard}: {error}")
        owner.places = {request_id: shards for request_id, shards in owner.places.items() if shard not in shards}
        if owner.ingest_id is not None:
            self._growth.postpone(self._token(), owner.ingest_id, f"shard {shard}: {error}")
        del owner.plans[shard]
        self._failures[shard] = self.settings.policy.max_attempts  # it had them, or no other would help
        self._put_off([shard])
        self._finish_if_done(owner)

    def _fail_round(self, owner: Round, error: Exception) -> None:
        """End a round that can't go on, and what it was for; its shards are free for others when no job is left."""
        if owner.places:
            self._claimer.fail(self._token(), owner.places, told(error))
        if owner.ingest_id is not None:
            self._growth.postpone(self._token(), owner.ingest_id, told(error))
        if not owner.places:
            self._put_off(owner.plans)
        self._dispatcher.withdraw(owner.jobs)
        self._rounds.pop(owner.round_id, None)

    def _finish_if_done(self, owner: Round) -> None:
        if not owner.plans:
            del self._rounds[owner.round_id]
        elif len(owner.outcomes) == len(owner.plans):
            self._finish(owner)

    def _finish(self, done: Round) -> None:
        if done is self._training:
            self._finish_training(done)
        else:
            pairs = [(done.plans[shard], done.outcomes[shard]) for shard in sorted(done.plans)]
            if not done.mends or self._differs(pairs):
                version = self.registry.publish(self._token(), done.round_id, list(done.places), pairs)
                fields = {"version": version, "requests": list(done.places), "shards": sorted(done.plans)}
                _log.info("version %d is published", version, extra=fields)
                self._journal.settle()
            self._healer.changed(self._token(), list(done.plans), mended=done.mends)
            self._purger.wake()
            self._calibrator.wake()
            del self._rounds[done.round_id]
            for shard in done.plans:
                self._failures.pop(shard, None)
            self._growth.settle(self._token())
        self._evict()

    def _evict(self) -> None:
        with self._errands.apart("eviction"):
            self._keeper.evict_surplus(self._busy())

    def _claim(self, paused: bool) -> bool:
        """Start what waits and is due.

        Returns:
            Whether any request waits.
        """
        flying = {request_id for r in self._rounds.values() for request_id in r.places}
        waiting = self._claimer.waiting(flying)
        if not paused:
            for started, shards in self._claimer.claim(self._token(), waiting, self._busy(), self.executor.pools()):
                reach("round.launch")
                self._launch(started, shards)
        return bool(waiting or flying)

    def _repair(self, idle: bool) -> None:
        """Retrain exactly what updates changed: when nothing waits, or when a deadline or the budget asks for it."""
        self._spare = math.inf
        busy = self._busy() | {shard for shard, until in self._not_before.items() if time.monotonic() < until}
        owing = {shard: deadline for shard, deadline in self.registry.debts().items() if shard not in busy}
        if not owing:
            return
        failed: list[Exception] = []
        with apart("planning repairs", failed.append):
            self._repair_by(self._planner.plan(owing, FALLBACK, self.executor.pools(), None), owing, idle)
        if failed:  # one of them can't be planned: which one shows alone
            for alone in [{shard: deadline} for shard, deadline in owing.items() if shard not in self._busy()]:
                with apart("a repair", partial(self._put_off, alone)):
                    self._repair_by(self._planner.plan(alone, FALLBACK, self.executor.pools(), None), alone, idle)

    def _repair_by(self, plan: Plan, owing: Mapping[int, float | None], idle: bool) -> None:
        now, policy, version = time.time(), self.settings.policy, self.registry.version()
        spent = {sub.shard: sub.error_spent for sub in version.shards}
        for shard_plan in plan.shards:
            shard, deadline = shard_plan.shard, owing[shard_plan.shard]
            # The last of them ends after the makespan, so none may start later than that.
            debt = Debt(shard, spent[shard], None if deadline is None else deadline - now, plan.makespan_seconds)
            if debt.slack is not None:
                self._spare = min(self._spare, debt.slack - policy.deadline_margin * debt.estimated_seconds)
            reason = repair_due(debt, policy.repair, idle, policy.quality_budget, policy.deadline_margin)
            if reason is None:
                continue
            reasons = ("an approximate removal owes an exact one", reason)
            repaired = {shard: replace(shard_plan, rule="repair", reasons=reasons)}
            reach("repair.launch")
            self._launch(Round(new_id("repair"), {}, repaired), version.shards)

    def _grow(self) -> bool:
        """Bring in rows that were ingested.

        Returns:
            Whether requests wait for that.
        """
        grown = self._growth.step(self._token(), self.executor.pools(), self._flying(), self._renew)
        if grown.plans:
            started = Round(new_id("ingest"), {}, grown.plans, grown.ingest_id)
            self._launch(started, self.registry.version().shards)
        return grown.requests_wait

    def _heal(self, idle: bool) -> None:
        """Retrain shards whose weights storage lost; the same rows give the same bits."""
        waiting = {shard for shard, until in self._not_before.items() if time.monotonic() < until}
        free = idle and not self._rounds and not self._dispatcher.busy
        due: set[int] = set()
        if self._errands.due("healing"):
            with self._errands.apart("healing"):
                due = self._healer.due(self._busy() | waiting, free)
        for shard in sorted(due):
            with apart("healing", partial(self._put_off, [shard])):
                plan = self._training_plan(shard)
                plan = replace(plan, rule="heal", reasons=("storage lost or changed its weights",))
                reach("heal.launch")
                started = Round(new_id("heal"), {}, {shard: plan}, mends=True)
                self._launch(started, self.registry.version().shards)

    def _put_off(self, shards: Iterable[int], _: Exception | None = None) -> None:
        """Let a while pass before what no request asks for is tried again on some shards; first a short one."""
        for shard in shards:
            self._failures[shard] += 1
            soon = self._failures[shard] < self.settings.policy.max_attempts
            self._not_before[shard] = time.monotonic() + (_SOON_SECONDS if soon else _REPAIR_RETRY_SECONDS)

    def _purge(self) -> None:
        """Purge what is due."""
        if self._errands.due("purging"):
            with self._errands.apart("purging"):
                self._purger.begin(self._token(), self._at_work())

    def _calibrate(self, idle: bool) -> None:
        """Delete canaries again where they were revoked, when nothing at all is more urgent."""
        at_work = self._rounds or self._dispatcher.busy or self._purger.busy
        if idle and not at_work:
            with self._errands.apart("calibration"):
                self._calibrator.again(self._token(), self._busy(), self._spare)

    def _differs(self, pairs: Sequence[tuple[ShardPlan, ShardOutcome]]) -> bool:
        """Return whether outcomes are anything but what is served already."""
        served = {sub.shard: (sub.blob, sub.exact, sub.removed_upto) for sub in self.registry.version().shards}
        return any(served[made.shard] != (made.blob, made.exact, made.upto) for _, made in pairs)

    def _launch(self, started: Round, shards: Sequence[SubModelRecord]) -> None:
        """Queue the jobs of a round; one whose jobs can't be made ends at once."""
        self._rounds[started.round_id] = started
        with apart("the start of a round", lambda error: self._fail_round(started, error)):
            self._make_jobs(started, shards)

    def _make_jobs(self, started: Round, shards: Sequence[SubModelRecord]) -> None:
        current = {sub.shard: sub for sub in shards}
        gone = self._dispatcher.take(self._token(), list(started.plans))
        for shard, plan in started.plans.items():
            sub, stones = current[shard], gone.get(shard, [])
            upto = max([sub.removed_upto, *(stone.seq for stone in stones)])
            if plan.strategy == FALLBACK:
                self._queue(started, RetrainJob(job_id=_job_id(), shard=shard, upto=upto, mend=started.mends))
                continue
            # An update changes the current weights, or starts from a checkpoint of the last exact run.
            out = sub.exact_upto if get(plan.strategy).clean else sub.removed_upto
            job = UpdateJob(
                job_id=_job_id(),
                shard=shard,
                strategy=plan.strategy,
                upto=upto,
                trajectory=sub.trajectory(len(self.site.recipe_for(shard).epochs)),
                current_blob=sub.blob,
                alpha=plan.alpha,
                revoked=KeySet.of(stone for stone in stones if stone.seq > out),
                removed=KeySet.of(stone for stone in stones if stone.seq <= out),
            )
            self._queue(started, job)

    def _tidy(self) -> None:
        """Remove, once, what crashed processes left half-made; we are the only one who writes now."""
        if not self._tidied:
            self.site.storage.drop_stale_staging()
            self.site.storage.drop_unfinished()
            self._keyring.drop_unfinished()
            self._journal.renew()
            self._journal.keep([r.request_id for r in self.ledger.requests(_BEGUN)])
            self._tidied = True

    def _at_work(self) -> set[int]:
        """Return the shards that a round, a calibration, or a job that lost its round is at work on."""
        planned = {shard for r in self._rounds.values() for shard in r.plans}
        return planned | self._calibrator.shards | self._dispatcher.shards

    def _flying(self) -> bool:
        """Return whether any round, training, calibration or purge is at work."""
        return bool(self._at_work() or self._purger.shards or self._training)

    def _busy(self) -> set[int]:
        """Return the shards on which nothing else may start."""
        return self._at_work() | self._purger.shards

    def _queue(self, owner: Round, job: ModelJob) -> None:
        owner.jobs[job.job_id] = job
        owner.attempts[job.shard] = owner.attempts.get(job.shard, 0) + 1
        self._dispatcher.queue(job)

    def _give(self) -> None:
        for failed in self._dispatcher.give(self._token()):
            self._receive(failed)

    # ------------------------------------------------------------------ helpers

    def _bind(self, *, create: bool, replace: bool = False) -> None:
        bind(self.site.storage, self._database.identity, self.settings, create=create, replace=replace)

    def _token(self) -> int:
        if self.token is None:
            raise LeaseLostError("this coordinator holds no lease", remedy="call acquire() first")
        return self.token

    def _renew(self) -> None:
        if time.monotonic() - self._renewed > LEASE_SECONDS / 5:
            self.lease.heartbeat(self._token(), LEASE_SECONDS)
            self._renewed = time.monotonic()


def _job_id() -> str:
    return uuid.uuid4().hex
