"""RayExecutor: shard jobs on actors, bounded in flight, CPUs reserved while they train.

A shard actor owns one shard's rows and holds no CPU while idle, so there may be more shards than cores. Around every
job the executor reserves the job's CPUs on the actor's node with a placement group, which other work on the cluster
respects. With GPUs the actor holds its devices for life, and idle actors make room for others.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayError, RayTaskError
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group

from hybridmu.cluster.actors import start_shard, start_updater
from hybridmu.cluster.resources import pools
from hybridmu.config import Settings
from hybridmu.errors import HybridMUError
from hybridmu.planning.planner import Pools
from hybridmu.runtime.executor import failure
from hybridmu.types import JobResult, ShardFailure, ShardJob, ShardOutcome

_ACTOR_START_SECONDS = 120.0
# Reservations outlive a job by this much: Ray takes a second to grant one right after another was given back.
_LINGER_SECONDS = 2.0


@dataclass
class _Member:
    """A live actor."""

    actor: Any
    node: Any  # ObjectRef of the node id until it is known, then the id
    busy: bool = False
    used_at: float = 0.0


@dataclass
class _Flight:
    """A job on its way: waiting for its reservation, then running."""

    job: ShardJob
    member: _Member
    since: float
    group: PlacementGroup | None = None
    result: Any = None
    deadline: float = field(default=float("inf"))


class RayExecutor:
    """Runs jobs on Ray.

    Args:
        settings: The configuration; Ray must be initialised in this process.

    Raises:
        ResourceError: The cluster can't hold even one shard.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._pools = pools(settings, ray.cluster_resources())
        self._shards: dict[int, _Member] = {}
        self._updaters: list[_Member] = []
        self._queue: list[ShardJob] = []
        self._flights: list[_Flight] = []
        self._failed: list[ShardFailure] = []
        self._idle: dict[str, list[tuple[PlacementGroup, float]]] = {}

    def pools(self) -> Pools:
        """Return how many retrains and updates run at once."""
        return self._pools

    def submit(self, job: ShardJob) -> None:
        """Queue a job; it starts at the next poll, in order, when its pool has room."""
        self._queue.append(job)

    def poll(self, wait_seconds: float) -> list[JobResult]:
        """Return all results that are there, after starting what fits and waiting for the first."""
        self._start_queued()
        self._start_reserved()
        running = {flight.result: flight for flight in self._flights if flight.result is not None}
        results: list[JobResult] = [*self._failed]
        self._failed = []
        if running:
            wait = 0.0 if results else min(wait_seconds, 0.05 if len(running) < len(self._flights) else wait_seconds)
            ready, _ = ray.wait(list(running), num_returns=1, timeout=wait)
            if ready:
                ready, _ = ray.wait(list(running), num_returns=len(running), timeout=0)
            results += [self._collect(running[reference]) for reference in ready]
        elif not results:
            time.sleep(min(wait_seconds, 0.02 if self._flights else wait_seconds))
        results += self._expired()
        self._give_back(time.monotonic() - _LINGER_SECONDS)
        return results

    def close(self) -> None:
        """Stop the actors of this executor and free its reservations."""
        for flight in self._flights:
            self._release(flight)
        self._give_back(time.monotonic())
        for member in [*self._shards.values(), *self._updaters]:
            ray.kill(member.actor)
        self._shards.clear()
        self._updaters.clear()

    # ------------------------------------------------------------------ starting

    def _start_queued(self) -> None:
        """Give queued jobs their actors, oldest first, as far as each pool has room."""
        waiting = []
        for job in self._queue:
            central = job.strategy in {"dpus", "dpus-optimised"}
            flying = sum((f.job.strategy in {"dpus", "dpus-optimised"}) == central for f in self._flights)
            room = flying < (self._pools.updaters if central else self._pools.workers)
            member = (self._free_updater() if central else self._shard(job.shard)) if room else None
            if member is None or member.busy:
                waiting.append(job)
                continue
            member.busy = True
            self._flights.append(_Flight(job, member, time.monotonic()))
        self._queue = waiting
        if waiting and not self._settings.cluster.gpus_per_shard:
            self._prestart(waiting)

    def _prestart(self, waiting: list[ShardJob]) -> None:
        """Bring up the actors of jobs that wait for a core, so that they load their rows meanwhile."""
        for job in waiting:
            if job.strategy in {"retrain", "calibrate"} and len(self._shards) < self._settings.cluster.live_actors:
                self._shard(job.shard)

    def _start_reserved(self) -> None:
        """Call the actors whose reservation is there."""
        for flight in self._flights:
            if flight.result is not None or not self._reserved(flight):
                continue
            actor, job = flight.member.actor, flight.job
            if job.strategy == "retrain":
                flight.result = actor.retrain.remote(job)
            elif job.strategy == "calibrate":
                flight.result = actor.calibrate.remote(job)
            else:
                flight.result = actor.update.remote(job)
            flight.deadline = time.monotonic() + self._settings.cluster.job_timeout_seconds

    def _reserved(self, flight: _Flight) -> bool:
        """Return whether the job's CPUs are held on the actor's node; asks for them when they are not yet."""
        member = flight.member
        if not isinstance(member.node, str):
            ready, _ = ray.wait([member.node], timeout=0)
            if not ready:
                return False
            try:
                member.node = ray.get(member.node, timeout=1)
            except RayError as error:
                self._failed.append(failure(flight.job, error, retryable=True))
                self._forget(flight)
                return False
        if self._settings.cluster.gpus_per_shard:
            return True
        if flight.group is None:
            idle = self._idle.get(member.node)
            flight.group = idle.pop()[0] if idle else self._reserve(member.node)
        return bool(flight.group.wait(0.01))

    def _reserve(self, node: str) -> PlacementGroup:
        bundle = {"CPU": self._settings.cluster.cpus_per_shard}
        return placement_group([bundle], bundle_label_selector=[{"ray.io/node-id": node}])

    def _shard(self, shard: int) -> _Member | None:
        """Return the shard's actor, making room for a new one if it must."""
        if shard not in self._shards:
            limit = self._pools.workers if self._settings.cluster.gpus_per_shard else self._settings.cluster.live_actors
            if len(self._shards) >= max(limit, self._pools.workers):
                idle = [s for s, member in self._shards.items() if not member.busy]
                if not idle:
                    return None
                oldest = min(idle, key=lambda s: self._shards[s].used_at)
                ray.kill(self._shards.pop(oldest).actor)
            actor = start_shard(self._settings, shard)
            self._shards[shard] = _Member(actor, actor.where.remote())
        return self._shards[shard]

    def _free_updater(self) -> _Member | None:
        for member in self._updaters:
            if not member.busy:
                return member
        if len(self._updaters) >= self._pools.updaters:
            return None
        actor = start_updater(self._settings)
        self._updaters.append(_Member(actor, actor.where.remote()))
        return self._updaters[-1]

    # ------------------------------------------------------------------ ending

    def _collect(self, flight: _Flight) -> JobResult:
        self._release(flight)
        try:
            result: JobResult = ray.get(flight.result, timeout=30)
        except RayTaskError as error:
            cause = error.cause if isinstance(error.cause, Exception) else error
            return failure(flight.job, cause, retryable=not isinstance(cause, HybridMUError))
        except (RayActorError, GetTimeoutError) as error:
            self._drop(flight.member)
            return failure(flight.job, error, retryable=True)
        if isinstance(result, ShardOutcome) and not result.exact and result.blob:
            self._adopt(flight.job.shard, result.blob)
        return result

    def _adopt(self, shard: int, blob: str) -> None:
        """Hand the updater's sub-model to its shard actor; one that is not alive finds it in storage later."""
        member = self._shards.get(shard)
        if member is None:
            return
        try:
            ray.get(member.actor.adopt.remote(blob), timeout=_ACTOR_START_SECONDS)
        except RayError:
            self._drop(member)

    def _expired(self) -> list[ShardFailure]:
        """Return what waits too long for resources or runs too long, and give it up."""
        now = time.monotonic()
        found = []
        for flight in list(self._flights):
            waited = now - flight.since
            limit = self._settings.cluster.resource_timeout_seconds
            if flight.result is None and waited > limit:
                what = f"waited {waited:.0f} s for {self._settings.cluster.cpus_per_shard:g} free CPU"
                if self._settings.cluster.gpus_per_shard:
                    what += f" and {self._settings.cluster.gpus_per_shard:g} free GPU"
                found.append(ShardFailure(flight.job.job_id, flight.job.shard, what, retryable=False))
            elif now > flight.deadline:
                ray.cancel(flight.result, force=False)
                self._drop(flight.member)
                found.append(ShardFailure(flight.job.job_id, flight.job.shard, "ran past job_timeout_seconds", True))
            else:
                continue
            self._release(flight)
        return found

    def _release(self, flight: _Flight) -> None:
        if flight.group is not None and isinstance(flight.member.node, str):
            self._idle.setdefault(flight.member.node, []).append((flight.group, time.monotonic()))
            flight.group = None
        flight.member.busy = False
        flight.member.used_at = time.monotonic()
        self._flights = [other for other in self._flights if other is not flight]

    def _give_back(self, older_than: float) -> None:
        """Free the CPUs that no job used for a while."""
        for node, groups in self._idle.items():
            for group, since in groups:
                if since <= older_than:
                    remove_placement_group(group)
            self._idle[node] = [(group, since) for group, since in groups if since > older_than]

    def _forget(self, flight: _Flight) -> None:
        self._release(flight)
        self._drop(flight.member)

    def _drop(self, member: _Member) -> None:
        """Replace an actor that can't be trusted any more at its next use."""
        ray.kill(member.actor)
        self._shards = {shard: other for shard, other in self._shards.items() if other is not member}
        self._updaters = [other for other in self._updaters if other is not member]
