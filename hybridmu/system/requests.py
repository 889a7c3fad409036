"""Deletion requests: planned, accepted, taken back, followed and reported."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from functools import cached_property
from typing import Any

from hybridmu.config import Settings
from hybridmu.core.kernel.partition import digest
from hybridmu.core.strategies import needs_model, unavailable
from hybridmu.errors import (
    HybridMUError,
    RequestError,
    StateError,
    StrategyUnavailableError,
    UnknownKeysError,
    too_many_keys,
    would_empty,
)
from hybridmu.planning.planner import Pools
from hybridmu.runtime.coordinator.removal_planner import RemovalPlanner
from hybridmu.store.dataset.key_lookup import Lookup, Mac, RawKey
from hybridmu.store.dataset.waiting_rows import waiting_keys
from hybridmu.store.ledger.accept.accept import Limits
from hybridmu.store.ledger.idempotency import seal
from hybridmu.system.arguments import (
    AnyCaller,
    AnyCount,
    Caller,
    Count,
    Deadline,
    Flag,
    IdempotencyKey,
    Keys,
    Kind,
    Name,
    States,
    Strategy,
    Watch,
    Watcher,
    checked,
)
from hybridmu.system.session import Opened
from hybridmu.types import (
    ForgetRequest,
    ForwardState,
    KeyKind,
    KeySet,
    NamedKey,
    Plan,
    RequestState,
    ResolvedKey,
    Tombstone,
)
from hybridmu.types.text import spellings

_FINAL = {RequestState.SERVED, RequestState.PURGED, RequestState.FAILED, RequestState.CANCELLED}


class Forgetting(Opened):
    """Deletion requests of one system."""

    @checked
    def plan(
        self,
        *,
        ids: Keys = (),
        groups: Keys = (),
        strategy: Strategy = "auto",
        ignore_unknown: Flag = False,
    ) -> Plan:
        """Show what a forget request would do, without doing anything.

        Args:
            ids: Row ids.
            groups: Groups.
            strategy: As in `forget`.
            ignore_unknown: Leave unknown keys out instead of refusing.

        Returns:
            The plan, every line explained; no shard when all was forgotten before.

        Raises:
            AdmissionError: It names more ids and groups than a request may.
        """
        ids, groups = list(ids), list(groups)
        self._refuse_many(ids, groups)
        self._look()
        found, _, _ = self._resolve(ids, groups, ignore_unknown)
        fresh = self.ledger.assess(found).fresh
        self._refuse_empty(fresh)
        planner = RemovalPlanner(self.site, self.ledger, self.measurements, self.registry)
        return planner.plan(
            {key.shard for key, _ in fresh},
            strategy,
            _assumed_pools(self.settings),
            self.settings.policy.deadline_seconds,
            warnings=self._warnings([key for key, _ in fresh]),
            fresh=fresh,
        )

    @checked
    def forget(
        self,
        *,
        ids: Keys = (),
        groups: Keys = (),
        strategy: Strategy = "auto",
        key: IdempotencyKey = None,
        caller: Caller = "",
        deadline_seconds: Deadline = None,
        ignore_unknown: Flag = False,
        wait: Flag = False,
        watch: Watch = None,
    ) -> dict[str, Any]:
        """Commit a forget request; durable when this returns.

        Args:
            ids: Row ids.
            groups: Groups: every row of these people, in all tables.
            strategy: `auto` lets the planner choose per shard.
            key: Idempotency key: the same one of the same caller, with all the same options, returns the same request.
                Once that is purged, ids and groups alone are compared, as far as they are remembered; an exact repeat
                returns the request ever after.
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
            ConflictError: The idempotency key was used with another payload; nothing was changed.
            AdmissionError: The caller's limits are reached; nothing was changed.
            StrategyUnavailableError: The strategy does not fit the optimizer or the model; nothing was changed.
        """
        ids, groups = list(ids), list(groups)
        if reason := unavailable(strategy, self.settings.optimizer.name):
            raise StrategyUnavailableError(f"{strategy} can't run here", got=reason, remedy="ask for auto or retrain")
        self._refuse_many(ids, groups)
        admission = self.settings.admission
        self._look()
        if strategy != "auto" and needs_model(strategy) and (reason := self._unfit.get(strategy)):
            raise StrategyUnavailableError(f"{strategy} can't run here", got=reason, remedy="ask for auto or retrain")
        within = None if deadline_seconds is None else float(deadline_seconds)  # 60 and 60.0 are one deadline
        asked = [sorted(map(str, ids)), sorted(map(str, groups)), strategy, within, ignore_unknown]
        repeat = seal(self.guard.seals, caller, key, asked, None if key is None else self._macs(ids, groups))
        request = self.ledger.find_repeat(repeat)
        if request is None:
            mac = self.guard.stamp()
            found, purged, unknown = self._resolve(ids, groups, ignore_unknown, mac)
            request = self.ledger.accept(
                found,
                purged=purged,
                absent=self._named(unknown, mac),
                strategy=strategy,
                caller=caller,
                limits=Limits(admission.open_requests, admission.requests_per_minute),
                repeat=repeat,
                deadline_seconds=deadline_seconds or self.settings.policy.deadline_seconds,
                ignored_unknown=len(unknown),
                training_rows=self.site.lake.manifest.training_rows,
            )
        if wait:
            self.wait(request.request_id, watch)
            self._wait_for_delivery(request.request_id, watch)
        return self.report(request.request_id)

    @cached_property
    def _unfit(self) -> dict[str, str]:
        found = RemovalPlanner(self.site, self.ledger, self.measurements, self.registry).unfit
        return {str(name): reason for name, reason in found.items()}

    @checked
    def has_numbers(self, kind: Kind) -> bool:
        """Return whether ids or groups are integers in the tables.

        Args:
            kind: `id` or `group`.
        """
        self._look()
        manifest = self.site.lake.manifest
        return "int" in ((manifest.id_type if kind == "id" else manifest.group_type) or "")

    @checked
    def cancel(self, request_id: Name, caller: Caller = "") -> dict[str, Any]:
        """Return the report of a request that was taken back: possible only until it is planned.

        Args:
            request_id: The request.
            caller: Who takes it back, for the log.

        Raises:
            StateError: It is past RECEIVED, or a linked model passed it on.
        """
        self._check_bound()
        self.ledger.cancel(request_id, caller)
        return self.report(request_id)

    @checked
    def retry(self, request_id: Name, strategy: Strategy = "auto") -> dict[str, Any]:
        """Return the report of a failed request that is taken up again; a coordinator fulfils it.

        Args:
            request_id: The request.
            strategy: How it is to be fulfilled now.

        Raises:
            StateError: It did not fail.
        """
        self._check_bound()
        self.ledger.retry(request_id, strategy)
        return self.report(request_id)

    @checked
    def requests(self, states: States = (), caller: AnyCaller = None) -> list[dict[str, Any]]:
        """Return requests in the order in which they were accepted, as JSON-able data.

        Args:
            states: Only those in one of these states.
            caller: Only those of this caller.
        """
        self._check_bound()
        return [_plain(request) for request in self.ledger.requests(states, caller)]

    @checked
    def page(
        self, *, states: States = (), caller: AnyCaller = None, limit: Count = 50, before: AnyCount = None
    ) -> dict[str, Any]:
        """Return a part of the list of requests, newest first, as JSON-able data; its cost does not grow with them.

        Args:
            states: Only those in one of these states.
            caller: Only those of this caller.
            limit: How many at most, 1 to 1,000.
            before: `next_before` of the part before; the newest when left out.

        Returns:
            `requests`, and `next_before`: None when there is no more.
        """
        self._check_bound()
        found = self.pages.page(caller=caller, states=tuple(states), limit=limit, before=before)
        return {"requests": [_plain(request) for request in found.requests], "next_before": found.next_before}

    @checked
    def report(self, request_id: Name) -> dict[str, Any]:
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
        names = ("deadline", "planned", "applied", "served", "exact", "purged")
        moments = {name: getattr(request, f"{name}_at") for name in names}
        return {
            **asdict(request),
            "state": str(request.state),
            "models": self.linked.report(request_id, request.received_at),
            **{f"seconds_to_{name}": at - request.received_at if at else None for name, at in moments.items()},
            "owes_exact_repair": self._owed(request),
            "repair": self.settings.policy.repair,
            "shards": shards,
        }

    @checked
    def wait(self, request_id: Name, watch: Watch = None) -> ForgetRequest:
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

    def _wait_for_delivery(self, request_id: str, watch: Watcher | None) -> None:
        """Follow the running coordinator, or become it, until every linked model has a request or could not be told."""
        since = time.time()

        def open_() -> bool:
            forwards = self.linked.forwards.of_request(request_id)
            return any(f.state is ForwardState.WAITING and (f.tried_at or 0.0) < since for f in forwards)

        while open_():
            self._follow(watch)

    def _owed(self, request: ForgetRequest) -> list[int]:
        """Return the shards whose exact removal an applied request still waits for."""
        if request.applied_at is None or request.exact_at is not None:
            return []
        exact = {sub.shard: sub.exact_upto for sub in self.registry.version().shards}
        needs = self.ledger.shards_of([request.request_id])[request.request_id]
        return sorted(shard for shard, upto in needs.items() if exact[shard] < upto)

    def _resolve(
        self, ids: Iterable[object], groups: Iterable[object], ignore_unknown: bool, mac: Mac | None = None
    ) -> tuple[list[ResolvedKey], list[bytes], list[RawKey]]:
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
        self._refuse_near(missing)
        if (missing and not ignore_unknown) or not (found or purged):
            key = self.site.lake.key
            elsewhere = self.linked.elsewhere(KeySet((x.kind, digest(key, x.kind, x.value)) for x in missing))
            raise UnknownKeysError([x.text for x in missing], any_known=bool(found or purged), elsewhere=elsewhere)
        return found, purged, missing

    def _macs(self, ids: Sequence[object], groups: Sequence[object]) -> list[frozenset[bytes]]:
        """Return the guard's HMACs of each id and group, by all guard keys."""
        lookup, found = Lookup(self.site.lake), []
        asked: tuple[tuple[KeyKind, Sequence[object]], ...] = (("id", ids), ("group", groups))
        for kind, raw in asked:
            values = list(dict.fromkeys(lookup.typed(kind, value) for value in raw))
            made = self.keyring.macs(kind, values)
            # One entry for each, also before the first guard key is made: how many there are is remembered.
            found += [frozenset(macs[place] for macs in made.values()) for place in range(len(values))]
        return found

    def _refuse_near(self, missing: Sequence[RawKey]) -> None:
        """Refuse unknown keys that are known in another spelling: one of both is a slip, and a person would be missed.

        Raises:
            RequestError: There are some.
        """
        near = [(key.kind, spelling) for key in missing for spelling in spellings(key.text)]
        if near and Lookup(self.site.lake).find(near)[0]:
            raise RequestError(
                "some of these ids and groups are unknown as they are written, but known in another spelling",
                expected="each as it is in the table",
                got="spaces or quotes around a key, a byte order mark, or letters composed in another way",
                remedy="correct the list; nothing was changed",
            )

    def _named(self, unknown: Sequence[RawKey], mac: Mac) -> list[NamedKey]:
        """Return how linked models know ids and groups that have no row here; none where no model is linked."""
        if not unknown or not self.linked.links.live():
            return []
        made = [(x.kind, digest(self.site.lake.key, x.kind, x.value), *mac(x.kind, x.value)) for x in unknown]
        return [NamedKey(kind, key, mac_, mac_key) for kind, key, mac_key, mac_ in made]

    def _refuse_many(self, ids: Sequence[object], groups: Sequence[object]) -> None:
        most = self.settings.admission.keys_per_request
        if (count := len(ids) + len(groups)) > most:
            raise too_many_keys(count, most)

    def _refuse_empty(self, fresh: Sequence[tuple[ResolvedKey, int]]) -> None:
        revoked = sum(sum(slice_[:2]) for shard in self.ledger.counts().values() for slice_ in shard.values())
        if fresh and self.site.lake.manifest.training_rows - revoked <= sum(rows for _, rows in fresh):
            raise would_empty()

    def _warnings(self, fresh: Sequence[ResolvedKey]) -> list[str]:
        if not fresh:
            return []
        revoked: dict[int, list[Tombstone | ResolvedKey]] = {s: [*x] for s, x in self.ledger.tombstones().items()}
        for key in fresh:
            revoked.setdefault(key.shard, []).append(key)
        twins = self.site.lake.twins(fresh, {shard: KeySet.of(keys) for shard, keys in revoked.items()})
        if not twins:
            return []
        return [
            f"{twins} live row(s) have the same features and label as a row to be revoked; they stay, "
            "and the model may still know that content"
        ]


def _plain(request: ForgetRequest) -> dict[str, Any]:
    """Return a request as JSON-able data; `asdict` would copy every field deeply, which a long list feels."""
    fields = {name: getattr(request, name) for name in ForgetRequest.__dataclass_fields__}
    return {**fields, "state": str(request.state)}


def _assumed_pools(settings: Settings) -> Pools:
    """Return the configured pools, or those of this machine: a plan is shown without starting a cluster."""
    cluster = settings.cluster
    fitting = max(1, int((os.cpu_count() or 1) / cluster.cpus_per_shard))
    return Pools(cluster.max_parallel or fitting, cluster.updaters)
