"""The verbs of HybridMU as a Python object; the command line and the jobs are thin shells around it.

Example:
    >>> import hybridmu
    >>> system = hybridmu.connect("examples/digits.yaml", executor="local")  # doctest: +SKIP
    >>> system.train(); system.forget(ids=[17], wait=True); system.verify()["bitwise_equal"]  # doctest: +SKIP
    True
"""

from __future__ import annotations

import os
import socket
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, Protocol

from hybridmu import config, datasets
from hybridmu.config import Settings
from hybridmu.core.strategies.dpus import unavailable
from hybridmu.errors import (
    HybridMUError,
    LeaseLostError,
    RequestError,
    StateError,
    StrategyUnavailableError,
    UnknownKeysError,
    WouldEmptyError,
)
from hybridmu.planning.planner import Pools
from hybridmu.runtime import coordinator
from hybridmu.runtime.coordinator import Coordinator, Snapshot
from hybridmu.runtime.executor import LocalExecutor
from hybridmu.runtime.removal import RemovalPlanner
from hybridmu.runtime.site import Site
from hybridmu.runtime.verify import verify
from hybridmu.serving.ensemble import Ensemble
from hybridmu.store.ingest import ingest
from hybridmu.store.ledger import Ledger
from hybridmu.store.registry import Registry
from hybridmu.store.tables import connect as connect_database
from hybridmu.types import (
    ForgetRequest,
    KeyKind,
    Plan,
    RequestState,
    ResolvedKey,
    StrategyChoice,
    Tombstone,
)

Watcher = Callable[[Snapshot], None]
_FINAL = {RequestState.SERVED, RequestState.FAILED}


class Driver(Protocol):
    """A coordinator, in this process or in a Ray actor."""

    def acquire(self) -> bool:
        """Take the lease."""
        ...

    def begin_training(self) -> Snapshot:
        """Queue the training."""
        ...

    def step(self, wait_seconds: float) -> Snapshot:
        """Make one step."""
        ...

    def close(self) -> None:
        """Release everything."""
        ...


class System:
    """One unlearning system: its data, model, ledger and cluster.

    Args:
        settings: The configuration.
        executor: `ray`, or `local` to run everything in this process.
    """

    def __init__(self, settings: Settings, executor: Literal["ray", "local"] = "ray") -> None:
        self.settings = settings.model_copy(update={"data": datasets.resolve(settings.data)})
        self.executor = executor
        self.site = Site(self.settings)
        self._driver: Driver | None = None

    # ------------------------------------------------------------------ verbs

    def train(self, watch: Watcher | None = None) -> dict[str, Any]:
        """Train every shard and publish version 1; does nothing when that was done already.

        Args:
            watch: Called with a snapshot after every step.

        Returns:
            JSON-able summary.

        Raises:
            StateError: Another coordinator is at work on this storage.
        """
        started = time.perf_counter()
        # Reading the source happens here, before a cluster is started: bad input costs nothing.
        self.ledger.bind(self.settings.identity(), create=True, replace=not self.site.lake.exists)
        ingest(self.site.lake)
        if self.registry.served() is None or self._lacks_calibration():
            driver = self._acquire()
            snapshot = driver.begin_training()
            while self.registry.served() is None or snapshot.jobs_total or snapshot.calibrating:
                snapshot = self._step(0.2)
                if watch:
                    watch(snapshot)
        version = self.registry.version()
        manifest = self.site.lake.manifest
        return {
            "version": version.version,
            "shards": len(version.shards),
            "voters": sum(sub.blob is not None for sub in version.shards),
            "rows": {split: sum(map(sum, shards)) for split, shards in manifest.rows.items()},
            "classes": list(manifest.encoder.classes),
            "classes_inferred": manifest.classes_inferred,
            "calibrated": bool(self.ledger.calibration().buckets),
            "seconds": time.perf_counter() - started,
        }

    def plan(
        self,
        *,
        ids: Iterable[object] = (),
        groups: Iterable[object] = (),
        strategy: StrategyChoice = "auto",
        ignore_unknown: bool = False,
    ) -> Plan:
        """Show what a forget request would do, without doing anything.

        Args:
            ids: Row ids.
            groups: Groups.
            strategy: As in `forget`.
            ignore_unknown: Leave unknown keys out instead of refusing.

        Returns:
            The plan, every line explained; no shard when all was forgotten before.
        """
        self.ledger.bind(self.settings.identity(), create=False)
        fresh, _, _, gone = self._resolve(ids, groups, ignore_unknown)
        if fresh:
            self._refuse_empty(fresh, gone)
        later = [stone.seq for stones in gone.values() for stone in stones]
        merged = {key.shard: list(gone.get(key.shard, [])) for key in fresh}
        for seq, key in enumerate(fresh, start=max(later, default=0) + 1):
            merged[key.shard].append(Tombstone(seq, key.kind, key.key, key.shard, key.slice, "planned"))
        planner = RemovalPlanner(self.site, self.ledger, self.registry)
        slack = self.settings.policy.deadline_seconds
        revoked = {shard: {(str(x.kind), x.key) for x in stones} for shard, stones in {**gone, **merged}.items()}
        return planner.plan(merged, strategy, _assumed_pools(self.settings), slack, self._warnings(fresh, revoked))

    def forget(
        self,
        *,
        ids: Iterable[object] = (),
        groups: Iterable[object] = (),
        strategy: StrategyChoice = "auto",
        key: str | None = None,
        ignore_unknown: bool = False,
        wait: bool = False,
        watch: Watcher | None = None,
    ) -> dict[str, Any]:
        """Commit a forget request; durable when this returns.

        Args:
            ids: Row ids.
            groups: Groups: every row of these people, in all tables.
            strategy: `auto` lets the planner choose per shard.
            key: Idempotency key.
            ignore_unknown: Leave unknown keys out instead of refusing the request.
            wait: Follow the running coordinator, or become it, until the request is served.
            watch: Called with a snapshot after every step while waiting.

        Returns:
            JSON-able report of the request.

        Raises:
            RequestError: The request is empty, unknown, or would leave nothing to train on; nothing was changed.
            StrategyUnavailableError: The strategy does not fit the optimizer; nothing was changed.
        """
        ids, groups = list(ids), list(groups)
        payload = [sorted(str(x) for x in ids), sorted(str(x) for x in groups)]
        if strategy in {"dpus", "dpus-optimised"} and (reason := unavailable(self.settings.optimizer.name)):
            raise StrategyUnavailableError(f"{strategy} can't run here", got=reason, remedy="ask for auto or retrain")
        self.ledger.bind(self.settings.identity(), create=False)
        request = self.ledger.find_repeat(key, payload, strategy)
        if request is None:
            fresh, known, unknown, gone = self._resolve(ids, groups, ignore_unknown)
            if fresh:
                self._refuse_empty(fresh, gone)
            request = self.ledger.accept(
                fresh,
                known=known,
                strategy=strategy,
                idempotency_key=key,
                payload=payload,
                deadline_seconds=self.settings.policy.deadline_seconds,
                ignored_unknown=len(unknown),
            )
        if wait:
            self.wait(request.request_id, watch)
        return self.report(request.request_id)

    def wait(self, request_id: str, watch: Watcher | None = None) -> ForgetRequest:
        """Follow the running coordinator, or become it, until a request is served.

        Args:
            request_id: The request.
            watch: Called with a snapshot after every step made here.

        Returns:
            The request in its final state.

        Raises:
            HybridMUError: The request failed.
        """
        while (request := self.ledger.request(request_id)).state not in _FINAL:
            if self._driver is None and self.ledger.lease_holder() is not None:
                time.sleep(0.1)
                continue
            try:
                snapshot = self._step(0.1)
            except LeaseLostError:
                continue  # another coordinator took over: follow that one
            if watch:
                watch(snapshot)
        if request.state is RequestState.FAILED:
            raise HybridMUError(
                f"request {request_id} failed", got=request.reason or "", remedy="its rows stay revoked; see the reason"
            )
        return request

    def run(self, *, until_idle: bool = False, watch: Watcher | None = None) -> Snapshot:
        """Be the coordinator until interrupted, or until no request is open.

        Args:
            until_idle: Return when every request is served.
            watch: Called with a snapshot after every step.

        Returns:
            The last snapshot.
        """
        while True:
            snapshot = self._step(0.5)
            if watch:
                watch(snapshot)
            if until_idle and snapshot.open_requests == 0:
                return snapshot

    def report(self, request_id: str) -> dict[str, Any]:
        """Return one request as JSON-able data, plan against actual per shard included."""
        request = self.ledger.request(request_id)
        shards = [
            {
                "shard": row["shard"],
                "strategy": row["strategy"],
                "rule": row["rule"],
                "reasons": row["reasons"],
                "first_slice": row["first_slice"],
                "revoked": row["revoked"],
                "sample_visits": row["sample_visits"],
                "planned_visits": row["planned_visits"],
                "estimated_seconds": row["estimated_seconds"],
                "measured_seconds": row["measured_seconds"],
            }
            for row in self.ledger.outcomes(request_id)
        ]
        applied = request.applied_at
        return {
            **asdict(request),
            "state": str(request.state),
            "seconds_to_applied": applied - request.received_at if applied else None,
            "seconds_to_served": request.served_at - request.received_at if request.served_at else None,
            "shards": shards,
        }

    def status(self) -> dict[str, Any]:
        """Return where the system stands: version, shards, requests, replicas, cost model."""
        self.ledger.bind(self.settings.identity(), create=False)
        version = self.registry.version()
        requests = self.ledger.requests()
        return {
            "version": version.version,
            "voters": sum(sub.blob is not None for sub in version.shards),
            "shards": [
                {
                    "shard": sub.shard,
                    "exact": sub.exact,
                    "empty": sub.blob is None,
                    "owes_exact_repair": sub.exact_upto < sub.removed_upto,
                    "error_spent": sub.error_spent,
                }
                for sub in version.shards
            ],
            "requests": {str(s): sum(r.state is s for r in requests) for s in RequestState},
            "last_requests": [{**asdict(r), "state": str(r.state)} for r in requests[-10:]],
            "replicas": self.registry.replicas(),
            "coordinator": self.ledger.lease_holder(),
        }

    def verify(
        self, shards: Sequence[int] | None = None, watch: Callable[[int, int], None] | None = None
    ) -> dict[str, Any]:
        """Return a proof of the live sub-models against a from-scratch training in fresh processes.

        Args:
            shards: Which shards; all by default.
            watch: Called with (shards done, shards in all) while the oracle trains.

        Returns:
            See `runtime.verify`.
        """
        processes = max(1, min(os.cpu_count() or 1, 8) // self.settings.threads)
        return verify(self.settings, shards, processes, watch)

    def predict(self, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Return predictions of rows, offline, by the served version; the same answer as the HTTP endpoint."""
        self.ledger.bind(self.settings.identity(), create=False)
        ensemble = Ensemble.load(self.site, self.registry.version())
        return ensemble.answer(ensemble.encode(rows))

    def close(self) -> None:
        """Release the lease and stop what this object started."""
        if self._driver is not None:
            self._driver.close()
            self._driver = None

    def __enter__(self) -> System:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ------------------------------------------------------------------ helpers

    @property
    def ledger(self) -> Ledger:
        """Return the ledger."""
        return self._stores()[0]

    @property
    def registry(self) -> Registry:
        """Return the registry of versions."""
        return self._stores()[1]

    def _stores(self) -> tuple[Ledger, Registry]:
        if not hasattr(self, "_opened"):
            engine = connect_database(self.settings.database)
            self._opened = (Ledger(engine), Registry(engine))
        return self._opened

    def _acquire(self) -> Driver:
        """Return the coordinator, becoming it first if need be.

        Raises:
            StateError: Another one is at work.
        """
        if self._driver is None:
            holder = f"{socket.gethostname()}/{os.getpid()}/{uuid.uuid4().hex[:6]}"
            if self.executor == "local":
                driver: Driver = Coordinator(self.settings, LocalExecutor(self.settings), holder)
            else:
                from hybridmu.cluster.driver import RayDriver

                driver = RayDriver(self.settings, holder)
            # A killed coordinator's lease runs out; a live one renews it for longer than we wait.
            patience = time.monotonic() + coordinator.LEASE_SECONDS + 1
            while not (acquired := driver.acquire()) and time.monotonic() < patience:
                time.sleep(0.3)
            if not acquired:
                driver.close()
                raise StateError(
                    "another coordinator is at work on this storage",
                    got=str(self.ledger.lease_holder()),
                    remedy="use `forget` (it follows that one), or stop it first",
                )
            self._driver = driver
        return self._driver

    def _step(self, wait_seconds: float) -> Snapshot:
        # A coordinator that died or lost its lease is let go.
        driver = self._acquire()
        try:
            return driver.step(wait_seconds)
        except (LeaseLostError, StateError):
            self.close()
            raise

    def _lacks_calibration(self) -> bool:
        policy = self.settings.policy
        wanted = policy.calibrate and policy.strategy != "retrain" and self.settings.optimizer.name == "sgd"
        return wanted and not self.ledger.calibration().buckets and not self.ledger.tombstones()

    def _resolve(
        self, ids: Iterable[object], groups: Iterable[object], ignore_unknown: bool
    ) -> tuple[list[ResolvedKey], list[ResolvedKey], list[str], dict[int, list[Tombstone]]]:
        kinds: list[tuple[KeyKind, object]] = [*(("id", x) for x in ids), *(("group", x) for x in groups)]
        if not kinds:
            raise RequestError("the request is empty", expected="at least one id or group")
        gone = self.ledger.tombstones()
        revoked = {shard: {(str(x.kind), x.key) for x in stones} for shard, stones in gone.items()}
        fresh, known, unknown = self.site.lake.resolve(kinds, revoked)
        if unknown and not ignore_unknown:
            raise UnknownKeysError(unknown)
        if not fresh and not known:
            raise UnknownKeysError(unknown)
        return fresh, known, unknown, gone

    def _refuse_empty(self, fresh: Sequence[ResolvedKey], gone: dict[int, list[Tombstone]]) -> None:
        touched = {key.shard for key in fresh}
        for shard in range(self.settings.sisa.shards):
            dead = {(str(x.kind), x.key) for x in gone.get(shard, [])}
            if shard in touched:
                dead |= {(str(key.kind), key.key) for key in fresh if key.shard == shard}
            if sum(self.site.lake.counts("train", shard, dead)[0]):
                return
        raise WouldEmptyError(
            "this request would leave no row to train on",
            expected="at least one live training row",
            remedy="to forget everything, stop serving and delete the storage folder and its database",
        )

    def _warnings(self, fresh: Sequence[ResolvedKey], revoked: dict[int, set[tuple[str, bytes]]]) -> list[str]:
        twins = self.site.lake.twins(fresh, revoked) if fresh else 0
        if not twins:
            return []
        return [
            f"{twins} live row(s) have the same features and label as a row to be revoked; they stay, "
            "and the model may still know that content"
        ]


def _assumed_pools(settings: Settings) -> Pools:
    """Return the configured pools, or those of this machine: a plan is shown without starting a cluster."""
    cluster = settings.cluster
    fitting = max(1, int((os.cpu_count() or 1) / cluster.cpus_per_shard))
    return Pools(cluster.max_parallel or fitting, cluster.updaters)


def connect(settings: Settings | dict[str, Any] | str | Path, executor: Literal["ray", "local"] = "ray") -> System:
    """Open a system; the entry point for notebooks.

    Args:
        settings: Settings, a mapping of them, or the path of a YAML file.
        executor: `ray`, or `local` to run in this process.

    Returns:
        The system; use it as a context manager to release what it starts.
    """
    if isinstance(settings, dict):
        settings = Settings.parse(settings)
    elif not isinstance(settings, Settings):
        settings = config.load(settings)
    return System(settings, executor)
