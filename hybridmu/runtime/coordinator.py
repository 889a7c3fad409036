"""The coordinator: step() = claim → plan → dispatch → poll → publish → confirm served.

Sole writer of plans, outcomes and the serving pointer, fenced by a lease. Requests that share shards are fulfilled
together in one *round*; rounds on different shards run side by side. Everything in memory can be lost: a restart
claims open requests again, and finished slices are found by their lineage.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from hybridmu.config import Settings
from hybridmu.core.calibration import fit
from hybridmu.errors import HybridMUError, LeaseLostError, ShardFailedError, StateError
from hybridmu.planning.workload import count
from hybridmu.runtime.executor import Executor
from hybridmu.runtime.removal import RemovalPlanner
from hybridmu.runtime.site import Site
from hybridmu.store.ingest import ingest
from hybridmu.store.ledger import Ledger
from hybridmu.store.registry import Registry
from hybridmu.store.tables import connect
from hybridmu.types import (
    CalibrationOutcome,
    ForgetRequest,
    JobResult,
    KeyKind,
    RequestState,
    ShardFailure,
    ShardJob,
    ShardOutcome,
    ShardPlan,
    ShardStats,
    StrategyChoice,
    SubModel,
    Tombstone,
)

LEASE_SECONDS = 15.0
_CENTRAL = {"dpus", "dpus-optimised"}
_STRICTEST: tuple[StrategyChoice, ...] = ("retrain", "auto", "dpus-optimised", "dpus")


@dataclass(frozen=True)
class Snapshot:
    """Where the coordinator stands after a step."""

    version: int | None
    jobs_total: int
    jobs_done: int
    open_requests: int
    calibrating: bool = False


@dataclass
class _Round:
    """Requests that are fulfilled together."""

    round_id: str
    places: dict[str, set[int]]  # request → the shards it waits for
    plans: dict[int, ShardPlan]
    jobs: dict[str, ShardJob] = field(default_factory=dict)
    attempts: dict[int, int] = field(default_factory=dict)
    outcomes: dict[int, ShardOutcome] = field(default_factory=dict)


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
        engine = connect(settings.database)
        self.ledger, self.registry = Ledger(engine), Registry(engine)
        self.executor, self.holder = executor, holder
        self._planner = RemovalPlanner(self.site, self.ledger, self.registry)
        self.token: int | None = None
        self._rounds: dict[str, _Round] = {}
        self._training: _Round | None = None
        self._calibrating: set[str] = set()
        self._curves: list[CalibrationOutcome] = []
        self._waiting: list[ShardJob] = []
        self._handed: dict[str, str] = {}  # job → strategy, of what the executor has
        self._renewed = 0.0

    # ------------------------------------------------------------------ lease

    def acquire(self) -> bool:
        """Return whether the lease was taken; false when another coordinator holds it."""
        if self.site.lake.exists:
            self.ledger.bind(self.settings.identity(), create=False)
        self.token = self.ledger.acquire(self.holder, LEASE_SECONDS)
        self._renewed = time.monotonic()
        return self.token is not None

    def close(self) -> None:
        """Release the lease and the executor."""
        if self.token is not None:
            self.ledger.release(self.token)
            self.token = None
        self.executor.close()

    # ------------------------------------------------------------------ training

    def begin_training(self) -> Snapshot:
        """Return the state after reading the source and queueing every shard; nothing that is there is redone."""
        self.ledger.bind(self.settings.identity(), create=True, replace=not self.site.lake.exists)
        ingest(self.site.lake)
        if self.registry.served() is None and self._training is None:
            work = {shard: self._training_plan(shard) for shard in range(self.settings.sisa.shards)}
            self._training = _Round(f"train-{uuid.uuid4().hex[:8]}", {}, work)
            for plan in sorted(work.values(), key=lambda p: (-p.sample_visits, p.shard)):
                self._queue(self._training, ShardJob(_job_id(), plan.shard, "retrain"))
        elif self.registry.served() is not None and not self._calibrating:
            self._calibrate()  # what a crash after the first version may have left undone
        return self.snapshot()

    def _training_plan(self, shard: int) -> ShardPlan:
        rows, _ = self.site.lake.counts("train", shard, set())
        slices = len(rows)
        work = count(ShardStats(shard, self.site.recipe.epochs, rows, (0,) * slices, (0,) * slices, (False,) * slices))
        return ShardPlan(
            shard, "retrain", 1, 0, work.full_visits, 1.0, 0.0, (0.0, 0.0), (), "training", ("first training",)
        )

    def _finish_training(self, done: _Round) -> None:
        outcomes = [done.outcomes[shard] for shard in sorted(done.outcomes)]
        if not any(outcome.blob for outcome in outcomes):
            raise StateError("no shard has a row to train on", remedy="check the training table")
        self.registry.publish_training(outcomes)
        self._training = None
        self._calibrate()

    def _calibrate(self) -> None:
        """Queue canary deletions on the largest shards, if the policy may use an update at all."""
        policy, optimizer = self.settings.policy, self.settings.optimizer.name
        if (
            not policy.calibrate
            or policy.strategy == "retrain"
            or optimizer != "sgd"
            or self.ledger.calibration().buckets
        ):
            return
        slices = len(self.site.recipe.epochs)
        voters = [sub for sub in self.registry.version().shards if sub.blob and sub.exact and sub.trajectory(slices)]
        voters.sort(key=lambda sub: (-sum(self.site.lake.counts("train", sub.shard, set())[0]), sub.shard))
        for sub in voters[: policy.calibration_shards]:
            job = ShardJob(_job_id(), sub.shard, "calibrate", trajectory=sub.trajectory(slices))
            self._calibrating.add(job.job_id)
            self._queue(None, job)

    # ------------------------------------------------------------------ the loop

    def step(self, wait_seconds: float = 0.0) -> Snapshot:
        """Return the state after one transition of everything that can move.

        Args:
            wait_seconds: How long it may block.

        Raises:
            LeaseLostError: Another coordinator took over.
            ShardFailedError: A shard could not be trained in the first training.
        """
        self._renew()
        self._claim()
        self._hand_over()
        for result in self.executor.poll(wait_seconds):
            self._receive(result)
        self.ledger.mark_served(self._token(), self.registry.confirmed())
        return self.snapshot()

    def snapshot(self) -> Snapshot:
        """Return where things stand."""
        rounds = [*self._rounds.values(), *([self._training] if self._training else [])]
        waiting = self.ledger.requests((RequestState.RECEIVED, RequestState.PLANNED, RequestState.APPLIED))
        return Snapshot(
            version=self.registry.served(),
            jobs_total=sum(len(r.plans) for r in rounds),
            jobs_done=sum(len(r.outcomes) for r in rounds),
            open_requests=len(waiting),
            calibrating=bool(self._calibrating),
        )

    def _receive(self, result: JobResult) -> None:
        self._handed.pop(result.job_id, None)
        if result.job_id in self._calibrating:
            self._calibrating.discard(result.job_id)
            if isinstance(result, CalibrationOutcome):
                self._curves.append(result)
            if not self._calibrating:  # without any curve `auto` retrains, and says why
                curves = [curve for outcome in self._curves for curve in outcome.curves]
                canaries = [key for outcome in self._curves for key in outcome.canaries]
                self.ledger.set_calibration(fit(curves, canaries))
            return
        rounds = [*self._rounds.values(), *([self._training] if self._training else [])]
        owner = next((r for r in rounds if result.job_id in r.jobs), None)
        if owner is None:
            return  # an attempt that was given up
        job = owner.jobs.pop(result.job_id)
        if not isinstance(result, ShardFailure):
            if isinstance(result, CalibrationOutcome):
                return
            owner.outcomes[job.shard] = result
            self._finish_if_done(owner)
            return
        attempts = owner.attempts[job.shard]
        if result.strategy_unavailable:
            plan = owner.plans[job.shard]
            reasons = (*plan.reasons, f"fell back to retrain: {result.error.splitlines()[0]}")
            owner.plans[job.shard] = replace(plan, strategy="retrain", rule="fallback", reasons=reasons)
            self._queue(owner, replace(job, job_id=_job_id(), strategy="retrain"))
        elif result.retryable and attempts < self.settings.policy.max_attempts:
            self._queue(owner, replace(job, job_id=_job_id()))
        elif owner is self._training:
            self._training = None
            raise ShardFailedError(f"shard {job.shard} could not be trained", got=result.error)
        else:
            self._fail_shard(owner, job.shard, result.error)

    def _fail_shard(self, owner: _Round, shard: int, error: str) -> None:
        """Fail the requests that wait for one shard; the round goes on with its other shards."""
        failed = [request_id for request_id, shards in owner.places.items() if shard in shards]
        self.ledger.mark_failed(self._token(), failed, f"shard {shard}: {error}")
        owner.places = {request_id: shards for request_id, shards in owner.places.items() if shard not in shards}
        del owner.plans[shard]
        self._finish_if_done(owner)

    def _finish_if_done(self, owner: _Round) -> None:
        if not owner.plans:
            del self._rounds[owner.round_id]
        elif len(owner.outcomes) == len(owner.plans):
            self._finish(owner)

    def _finish(self, done: _Round) -> None:
        if done is self._training:
            self._finish_training(done)
            return
        pairs = [(done.plans[shard], done.outcomes[shard]) for shard in sorted(done.plans)]
        self.registry.publish(self._token(), done.round_id, list(done.places), pairs)
        del self._rounds[done.round_id]

    def _claim(self) -> None:
        if self._training or self._calibrating or self.registry.served() is None:
            return
        flying = {request_id for r in self._rounds.values() for request_id in r.places}
        busy = {shard for r in self._rounds.values() for shard in r.plans}
        waiting = [
            request
            for request in self.ledger.requests((RequestState.RECEIVED, RequestState.PLANNED))
            if request.request_id not in flying
        ]
        places = self.ledger.shards_of([request.request_id for request in waiting])
        free = []
        for request in waiting:
            if places[request.request_id] & busy:
                busy |= places[request.request_id]  # later requests must not starve it by taking its free shards
            else:
                free.append(request)
        for group in _connected(free, places):
            self._start(group, {request.request_id: places[request.request_id] for request in group})

    def _start(self, group: Sequence[ForgetRequest], places: dict[str, set[int]]) -> None:
        ids = list(places)
        strategy = next(choice for choice in _STRICTEST if any(r.strategy == choice for r in group))
        exactly = strategy == "retrain"  # asked for by name, it also repairs what an update did before
        version = self.registry.version()
        current = {sub.shard: sub for sub in version.shards}
        gone = {
            shard: stones
            for shard, stones in self.ledger.tombstones(set().union(*places.values())).items()
            if any(stone.seq > _done_upto(current[shard], exactly) for stone in stones)
        }
        if not gone:
            self.registry.satisfy(self._token(), ids)
            return
        deadlines = [request.deadline_at for request in group if request.deadline_at is not None]
        slack = min(deadlines) - time.time() if deadlines else None
        try:
            plan = self._planner.plan(gone, strategy, self.executor.pools(), slack)
        except HybridMUError as error:
            self.ledger.mark_failed(self._token(), ids, str(error))
            return
        started = _Round(f"round-{uuid.uuid4().hex[:12]}", places, {p.shard: p for p in plan.shards})
        self.ledger.mark_planned(self._token(), ids, started.round_id, version.version)
        self._rounds[started.round_id] = started
        for shard_plan in plan.shards:
            sub, stones = current[shard_plan.shard], gone[shard_plan.shard]
            job = ShardJob(
                job_id=_job_id(),
                shard=sub.shard,
                strategy=shard_plan.strategy,
                upto=max(stone.seq for stone in stones),
                trajectory=sub.trajectory(len(self.site.recipe.epochs)),
                current_blob=sub.blob,
                alpha=shard_plan.alpha,
                fresh=_pairs([stone for stone in stones if stone.seq > sub.removed_upto]),
                removed=_pairs([stone for stone in stones if stone.seq <= sub.removed_upto]),
            )
            self._queue(started, job)

    def _queue(self, owner: _Round | None, job: ShardJob) -> None:
        if owner is not None:
            owner.jobs[job.job_id] = job
            owner.attempts[job.shard] = owner.attempts.get(job.shard, 0) + 1
        self._waiting.append(job)

    def _hand_over(self) -> None:
        """Give the executor what its pools have room for, in order.

        A job learns the tombstones only now: rows that were revoked while it waited must not be read any more. A
        retrain removes them as well; an update leaves them to the request that named them.
        """
        pools = self.executor.pools()
        room = {False: pools.workers, True: pools.updaters}
        for strategy in self._handed.values():
            room[strategy in _CENTRAL] -= 1
        later = []
        for job in self._waiting:
            central = job.strategy in _CENTRAL
            if room[central] <= 0:
                later.append(job)
                continue
            room[central] -= 1
            gone = self.ledger.tombstones(None if job.strategy == "calibrate" else [job.shard])
            stones = [stone for found in gone.values() for stone in found]
            upto = max([job.upto, *(stone.seq for stone in stones)]) if job.strategy == "retrain" else job.upto
            self._handed[job.job_id] = job.strategy
            self.executor.submit(replace(job, tombstones=_pairs(stones), upto=upto))
        self._waiting = later

    # ------------------------------------------------------------------ helpers

    def _token(self) -> int:
        if self.token is None:
            raise LeaseLostError("this coordinator holds no lease", remedy="call acquire() first")
        return self.token

    def _renew(self) -> None:
        if time.monotonic() - self._renewed > LEASE_SECONDS / 5:
            self.ledger.heartbeat(self._token(), LEASE_SECONDS)
            self._renewed = time.monotonic()


def _done_upto(sub: SubModel, exactly: bool) -> int:
    return sub.exact_upto if exactly else sub.removed_upto


def _connected(requests: Sequence[ForgetRequest], places: dict[str, set[int]]) -> list[list[ForgetRequest]]:
    """Return requests in groups that share shards, directly or through others."""
    groups: list[tuple[set[int], list[ForgetRequest]]] = []
    for request in requests:
        shards, members = set(places[request.request_id]), [request]
        apart = []
        for group in groups:
            if group[0] & shards:
                shards |= group[0]
                members = group[1] + members
            else:
                apart.append(group)
        groups = [*apart, (shards, members)]
    return [members for _, members in groups]


def _pairs(tombstones: Sequence[Tombstone]) -> tuple[tuple[KeyKind, bytes], ...]:
    return tuple((tombstone.kind, tombstone.key) for tombstone in tombstones)


def _job_id() -> str:
    return uuid.uuid4().hex
