"""RayExecutor: shard jobs on actors, bounded in flight, CPUs reserved while they train.

A shard actor owns one shard's rows and holds no CPU while idle, so there may be more shards than cores. Around every
job the executor reserves the job's CPUs on the actor's node with a placement group, which other work on the cluster
respects. With GPUs the actor holds its devices for life, and idle actors make room for others.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayError, RayTaskError
from ray.util.placement_group import PlacementGroup

from hybridmu.cluster.fleet import Fleet, Member
from hybridmu.cluster.lost_workers import lost
from hybridmu.cluster.reservations import Reservations
from hybridmu.cluster.resources import nodes, pools, refuse_ledger_in_a_file, slots
from hybridmu.config import Settings
from hybridmu.core.strategies import asks_exact
from hybridmu.errors import HybridMUError
from hybridmu.planning.planner import Pools
from hybridmu.runtime.workers.executor import failure
from hybridmu.types import Job, JobResult, RetrainJob, ShardFailure, ShardOutcome, UpdateJob, UpdaterJob

_ADOPT_SECONDS = 120.0
_NODES_SECONDS = 1.0
_CALLED_SECONDS = 0.05


@dataclass(eq=False)
class _Flight:
    """A job on its way: waiting for its actor and its reservation, then running."""

    job: Job
    member: Member
    since: float
    group: PlacementGroup | None = None
    grant: Any = None  # pending answer that the CPUs are held; None once it came
    result: Any = None
    deadline: float = field(default=float("inf"))

    @property
    def awaits(self) -> Any:
        """Return what it waits for: its result, before that its reservation, before that its actor."""
        return next((one for one in (self.result, self.member.ready, self.grant) if one is not None), None)


class RayExecutor:
    """Executor of jobs on Ray.

    Args:
        settings: The configuration; Ray must be initialised in this process.
        purpose: Keeps its reservations apart from those of the ledger's coordinator.

    Raises:
        ResourceError: The cluster can't hold even one shard, or has several nodes and the ledger is a file.
    """

    def __init__(self, settings: Settings, purpose: str = "") -> None:
        self._settings = settings
        self._gpu = bool(settings.cluster.gpus_per_shard)
        self._fleet = Fleet(settings)
        self._reservations = Reservations(settings, purpose)
        self._queue: list[Job] = []
        self._flights: list[_Flight] = []
        self._failed: list[ShardFailure] = []
        self._looked_at = time.monotonic()
        refuse_ledger_in_a_file(settings, nodes())
        found = nodes(settings.cluster.labels)
        self._pools, self._slots = pools(settings, found), slots(settings, found)
        if not self._gpu and not asks_exact(settings.policy.strategy):
            self._fleet.for_update(self._pools.updaters)  # up before the first update needs it

    def pools(self) -> Pools:
        """Return how many retrains and updates run at once."""
        return self._pools

    def reclaim(self) -> None:
        """Free CPUs that a dead coordinator of the same ledger left reserved; call only while holding the lease."""
        self._reservations.reclaim()

    def has_core(self, job: Job) -> bool:
        """Return whether the node that the shard's actor lives on has a free core; without an actor, true."""
        member = None if isinstance(job, UpdaterJob) else self._fleet.find(job.shard)
        if member is None or self._gpu:  # with GPUs, an actor that lives has what it needs
            return True
        queued = [self._fleet.find(other.shard) for other in self._queue if not isinstance(other, UpdaterJob)]
        return self._is_free(member.node, [other.node for other in queued if other is not None])

    def submit(self, job: Job) -> None:
        """Start a job at once, or queue it until its pool has room."""
        self._queue.append(job)
        self._start()

    def poll(self, wait_seconds: float, called: Callable[[], bool] = lambda: False) -> list[JobResult]:
        """Return all results that are there, after starting what can be started and waiting for the first.

        Args:
            wait_seconds: The longest wait.
            called: Asked every 50 ms while it waits: whether the caller has something else to do.
        """
        until = time.monotonic() + wait_seconds
        self._watch_nodes()
        self._start()
        results: list[JobResult] = [*self._expired()]
        while not results:
            left = until - time.monotonic()
            results = self._wait(max(0.0, min(left, _CALLED_SECONDS)))
            self._start()  # what waits for its CPUs, its actor or its reservation, before anybody looks at results
            results += self._expired()
            if results or left <= 0 or called():
                break
        self._reservations.free_unused()
        return results

    def close(self) -> None:
        """Stop the actors of this executor and free its reservations."""
        for flight in self._flights:
            self._release(flight)
        self._reservations.free_unused(linger_seconds=0)
        self._fleet.close()

    # ------------------------------------------------------------------ starting

    def _start(self) -> None:
        self._start_queued()
        self._start_reserved()

    def _watch_nodes(self) -> None:
        """Follow nodes that came or went; a job that still waits on a lost one fails at once, to be tried elsewhere."""
        now = time.monotonic()
        if now - self._looked_at < _NODES_SECONDS:
            return
        self._looked_at = now
        refuse_ledger_in_a_file(self._settings, nodes())
        found = nodes(self._settings.cluster.labels)
        self._slots = slots(self._settings, found)
        if self._slots:  # a cluster that is empty for a moment keeps its plan
            self._pools = pools(self._settings, found)
        for flight in list(self._flights):
            if flight.result is None and flight.member.node not in self._slots:
                error = RuntimeError("the node of the shard's actor was lost")
                self._give_up(flight, failure(flight.job, error, retryable=True))
        self._fleet.drop_lost(self._slots)

    def _start_queued(self) -> None:
        """Give queued jobs their actors, oldest first, as far as pools and nodes have room."""
        waiting = []
        for job in self._queue:
            central = isinstance(job, UpdaterJob)
            flying = sum(isinstance(flight.job, UpdaterJob) == central for flight in self._flights)
            room = flying < (self._pools.updaters if central else self._pools.workers)
            if room and not self._gpu:
                # Both pools share the CPUs; a job beyond them would wait for our own jobs until it times out.
                room = len(self._flights) < sum(self._slots.values())
            member = self._member(job) if room else None
            if member is None or member.busy or not (self._gpu or self._is_free(member.node)):
                waiting.append(job)
                continue
            member.busy = True
            self._flights.append(_Flight(job, member, time.monotonic()))
        self._queue = waiting
        if waiting and not self._gpu:
            self._prestart(waiting)

    def _member(self, job: Job) -> Member | None:
        if isinstance(job, UpdaterJob):
            return self._fleet.for_update(self._pools.updaters)
        return self._fleet.for_shard(job.shard)

    def _is_free(self, node: str, queued: Sequence[str] = ()) -> bool:
        """Return whether a node has a core beside what flies there and what is queued for it."""
        taken = Counter([*(flight.member.node for flight in self._flights), *queued])
        return taken[node] < self._slots.get(node, 0)

    def _prestart(self, waiting: list[Job]) -> None:
        """Bring up the actors of jobs that wait for a core, so that they load their rows meanwhile."""
        for job in waiting:
            if not isinstance(job, UpdaterJob) and self._fleet.has_room():
                self._fleet.for_shard(job.shard)

    def _start_reserved(self) -> None:
        """Call the actors that are up and whose reservation is there."""
        for flight in list(self._flights):
            if flight.result is not None or not self._is_up(flight) or not self._reserved(flight):
                continue
            flight.result = flight.member.actor.run.remote(flight.job)
            flight.deadline = time.monotonic() + self._settings.cluster.job_timeout_seconds

    def _is_up(self, flight: _Flight) -> bool:
        """Return whether the actor's constructor is done; an actor that died in it fails its job."""
        member = flight.member
        if member.ready is None:
            return True
        if not self._came(flight, member.ready):
            return False
        member.ready = None
        return True

    def _reserved(self, flight: _Flight) -> bool:
        """Return whether the job's CPUs are held on the actor's node; asks for them when they are not yet."""
        wide = self._settings.compute.parts > 1 and isinstance(flight.job, RetrainJob)
        if self._gpu or wide:  # its processes ask for their own
            return True
        if flight.group is None:
            flight.group, flight.grant = self._reservations.take(flight.member.node)
        if flight.grant is None:
            return True
        if not self._came(flight, flight.grant):
            return False
        flight.grant = None
        return True

    def _came(self, flight: _Flight, answer: Any) -> bool:
        """Return whether an answer that a flight waits for is there; one that tells of a failure ends the flight."""
        there, _ = ray.wait([answer], timeout=0)
        try:
            ray.get(there, timeout=1)
        except RayError as error:
            self._give_up(flight, failure(flight.job, lost(error, flight.job), retryable=True))
            return False
        return bool(there)

    # ------------------------------------------------------------------ ending

    def _wait(self, seconds: float) -> list[JobResult]:
        """Return results, after waiting for the first thing that any flight waits for."""
        awaited = {flight.awaits: flight for flight in self._flights}
        if not awaited:
            time.sleep(seconds)
            return []
        ready, _ = ray.wait(list(awaited), num_returns=1, timeout=seconds)
        if ready:
            ready, _ = ray.wait(list(awaited), num_returns=len(awaited), timeout=0)
        return [self._collect(awaited[one]) for one in ready if awaited[one].result is not None]

    def _collect(self, flight: _Flight) -> JobResult:
        self._release(flight)
        try:
            result: JobResult = ray.get(flight.result, timeout=30)
        except RayTaskError as error:
            cause = error.cause if isinstance(error.cause, Exception) else error
            return failure(flight.job, cause, retryable=not isinstance(cause, HybridMUError))
        except (RayActorError, GetTimeoutError) as error:
            self._fleet.drop(flight.member)
            return failure(flight.job, lost(error, flight.job), retryable=True)
        if isinstance(result, ShardOutcome) and isinstance(flight.job, UpdateJob) and result.blob:
            self._adopt(result.shard, result.blob)
        return result

    def _adopt(self, shard: int, blob: str) -> None:
        """Hand the updater's sub-model to its shard actor; one that is not alive finds it in storage later."""
        member = self._fleet.find(shard)
        if member is None:
            return
        try:
            ray.get(member.actor.adopt.remote(blob), timeout=_ADOPT_SECONDS)
        except RayError:
            self._fleet.drop(member)

    def _expired(self) -> list[ShardFailure]:
        """Return what waits too long for resources or runs too long, and give it up."""
        now = time.monotonic()
        cluster = self._settings.cluster
        for flight in list(self._flights):
            waited = now - flight.since
            if flight.result is None and waited > cluster.resource_timeout_seconds:
                what = f"waited {waited:.0f} s for {cluster.cpus_per_shard:g} free CPU"
                what += f" and {cluster.gpus_per_shard:g} free GPU" if self._gpu else ""
                self._give_up(flight, ShardFailure(flight.job.job_id, flight.job.shard, what, retryable=True))
            elif now > flight.deadline:
                what = "ran past job_timeout_seconds"
                self._give_up(flight, ShardFailure(flight.job.job_id, flight.job.shard, what, retryable=True))
        found, self._failed = self._failed, []
        return found

    def _give_up(self, flight: _Flight, reason: ShardFailure) -> None:
        """End a flight whose actor can't be used any more."""
        self._release(flight)
        self._fleet.drop(flight.member)
        self._failed.append(reason)

    def _release(self, flight: _Flight) -> None:
        if flight.group is not None:
            self._reservations.give(flight.member.node, flight.group, granted=flight.grant is None)
            flight.group = None
        flight.member.busy = False
        flight.member.used_at = time.monotonic()
        self._flights = [other for other in self._flights if other is not flight]
