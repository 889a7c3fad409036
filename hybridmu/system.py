"""The verbs of HybridMU as a Python object; the command line and the jobs are thin shells around it.

Example:
    >>> import hybridmu
    >>> system = hybridmu.connect("examples/digits.yaml", executor="local")  # doctest: +SKIP
    >>> system.train(); system.forget(ids=[17], wait=True); system.verify()["bitwise_equal"]  # doctest: +SKIP
    True
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Protocol

from sqlalchemy.engine import Engine

from hybridmu import config, datasets
from hybridmu.config import Settings
from hybridmu.core.strategies.dpus import unavailable
from hybridmu.errors import (
    AdmissionError,
    DatabaseError,
    HybridMUError,
    LeaseLostError,
    RequestError,
    StateError,
    StrategyUnavailableError,
    UnknownKeysError,
    WouldEmptyError,
)
from hybridmu.planning import cost
from hybridmu.planning.planner import Pools
from hybridmu.planning.upgrade import UpgradePlan
from hybridmu.runtime import coordinator
from hybridmu.runtime.coordinator import Coordinator, Snapshot
from hybridmu.runtime.eviction import CheckpointKeeper
from hybridmu.runtime.executor import LocalExecutor
from hybridmu.runtime.removal import RemovalPlanner
from hybridmu.runtime.site import Site
from hybridmu.runtime.upgrade import upgrade_plan
from hybridmu.runtime.verify import verify
from hybridmu.serving.ensemble import Ensemble
from hybridmu.store.controls import Controls
from hybridmu.store.database import connect as connect_database
from hybridmu.store.ingest import ingest
from hybridmu.store.lease import Lease
from hybridmu.store.ledger import Ledger, Limits
from hybridmu.store.lookup import Lookup
from hybridmu.store.measurements import Measurements
from hybridmu.store.registry import Registry
from hybridmu.types import (
    ForgetRequest,
    KeyKind,
    Plan,
    RequestState,
    ResolvedKey,
    StrategyChoice,
)

Watcher = Callable[[Snapshot], None]
_FINAL = {RequestState.SERVED, RequestState.PURGED, RequestState.FAILED, RequestState.CANCELLED}


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
        connect_database(self.settings.database, create=True).dispose()  # the other verbs make none
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
            "calibrated": bool(self.measurements.calibration().buckets),
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
        found, _, _ = self._resolve(ids, groups, ignore_unknown)
        fresh = self.ledger.assess(found).fresh
        self._refuse_empty(fresh)
        extra: Counter[tuple[int, int]] = Counter()
        for key, rows in fresh:
            extra[key.shard, key.slice] += rows
        planner = RemovalPlanner(self.site, self.ledger, self.measurements, self.registry)
        return planner.plan(
            {key.shard for key, _ in fresh},
            strategy,
            _assumed_pools(self.settings),
            self.settings.policy.deadline_seconds,
            warnings=self._warnings([key for key, _ in fresh]),
            extra=extra,
        )

    def forget(
        self,
        *,
        ids: Iterable[object] = (),
        groups: Iterable[object] = (),
        strategy: StrategyChoice = "auto",
        key: str | None = None,
        caller: str = "",
        deadline_seconds: float | None = None,
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
            caller: Who asks; limits under `admission` count per caller.
            deadline_seconds: How long from now until the request must be exact and purged; the policy's by default.
            ignore_unknown: Leave unknown keys out instead of refusing the request.
            wait: Follow the running coordinator, or become it, until the request is served.
            watch: Called with a snapshot after every step while waiting.

        Returns:
            JSON-able report of the request.

        Raises:
            RequestError: The request is empty, unknown, or would leave nothing to train on; nothing was changed.
            AdmissionError: The caller's limits are reached; nothing was changed.
            StrategyUnavailableError: The strategy does not fit the optimizer; nothing was changed.
        """
        ids, groups = list(ids), list(groups)
        payload = [sorted(str(x) for x in ids), sorted(str(x) for x in groups)]
        if deadline_seconds is not None and not 0 < deadline_seconds < float("inf"):
            raise RequestError(
                "the deadline is not in the future", expected="seconds above 0", got=str(deadline_seconds)
            )
        if strategy in {"dpus", "dpus-optimised"} and (reason := unavailable(self.settings.optimizer.name)):
            raise StrategyUnavailableError(f"{strategy} can't run here", got=reason, remedy="ask for auto or retrain")
        admission = self.settings.admission
        if len(ids) + len(groups) > admission.keys_per_request:
            raise AdmissionError(
                "the request names too many ids and groups",
                expected=f"at most {admission.keys_per_request}",
                got=str(len(ids) + len(groups)),
                remedy="split it, or raise admission.keys_per_request",
            )
        self.ledger.bind(self.settings.identity(), create=False)
        request = self.ledger.find_repeat(key, payload, strategy)
        if request is None:
            found, purged, unknown = self._resolve(ids, groups, ignore_unknown)
            self._refuse_empty(self.ledger.assess(found).fresh)
            request = self.ledger.accept(
                found,
                purged=purged,
                strategy=strategy,
                caller=caller,
                limits=Limits(admission.open_requests, admission.requests_per_minute),
                idempotency_key=key,
                payload=payload,
                deadline_seconds=deadline_seconds or self.settings.policy.deadline_seconds,
                ignored_unknown=len(unknown),
            )
        if wait:
            self.wait(request.request_id, watch)
        return self.report(request.request_id)

    def cancel(self, request_id: str, caller: str = "") -> dict[str, Any]:
        """Return the report of a request that was taken back: possible only until it is planned.

        Args:
            request_id: The request.
            caller: Who takes it back, for the log.

        Raises:
            StateError: It is past RECEIVED, or another request or caller relies on it.
        """
        self.ledger.bind(self.settings.identity(), create=False)
        self.ledger.cancel(request_id, caller)
        return self.report(request_id)

    def requests(self, states: Iterable[RequestState] = (), caller: str | None = None) -> list[dict[str, Any]]:
        """Return requests in the order in which they were accepted, as JSON-able data.

        Args:
            states: Only those in one of these states.
            caller: Only those of this caller.
        """
        self.ledger.bind(self.settings.identity(), create=False)
        return [{**asdict(r), "state": str(r.state)} for r in self.ledger.requests(states, caller)]

    def pause(self, reason: str, caller: str = "") -> dict[str, Any]:
        """Return the pause: requests are accepted from now on, but not claimed; what runs is finished.

        An exact repair whose deadline comes near is made all the same.

        Args:
            reason: Why.
            caller: Who asks for it.
        """
        self.ledger.bind(self.settings.identity(), create=False)
        return asdict(self.controls.pause(reason, caller))

    def resume(self) -> None:
        """Claim requests again."""
        self.ledger.bind(self.settings.identity(), create=False)
        self.controls.resume()

    def hold(self, reason: str, request_id: str | None = None, caller: str = "") -> dict[str, Any]:
        """Return a new legal hold: what it covers is forgotten by the model, but not purged until the hold is lifted.

        Args:
            reason: Why.
            request_id: What it covers; None: every request.
            caller: Who places it.

        Raises:
            StateError: There is no such request, or it is purged already.
        """
        self.ledger.bind(self.settings.identity(), create=False)
        return asdict(self.controls.hold(request_id, reason, caller))

    def lift(self, number: int) -> None:
        """End a legal hold.

        Args:
            number: Of the hold.

        Raises:
            StateError: There is no such hold.
        """
        self.ledger.bind(self.settings.identity(), create=False)
        self.controls.lift(number)

    def holds(self) -> list[dict[str, Any]]:
        """Return the legal holds that are not lifted."""
        self.ledger.bind(self.settings.identity(), create=False)
        return [asdict(hold) for hold in self.controls.holds()]

    def wait(self, request_id: str, watch: Watcher | None = None) -> ForgetRequest:
        """Follow the running coordinator, or become it, until a request is served.

        Args:
            request_id: The request.
            watch: Called with a snapshot after every step made here.

        Returns:
            The request in its final state.

        Raises:
            StateError: The request was cancelled.
            HybridMUError: The request failed.
        """
        while (request := self.ledger.request(request_id)).state not in _FINAL:
            if self._driver is None and self.lease.holder() is not None:
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
                f"request {request_id} failed",
                got=request.reason or "",
                remedy="its rows stay revoked; see the reason, then ask for the same again, under another key",
            )
        if request.state is RequestState.CANCELLED:
            raise StateError(f"request {request_id} was cancelled", remedy="ask again, under another key")
        return request

    def run(self, *, until_idle: bool = False, watch: Watcher | None = None) -> Snapshot:
        """Be the coordinator until interrupted, or until no request is open.

        Args:
            until_idle: Return when every request is served and no exact repair is under way.
            watch: Called with a snapshot after every step.

        Returns:
            The last snapshot.
        """
        self.ledger.bind(self.settings.identity(), create=False)  # before a cluster is started
        while True:
            snapshot = self._step(0.5)
            if watch:
                watch(snapshot)
            if until_idle and snapshot.open_requests == snapshot.jobs_total == 0:
                return snapshot

    def report(self, request_id: str) -> dict[str, Any]:
        """Return one request as JSON-able data, with its times and plan against actual per round and shard.

        `seconds_to_applied` is when the approximate or the exact removal was published, `seconds_to_exact` when every
        shard was exact; `owes_exact_repair` lists the shards that are not yet, and `repair` says when they will be.
        """
        self.ledger.bind(self.settings.identity(), create=False)
        request = self.ledger.request(request_id)
        shards = [
            {
                "round": row["round_id"],
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
            for row in self.measurements.outcomes(request_id)
        ]
        moments = {
            name: getattr(request, f"{name}_at") for name in ("deadline", "applied", "served", "exact", "purged")
        }
        return {
            **asdict(request),
            "state": str(request.state),
            **{f"seconds_to_{name}": at - request.received_at if at else None for name, at in moments.items()},
            "owes_exact_repair": self._owed(request),
            "repair": self.settings.policy.repair,
            "shards": shards,
        }

    def status(self) -> dict[str, Any]:
        """Return where the system stands: version, shards and what they owe, requests, pause and holds, replicas."""
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
            "debts": [
                {"shard": shard, "deadline_at": deadline} for shard, deadline in sorted(self.registry.debts().items())
            ],
            "pause": asdict(paused) if (paused := self.controls.paused()) else None,
            "holds": self.holds(),
            "requests": {str(s): sum(r.state is s for r in requests) for s in RequestState},
            "last_requests": [{**asdict(r), "state": str(r.state)} for r in requests[-10:]],
            "replicas": self.registry.replicas(),
            "coordinator": self.lease.holder(),
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

    def checkpoints(self, *, apply: bool = False) -> dict[str, Any]:
        """Return which checkpoints go to keep the budget, and what the next deletion costs before and after.

        Args:
            apply: Delete them; without it nothing is changed. A running coordinator does so after every publish.

        Returns:
            JSON-able plan, with seconds by the cost model and the plan in sentences.

        Raises:
            StateError: Another coordinator is at work on this storage.
        """
        self.ledger.bind(self.settings.identity(), create=False)
        keeper = CheckpointKeeper(self.site, self.ledger, self.registry)
        plan = keeper.plan()
        if apply and plan.evicted:
            self.close()  # a coordinator of our own has no job at work now
            token = self.lease.acquire(self._holder(), coordinator.LEASE_SECONDS)
            if token is None:
                raise StateError(
                    "another coordinator is at work on this storage",
                    got=str(self.lease.holder()),
                    remedy="it keeps its own checkpoints.budget_bytes after every publish; stop it to do so by hand",
                )
            try:
                plan = keeper.plan()
                keeper.apply(plan)
            finally:
                self.lease.release(token)
        fitted = cost.fit(self.measurements.costs())
        before, after = (fitted.estimate("retrain", round(v), 0) for v in (plan.visits_before, plan.visits_after))
        return {
            **asdict(plan),
            "fits": plan.fits,
            "seconds_before": before.seconds,
            "seconds_after": after.seconds,
            "applied": apply,
            "explanation": plan.explain(),
        }

    def upgrade(self, versions: Mapping[str, str] | None = None) -> UpgradePlan:
        """Show what other libraries, or those of this very process, cost in lost checkpoints; changes nothing.

        Args:
            versions: Package → version after the upgrade. Left out: storage is compared with what is installed here,
                so that the new environment can be asked.

        Returns:
            The plan, with a sentence for every figure.
        """
        self.ledger.bind(self.settings.identity(), create=False)
        keeper = CheckpointKeeper(self.site, self.ledger, self.registry)
        return upgrade_plan(keeper, self.measurements, versions or {})

    def predict(self, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Return predictions of rows, offline, by the served version; the same answer as the HTTP endpoint."""
        self.ledger.bind(self.settings.identity(), create=False)
        ensemble = Ensemble.load(self.site, self.registry.version())
        return ensemble.answer(ensemble.encode(rows))

    def close(self) -> None:
        """Release the lease and stop what this object started."""
        driver, self._driver = self._driver, None
        if driver is not None:
            driver.close()

    def __enter__(self) -> System:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ------------------------------------------------------------------ helpers

    @cached_property
    def ledger(self) -> Ledger:
        """Return the ledger."""
        return Ledger(self._engine)

    @cached_property
    def registry(self) -> Registry:
        """Return the registry of versions."""
        return Registry(self._engine)

    @cached_property
    def lease(self) -> Lease:
        """Return the coordinator's lease."""
        return Lease(self._engine)

    @cached_property
    def measurements(self) -> Measurements:
        """Return costs, calibration, and plan against actual."""
        return Measurements(self._engine)

    @cached_property
    def controls(self) -> Controls:
        """Return pause and legal holds."""
        return Controls(self._engine)

    @cached_property
    def _engine(self) -> Engine:
        return connect_database(self.settings.database)

    def _acquire(self) -> Driver:
        """Return the coordinator, becoming it first if need be.

        Raises:
            StateError: Another one is at work.
        """
        if self._driver is None:
            holder = self._holder()
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
                    got=str(self.lease.holder()),
                    remedy="use `forget` (it follows that one), or stop it first",
                )
            self._driver = driver
        return self._driver

    @staticmethod
    def _holder() -> str:
        return f"{socket.gethostname()}/{os.getpid()}/{uuid.uuid4().hex[:6]}"

    def _step(self, wait_seconds: float) -> Snapshot:
        # A coordinator that died or lost its lease is let go.
        driver = self._acquire()
        try:
            return driver.step(wait_seconds)
        except (LeaseLostError, StateError):
            with contextlib.suppress(DatabaseError):  # a lease that can't be given back runs out
                self.close()
            raise

    def _owed(self, request: ForgetRequest) -> list[int]:
        """Return the shards whose exact removal an applied request still waits for."""
        if request.applied_at is None or request.exact_at is not None:
            return []
        exact = {sub.shard: sub.exact_upto for sub in self.registry.version().shards}
        needs = self.ledger.shards_of([request.request_id])[request.request_id]
        return sorted(shard for shard, upto in needs.items() if exact[shard] < upto)

    def _lacks_calibration(self) -> bool:
        policy = self.settings.policy
        wanted = policy.calibrate and policy.strategy != "retrain" and self.settings.optimizer.name == "sgd"
        return wanted and not self.measurements.calibration().buckets and not self.ledger.tombstones()

    def _resolve(
        self, ids: Iterable[object], groups: Iterable[object], ignore_unknown: bool
    ) -> tuple[list[ResolvedKey], list[bytes], list[str]]:
        """Return (keys with rows in the lake, HMACs of keys that were purged before, unknown keys).

        Raises:
            RequestError: Nothing is asked.
            UnknownKeysError: A key is unknown, and may not be or none is known.
        """
        kinds: list[tuple[KeyKind, object]] = [*(("id", x) for x in ids), *(("group", x) for x in groups)]
        if not kinds:
            raise RequestError("the request is empty", expected="at least one id or group")
        found, missing = Lookup(self.site.lake).find(kinds)
        purged: list[bytes] = []
        unknown = [key.text for key in missing]
        if (unknown and not ignore_unknown) or not (found or purged):
            raise UnknownKeysError(unknown, any_known=bool(found or purged))
        return found, purged, unknown

    def _refuse_empty(self, fresh: Sequence[tuple[ResolvedKey, int]]) -> None:
        ingested = sum(map(sum, self.site.lake.manifest.rows["train"]))
        revoked = sum(sum(slice_[:2]) for shard in self.ledger.counts().values() for slice_ in shard.values())
        if fresh and ingested - revoked <= sum(rows for _, rows in fresh):
            raise WouldEmptyError(
                "this request would leave no row to train on",
                expected="at least one live training row",
                remedy="to forget everything, run `hybridmu decommission`",
            )

    def _warnings(self, fresh: Sequence[ResolvedKey]) -> list[str]:
        if not fresh:
            return []
        revoked = {shard: {(str(x.kind), x.key) for x in stones} for shard, stones in self.ledger.tombstones().items()}
        for key in fresh:
            revoked.setdefault(key.shard, set()).add((str(key.kind), key.key))
        twins = self.site.lake.twins(fresh, revoked)
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
