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
from hybridmu.core.partition import digest
from hybridmu.core.strategies.dpus import unavailable
from hybridmu.errors import (
    AdmissionError,
    HybridMUError,
    LeaseLostError,
    RequestError,
    StateError,
    StrategyUnavailableError,
    UnknownKeysError,
    would_empty,
)
from hybridmu.planning import cost
from hybridmu.planning.planner import Pools
from hybridmu.planning.upgrade import UpgradePlan
from hybridmu.runtime import coordinator
from hybridmu.runtime.coordinator import Coordinator, Snapshot
from hybridmu.runtime.eviction import CheckpointKeeper
from hybridmu.runtime.executor import LocalExecutor
from hybridmu.runtime.healing import reporting
from hybridmu.runtime.intake import Intake
from hybridmu.runtime.models import Models
from hybridmu.runtime.peer import opened
from hybridmu.runtime.removal import RemovalPlanner
from hybridmu.runtime.resharding import prepare
from hybridmu.runtime.retiring import decommission
from hybridmu.runtime.site import Site
from hybridmu.runtime.upgrade import upgrade_plan
from hybridmu.runtime.verify import verify
from hybridmu.serving.ensemble import Ensemble
from hybridmu.store.admission import Limits
from hybridmu.store.controls import Controls
from hybridmu.store.database import connect as connect_database
from hybridmu.store.guard import Guard
from hybridmu.store.incoming import waiting_keys
from hybridmu.store.ingest import ingest
from hybridmu.store.ingestions import Ingestions
from hybridmu.store.journal import Journal
from hybridmu.store.keys import Keyring
from hybridmu.store.lease import Lease
from hybridmu.store.ledger import Ledger
from hybridmu.store.links import Links
from hybridmu.store.lookup import Lookup, Mac, UnknownKey
from hybridmu.store.measurements import Measurements
from hybridmu.store.registry import Registry
from hybridmu.types import (
    UPDATES,
    ForgetRequest,
    ForwardState,
    IngestState,
    KeyKind,
    NamedKey,
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
        self._bound = False

    # ------------------------------------------------------------------ verbs

    def train(self, watch: Watcher | None = None) -> dict[str, Any]:
        """Train every shard and publish version 1; does nothing when that was done already.

        Args:
            watch: Called with a snapshot after every step.

        Returns:
            JSON-able summary.

        Raises:
            StateError: Another coordinator is at work on this storage, or it is a successor without rows yet.
        """
        started = time.perf_counter()
        connect_database(self.settings.database, create=True).dispose()  # the other verbs make none
        # Reading the source happens here, before a cluster is started: bad input costs nothing.
        if not self.site.lake.exists and Links(self._engine).predecessor():
            raise StateError("this is a successor in the making", remedy="go on with `hybridmu reshard`")
        self.ledger.bind(self.settings.identity(), create=True, replace=not self.site.lake.exists)
        self.keyring.guard_keys()  # where they are kept must be known before anything is forgotten
        ingest(self.site.lake, self.guard)
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
            "skipped": sum(generation.skipped for generation in manifest.generations),
            "classes": list(manifest.encoder.classes),
            "classes_inferred": manifest.classes_inferred,
            "calibrated": bool(self.measurements.calibration().buckets),
            "seconds": time.perf_counter() - started,
        }

    def ingest(
        self,
        source: str | Path,
        *,
        slices: int = 1,
        epochs: int | None = None,
        key: str | None = None,
        caller: str = "",
        wait: bool = False,
        watch: Watcher | None = None,
    ) -> dict[str, Any]:
        """Commit new rows for a trained system; durable when this returns.

        Every row is checked, and copied into storage, first. They become a generation of their own, and only its slices
        are trained. Rows whose id or group is forgotten are skipped and counted.

        Args:
            source: Parquet file or folder, path or URI.
            slices: How many slices they are cut into.
            epochs: Epochs of each; as many as the last slice so far has when left out.
            key: Idempotency key: the same bytes and options return the same ingestion.
            caller: Who asks.
            wait: Follow the running coordinator, or become it, until every answer knows the rows.
            watch: Called with a snapshot after every step while waiting.

        Returns:
            JSON-able report of the ingestion.

        Raises:
            DataError: The rows can't be used, or an id is in the system already; nothing was changed.
            RequestError: Slices or epochs are below 1, or the key came with other rows; nothing was changed.
            StateError: Nothing was trained here, or a guard key is lost.
        """
        self._look()
        new = self.intake.receive(str(source), slices=slices, epochs=epochs, key=key, caller=caller)
        if wait:
            self.wait_for_rows(new.ingest_id, watch)
        return self.ingestion(new.ingest_id)

    def correct(
        self,
        source: str | Path,
        *,
        key: str | None = None,
        caller: str = "",
        deadline_seconds: float | None = None,
        wait: bool = False,
        watch: Watcher | None = None,
    ) -> dict[str, Any]:
        """Commit corrected rows of existing ids: the old ones are forgotten and purged, then the new ones come in.

        Args:
            source: Parquet file or folder with whole rows.
            key: Idempotency key.
            caller: Who asks; limits under `admission` count per caller.
            deadline_seconds: How long from now until the old rows must be purged; the policy's by default.
            wait: Follow the running coordinator, or become it, until every answer knows the new rows.
            watch: Called with a snapshot after every step while waiting.

        Returns:
            JSON-able report of the request, its `ingestion` included.

        Raises:
            DataError: The rows can't be used; nothing was changed.
            RequestError: An id is unknown, or its row can't be corrected; nothing was changed.
            StateError: Nothing was trained here, or a guard key is lost.
        """
        self._look()
        admission = self.settings.admission
        request = self.intake.correct(
            str(source),
            key=key,
            caller=caller,
            limits=Limits(admission.open_requests, admission.requests_per_minute),
            deadline_seconds=deadline_seconds or self.settings.policy.deadline_seconds,
        )
        new = self.ingestions.of_request(request.request_id)
        assert new is not None
        if wait:
            self.wait_for_rows(new.ingest_id, watch)
        return {**self.report(request.request_id), "ingestion": self.ingestion(new.ingest_id)}

    def ingestion(self, ingest_id: str) -> dict[str, Any]:
        """Return one ingestion as JSON-able data.

        Args:
            ingest_id: Its name.
        """
        self._look()
        new = self.ingestions.get(ingest_id)
        moments = {name: getattr(new, f"{name}_at") for name in ("applied", "served")}
        seconds = {f"seconds_to_{name}": at - new.received_at if at else None for name, at in moments.items()}
        return {**asdict(new), "state": str(new.state), **seconds}

    def ingests(self) -> list[dict[str, Any]]:
        """Return every ingestion, in the order in which they were accepted."""
        self._check_bound()
        return [self.ingestion(new.ingest_id) for new in self.ingestions.all()]

    def wait_for_rows(self, ingest_id: str, watch: Watcher | None = None) -> None:
        """Follow the running coordinator, or become it, until every answer knows the rows of an ingestion.

        Args:
            ingest_id: The ingestion.
            watch: Called with a snapshot after every step made here.

        Raises:
            HybridMUError: It failed.
        """
        while (new := self.ingestions.get(ingest_id)).state in {IngestState.RECEIVED, IngestState.APPLIED}:
            self._follow(watch)
        if new.state is IngestState.FAILED:
            remedy = "none of its rows came in; correct them and ingest them again"
            raise HybridMUError(f"ingestion {ingest_id} failed", got=new.reason or "", remedy=remedy)

    def readmit(
        self, *, ids: Iterable[object] = (), groups: Iterable[object] = (), reason: str, caller: str = ""
    ) -> dict[str, Any]:
        """Let forgotten ids and groups come in again with later data; logged. It brings no row back by itself.

        Args:
            ids: Row ids.
            groups: Groups.
            reason: Why.
            caller: Who decides.

        Returns:
            How many entries of the guard were removed.

        Raises:
            RequestError: Nothing is named, or one of the keys is not forgotten; nothing was changed.
            StateError: The request that forgot one of them is not finished; nothing was changed.
        """
        self._look()
        lookup = Lookup(self.site.lake)
        kinds: list[tuple[KeyKind, object]] = [*(("id", x) for x in ids), *(("group", x) for x in groups)]
        if not kinds or not reason.strip():
            raise RequestError("nothing is readmitted", expected="at least one id or group, and a reason")
        keys = [UnknownKey(kind, str(raw), lookup.typed(kind, raw)) for kind, raw in dict.fromkeys(kinds)]
        return {"readmitted": self.guard.readmit(keys, reason, caller)}

    def accept_guard_loss(self, key_id: str, *, reason: str, caller: str = "") -> dict[str, Any]:
        """Give up what a lost guard key remembered, so that data can come in again; logged.

        Args:
            key_id: Of the key.
            reason: Why.
            caller: Who decides.

        Returns:
            How many entries were given up.

        Raises:
            RequestError: The key is not a lost one, or there is no reason.
        """
        self._check_bound()
        if not reason.strip():
            raise RequestError("no entry is given up", expected="a reason")
        return {"key_id": key_id, "given_up": self.guard.accept_loss(key_id, reason, caller)}

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
        self._look()
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
            wait: Follow the running coordinator, or become it, until the request is served, and every linked model has
                it or could not be told.
            watch: Called with a snapshot after every step while waiting.

        Returns:
            JSON-able report of the request; `models` says how far it is in linked models.

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
        if strategy in UPDATES - {"rewind"} and (reason := unavailable(self.settings.optimizer.name)):
            raise StrategyUnavailableError(f"{strategy} can't run here", got=reason, remedy="ask for auto or retrain")
        admission = self.settings.admission
        if len(ids) + len(groups) > admission.keys_per_request:
            raise AdmissionError(
                "the request names too many ids and groups",
                expected=f"at most {admission.keys_per_request}",
                got=str(len(ids) + len(groups)),
                remedy="split it, or raise admission.keys_per_request",
            )
        self._look()
        request = self.ledger.find_repeat(key, payload, strategy)
        if request is None:
            mac = self.keyring.stamp()
            found, purged, unknown = self._resolve(ids, groups, ignore_unknown, mac)
            request = self.ledger.accept(
                found,
                purged=purged,
                absent=self._named(unknown, mac),
                strategy=strategy,
                caller=caller,
                limits=Limits(admission.open_requests, admission.requests_per_minute),
                idempotency_key=key,
                payload=payload,
                deadline_seconds=deadline_seconds or self.settings.policy.deadline_seconds,
                ignored_unknown=len(unknown),
                training_rows=self.site.lake.manifest.training_rows,
            )
        if wait:
            self.wait(request.request_id, watch)
            self._wait_for_delivery(request.request_id, watch)
        return self.report(request.request_id)

    def link(self, settings: Settings) -> list[dict[str, Any]]:
        """Link another model over the same people: from now on a deletion that one of them accepts reaches both.

        All models that either is linked with are linked with each other. What any of them has forgotten before is
        forgotten in all when this returns, or a request there. Repeated after a crash or a restore, it does what is
        missing.

        Args:
            settings: The other model's configuration.

        Returns:
            As `models`.

        Raises:
            StateError: One of them is not trained, they don't have the same keys, or rows are on their way in.
            ConfigError: A configuration holds a password.
        """
        self._check_bound()
        self.linked.link(settings.model_copy(update={"data": datasets.resolve(settings.data)}))
        return self.models()

    def models(self) -> list[dict[str, Any]]:
        """Return this model and all that it is or was linked with, read live, as JSON-able data."""
        self._check_bound()
        return self.linked.all()

    def retire(self, *names: str, reason: str, caller: str = "", lost: bool = False) -> list[dict[str, Any]]:
        """Decommission linked models, after their own requests are delivered; certificates and guards stay.

        Args:
            names: Which, as `models` names them.
            reason: Why, for the log.
            caller: Who.
            lost: They are out of reach for good: end the links only. Nothing of theirs is deleted by that.

        Returns:
            What went and what stays, per model; repeated after a crash, it finishes what was begun.

        Raises:
            StateError: There is no such model, its coordinator runs, a legal hold is in force, or it has requests that
                can't be delivered.
            RequestError: There is no reason.
        """
        self._check_bound()
        if not reason.strip() or not names:
            raise RequestError("no model is retired", expected="at least one name, and a reason")
        return self.linked.retire(names, reason, caller, lost=lost)

    def reshard(self, settings: Settings, watch: Watcher | None = None) -> dict[str, Any]:
        """Make a successor of this model: its live rows in other shards and slices, or for another task or optimizer.

        It is linked first, so requests that come meanwhile reach it, then trained on all live rows as one generation.
        This model goes on answering until it is retired. Repeated after a crash, it goes on.

        Args:
            settings: The successor's configuration: the same `data` section and keys, another storage and database.
            watch: Called with a snapshot after every step of its training.

        Returns:
            JSON-able summary of the training, the successor's ancestry, and all linked models.

        Raises:
            StateError: Rows are on their way in, something else is in the successor's storage, or the two read other
                data or have other keys.
        """
        self._look()
        self.close()  # its training needs what a coordinator of ours holds
        settings = settings.model_copy(update={"data": datasets.resolve(settings.data)})
        with opened(self.settings) as old:
            prepare(old, settings)
        with System(settings, self.executor) as successor:
            summary = successor.train(watch)
            ancestry = successor.site.lake.manifest.ancestry
        assert ancestry is not None
        self.linked.link(settings)  # it has rows now: nothing that was forgotten meanwhile may be among them
        delivered = self.linked.deliver()
        past = {"name": ancestry.name, "system": ancestry.system, "version": ancestry.version}
        past |= {"tombstones": ancestry.tombstones, "rows": ancestry.rows, "root": ancestry.root}
        return {**summary, "predecessor": past, "delivered": delivered, "models": self.models()}

    def decommission(self, reason: str, caller: str = "") -> dict[str, Any]:
        """Forget everything: stop serving, empty storage and the ledger, and look; certificates and the guard stay.

        Args:
            reason: Why, for the log.
            caller: Who.

        Returns:
            How many files went and what stays. Repeating it after a crash finishes what was begun.

        Raises:
            StateError: Another coordinator is at work, a legal hold is in force, or a linked model has not got all
                requests yet.
        """
        return decommission(self.settings, self.site.storage, self._engine, reason, caller)

    def replay(self) -> dict[str, Any]:
        """Give a ledger that was restored from a backup what storage has acted on since, and linked models know.

        Returns:
            How many requests and tombstones came back, and the version that is served; 0 and 0 when nothing lacked.
            `unsettled` names linked models that could not be asked: link them again.

        Raises:
            StateError: A coordinator is at work.
        """
        self._check_bound()
        if holder := self.lease.holder():
            raise StateError("a coordinator is at work", got=holder, remedy="stop it first")
        found = Journal(self.site.storage, self._engine).replay()
        return {**found, "unsettled": self.linked.settle()}

    def cancel(self, request_id: str, caller: str = "") -> dict[str, Any]:
        """Return the report of a request that was taken back: possible only until it is planned.

        Args:
            request_id: The request.
            caller: Who takes it back, for the log.

        Raises:
            StateError: It is past RECEIVED, or another request or caller relies on it.
        """
        self._check_bound()
        self.ledger.cancel(request_id, caller)
        return self.report(request_id)

    def requests(self, states: Iterable[RequestState] = (), caller: str | None = None) -> list[dict[str, Any]]:
        """Return requests in the order in which they were accepted, as JSON-able data.

        Args:
            states: Only those in one of these states.
            caller: Only those of this caller.
        """
        self._check_bound()
        return [{**asdict(r), "state": str(r.state)} for r in self.ledger.requests(states, caller)]

    def pause(self, reason: str, caller: str = "") -> dict[str, Any]:
        """Return the pause: requests are accepted from now on, but not claimed; what runs is finished.

        An exact repair whose deadline comes near is made all the same.

        Args:
            reason: Why.
            caller: Who asks for it.
        """
        self._check_bound()
        return asdict(self.controls.pause(reason, caller))

    def resume(self) -> None:
        """Claim requests again."""
        self._check_bound()
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
        self._check_bound()
        return asdict(self.controls.hold(request_id, reason, caller))

    def lift(self, number: int) -> None:
        """End a legal hold.

        Args:
            number: Of the hold.

        Raises:
            StateError: There is no such hold.
        """
        self._check_bound()
        self.controls.lift(number)

    def holds(self) -> list[dict[str, Any]]:
        """Return the legal holds that are not lifted."""
        self._check_bound()
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
            self._follow(watch)
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
            until_idle: Return when every request is served, and what can be repaired and purged now is.
            watch: Called with a snapshot after every step.

        Returns:
            The last snapshot.
        """
        self._check_bound()  # before a cluster is started
        was_idle = False
        while True:
            snapshot = self._step(0.5)
            if watch:
                watch(snapshot)
            idle = snapshot.open_requests == snapshot.jobs_total == snapshot.ingestions == 0
            idle = idle and not snapshot.purging and not snapshot.calibrating
            # The step that finds nothing waiting any more is the one that starts repairs.
            if until_idle and idle and (was_idle or not self.registry.debts()):
                return snapshot
            was_idle = idle

    def report(self, request_id: str) -> dict[str, Any]:
        """Return one request as JSON-able data, with its times and plan against actual per round and shard.

        `seconds_to_applied` is when the approximate or the exact removal was published, `seconds_to_exact` when every
        shard was exact; `owes_exact_repair` lists the shards that are not yet, and `repair` says when they will be.
        """
        self._check_bound()
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
            "models": self.linked.report(request_id, request.received_at),
            **{f"seconds_to_{name}": at - request.received_at if at else None for name, at in moments.items()},
            "owes_exact_repair": self._owed(request),
            "repair": self.settings.policy.repair,
            "shards": shards,
        }

    def status(self) -> dict[str, Any]:
        """Return where the system stands: version, shards and what they owe, requests, pause and holds, replicas."""
        self._check_bound()
        version, past = self.registry.version(), self.site.lake.manifest.ancestry
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
            "models": [link.name for link in self.linked.links.live()],
            "undelivered": len(self.linked.links.waiting(begun=False)),
            "predecessor": None if past is None else {"name": past.name, "version": past.version, "root": past.root},
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
        with reporting(self.site, self._engine):
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
        self._check_bound()
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
        before = fitted.estimate("retrain", round(plan.visits_before), round(plan.files_before))
        after = fitted.estimate("retrain", round(plan.visits_after), round(plan.files_after))
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
        self._check_bound()
        keeper = CheckpointKeeper(self.site, self.ledger, self.registry)
        return upgrade_plan(keeper, self.measurements, versions or {})

    def predict(self, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Return predictions of rows, offline, by the served version; the same answer as the HTTP endpoint."""
        self._check_bound()
        with reporting(self.site, self._engine):
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

    def _check_bound(self) -> None:
        """Check once that storage is of this configuration: it can't change under a system that found it so."""
        if not self._bound:
            self.ledger.bind(self.settings.identity(), create=False)
            self._bound = True

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
    def keyring(self) -> Keyring:
        """Return the signing and the guard key."""
        return Keyring(self.settings)

    @cached_property
    def guard(self) -> Guard:
        """Return what must not come in again."""
        return Guard(self._engine, self.keyring)

    @cached_property
    def linked(self) -> Models:
        """Return the models over the same people."""
        return Models(self.settings, self._engine)

    @cached_property
    def ingestions(self) -> Ingestions:
        """Return new data that came in or waits."""
        return Ingestions(self._engine)

    @cached_property
    def intake(self) -> Intake:
        """Return what accepts new and corrected rows."""
        return Intake(self.site, self.ledger, self.registry, self.ingestions, self.guard, self.keyring)

    @cached_property
    def _engine(self) -> Engine:
        return connect_database(self.settings.database)

    def _acquire(self, patient: bool = True) -> Driver:
        """Return the coordinator, becoming it first if need be.

        Args:
            patient: Wait for the lease of a coordinator that may be dead.

        Raises:
            StateError: Another one is at work.
            LeaseLostError: The same, for who did not want to wait.
            HybridMUError: The storage can't be worked on.
        """
        if self._driver is None:
            holder = self._holder()
            if self.executor == "local":
                driver: Driver = Coordinator(self.settings, LocalExecutor(self.settings), holder)
            else:
                from hybridmu.cluster.driver import RayDriver

                driver = RayDriver(self.settings, holder)
            # A killed coordinator's lease runs out; a live one renews it for longer than we wait.
            patience = time.monotonic() + (coordinator.LEASE_SECONDS + 1 if patient else 0)
            try:
                while not (acquired := driver.acquire()) and time.monotonic() < patience:
                    time.sleep(0.3)
            except HybridMUError:
                driver.close()
                raise
            if not acquired:
                driver.close()
                if not patient:
                    raise LeaseLostError("another coordinator was quicker")
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

    def _step(self, wait_seconds: float, patient: bool = True) -> Snapshot:
        driver = self._acquire(patient)
        try:
            return driver.step(wait_seconds)
        except Exception:
            # Broken off in the middle of a step, what it has in memory may be half-done. All of it can be lost: the
            # next one starts from what is durable.
            with contextlib.suppress(HybridMUError):  # a lease that can't be given back runs out
                self.close()
            raise

    def _follow(self, watch: Watcher | None) -> None:
        """Let the running coordinator work for a moment, or make a step of our own."""
        if self._driver is None and self.lease.holder(coordinator.LEASE_SECONDS) is not None:
            time.sleep(0.1)
            return
        try:
            snapshot = self._step(0.1, patient=False)
        except LeaseLostError:
            time.sleep(0.1)  # another coordinator took over: follow that one
            return
        if watch:
            watch(snapshot)

    def _wait_for_delivery(self, request_id: str, watch: Watcher | None) -> None:
        """Follow the running coordinator, or become it, until every linked model has a request or could not be told."""
        since = time.time()

        def open_() -> bool:
            forwards = self.linked.links.of_request(request_id)
            return any(f.state is ForwardState.WAITING and (f.tried_at or 0.0) < since for f in forwards)

        while open_():
            self._follow(watch)

    def _look(self) -> None:
        """See what is in storage now; another process may have brought rows in."""
        self._check_bound()
        self.site.lake.refresh()

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
        self, ids: Iterable[object], groups: Iterable[object], ignore_unknown: bool, mac: Mac | None = None
    ) -> tuple[list[ResolvedKey], list[bytes], list[UnknownKey]]:
        """Return (keys with rows in the lake, HMACs of keys that were purged before, unknown keys).

        Raises:
            RequestError: Nothing is asked.
            UnknownKeysError: A key is unknown, and may not be or none is known.
            StateError: Rows of a key are on their way in.
        """
        kinds: list[tuple[KeyKind, object]] = [*(("id", x) for x in ids), *(("group", x) for x in groups)]
        if not kinds:
            raise RequestError("the request is empty", expected="at least one id or group")
        found, missing = Lookup(self.site.lake, mac).find(kinds)
        covered = self.guard.covers(missing)
        purged = [mac for macs in covered for mac in macs]
        missing = [key for key, macs in zip(missing, covered, strict=True) if not macs]
        if missing and (coming := waiting_keys(self.site.lake, missing, self.ingestions.waiting())):
            raise StateError(
                f"rows of {len(coming)} of these ids and groups are on their way in; nothing was changed",
                expected="ids and groups of rows in the system",
                got=", ".join(key.text for key in coming[:10]),
                remedy="repeat the request when `hybridmu ingests list` shows their ingestion as APPLIED",
            )
        if (missing and not ignore_unknown) or not (found or purged):
            key = self.site.lake.key
            elsewhere = self.linked.elsewhere((x.kind, digest(key, x.kind, x.value)) for x in missing)
            raise UnknownKeysError([x.text for x in missing], any_known=bool(found or purged), elsewhere=elsewhere)
        return found, purged, missing

    def _named(self, unknown: Sequence[UnknownKey], mac: Mac) -> list[NamedKey]:
        """Return how linked models know ids and groups that have no row here; none where no model is linked."""
        if not unknown or not self.linked.links.live():
            return []
        made = [(x.kind, digest(self.site.lake.key, x.kind, x.value), *mac(x.kind, x.value)) for x in unknown]
        return [NamedKey(kind, key, mac_, mac_key) for kind, key, mac_key, mac_ in made]

    def _refuse_empty(self, fresh: Sequence[tuple[ResolvedKey, int]]) -> None:
        revoked = sum(sum(slice_[:2]) for shard in self.ledger.counts().values() for slice_ in shard.values())
        if fresh and self.site.lake.manifest.training_rows - revoked <= sum(rows for _, rows in fresh):
            raise would_empty()

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
