"""Deletion requests: planned, accepted, taken back, retried and followed."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

from hybridmu.config import Settings
from hybridmu.core.strategies import needs_model, unavailable
from hybridmu.errors import HybridMUError, StateError, StrategyUnavailableError
from hybridmu.planning.approval import ApprovalRule
from hybridmu.planning.planner import Pools
from hybridmu.store.ledger.accept.accept import Limits
from hybridmu.store.ledger.accept.proposal import size
from hybridmu.store.ledger.idempotency import seal
from hybridmu.system.arguments import (
    Caller,
    Deadline,
    Flag,
    IdempotencyKey,
    Keys,
    Kind,
    Name,
    Strategy,
    Watch,
    Watcher,
    checked,
)
from hybridmu.system.key_resolution import KeyResolution
from hybridmu.system.request_reports import RequestReports
from hybridmu.system.session import Session
from hybridmu.system.webhook_operations import register_receivers
from hybridmu.types import ForgetRequest, ForwardState, Plan, RequestState, ResolvedKey

_QUALITY_SECONDS = 30.0
_FINAL = {RequestState.SERVED, RequestState.PURGED, RequestState.FAILED, RequestState.CANCELLED}


class DeletionRequests:
    """Deletion requests of one system.

    Args:
        session: The open system.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._keys = KeyResolution(session)
        self._reports = RequestReports(session)

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
        session = self._session
        ids, groups = list(ids), list(groups)
        self._keys.refuse_many(ids, groups)
        session.refresh()
        found, _, _ = self._keys.resolve(ids, groups, ignore_unknown)
        fresh = session.ledger.assess(found).fresh
        self._keys.refuse_empty(fresh)
        planner = session.removal_planner()
        plan = planner.plan(
            {key.shard for key, _ in fresh},
            strategy,
            _assumed_pools(session.settings),
            session.settings.policy.deadline_seconds,
            warnings=[*self._approval_wanted(fresh), *self._keys.warnings([key for key, _ in fresh])],
            fresh=fresh,
        )
        return replace(plan, quality=session.database.evaluations.expected())

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
                it or could not be told; then, for some seconds at most, until the new version's quality is known. One
                that is PROPOSED is not waited for: another caller has to approve it.
            watch: Called with a snapshot after every step while waiting.

        Returns:
            JSON-able report of the request; `models` says how far it is in linked models.

        Raises:
            RequestError: The request is empty, unknown, or would leave nothing to train on; nothing was changed.
            ConflictError: The idempotency key was used with another payload; nothing was changed.
            AdmissionError: The caller's limits are reached; nothing was changed.
            StrategyUnavailableError: The strategy does not fit the optimizer or the model; nothing was changed.
        """
        session = self._session
        ids, groups = list(ids), list(groups)
        if reason := unavailable(strategy, session.settings.optimizer.name):
            raise StrategyUnavailableError(
                f"strategy {strategy} is not available", got=reason, remedy="use auto or retrain"
            )
        self._keys.refuse_many(ids, groups)
        admission = session.settings.admission
        session.refresh()
        if strategy != "auto" and needs_model(strategy) and (reason := self._unfit.get(strategy)):
            raise StrategyUnavailableError(
                f"strategy {strategy} is not available", got=reason, remedy="use auto or retrain"
            )
        within = None if deadline_seconds is None else float(deadline_seconds)  # 60 and 60.0 are one deadline
        asked = [sorted(map(str, ids)), sorted(map(str, groups)), strategy, within, ignore_unknown]
        repeat = seal(session.guard.seals, caller, key, asked, None if key is None else self._keys.macs(ids, groups))
        request = session.ledger.find_repeat(repeat)
        if request is None:
            register_receivers(session)
            mac = session.guard.stamp()
            found, purged, unknown = self._keys.resolve(ids, groups, ignore_unknown, mac)
            request = session.ledger.accept(
                found,
                purged=purged,
                absent=self._keys.named(unknown, mac),
                strategy=strategy,
                caller=caller,
                limits=Limits(admission.open_requests, admission.requests_per_minute),
                repeat=repeat,
                deadline_seconds=deadline_seconds or session.settings.policy.deadline_seconds,
                ignored_unknown=len(unknown),
                training_rows=session.lake.manifest.training_rows,
                listed=self._keys.listed(ids, groups),
                approval=approval_rule(session.settings),
            )
        if wait and request.state is not RequestState.PROPOSED:
            self.wait(request.request_id, watch)
            self._wait_for_delivery(request.request_id, watch)
            self._wait_for_quality(request.request_id, watch)
        return self._reports.report(request.request_id)

    def _approval_wanted(self, fresh: Sequence[tuple[ResolvedKey, int]]) -> list[str]:
        """Return a plan's warning that somebody else has to approve the request; none where nobody has to."""
        wanted = approval_rule(self._session.settings).wanted(*size(fresh))
        return ["another caller has to approve it: it is PROPOSED until then, and nothing is done"] if wanted else []

    @cached_property
    def _unfit(self) -> dict[str, str]:
        found = self._session.removal_planner().unfit
        return {str(name): reason for name, reason in found.items()}

    @checked
    def has_numbers(self, kind: Kind) -> bool:
        """Return whether ids or groups are integers in the tables.

        Args:
            kind: `id` or `group`.
        """
        session = self._session
        session.refresh()
        manifest = session.lake.manifest
        return "int" in ((manifest.id_type if kind == "id" else manifest.group_type) or "")

    @checked
    def cancel(self, request_id: Name, caller: Caller = "") -> dict[str, Any]:
        """Return the report of a request that was taken back: possible only until it is planned, or while PROPOSED.

        Args:
            request_id: The request.
            caller: Who takes it back, for the log.

        Raises:
            StateError: It is past RECEIVED, or a linked model passed it on.
        """
        session = self._session
        session.check_bound()
        session.ledger.cancel(request_id, caller)
        return self._reports.report(request_id)

    @checked
    def approve(self, request_id: Name, caller: Caller) -> dict[str, Any]:
        """Return the report of a request that was PROPOSED, and is committed now: a second person approves it.

        What it names is looked for again: rows that came in since are revoked as well, what others had purged is not
        revoked again. Its deadline is as it was.

        Args:
            request_id: The request.
            caller: Who approves it; not who asked for it.

        Raises:
            RequestError: The caller is the one who asked for it, or has no name.
            WouldEmptyError: No training row would be left.
            StateError: It does not wait for an approval, or rows of it are still being ingested.
        """
        session = self._session
        looked_at = session.ingestions.stamp()
        session.refresh()
        proposed = session.database.approvals.named(request_id)
        found, absent = self._keys.again(() if proposed is None else proposed.keys)
        session.ledger.approve(
            request_id,
            caller,
            found,
            absent=absent,
            training_rows=session.lake.manifest.training_rows,
            looked_at=looked_at,
        )
        return self._reports.report(request_id)

    @checked
    def retry(self, request_id: Name, strategy: Strategy = "auto") -> dict[str, Any]:
        """Return the report of a failed request that is taken up again; a coordinator fulfils it.

        Args:
            request_id: The request.
            strategy: How it is to be fulfilled now.

        Raises:
            StateError: It did not fail.
        """
        session = self._session
        session.check_bound()
        session.ledger.retry(request_id, strategy)
        return self._reports.report(request_id)

    @checked
    def wait(self, request_id: Name, watch: Watch = None) -> ForgetRequest:
        """Follow the running coordinator, or become it, until a request is served.

        Args:
            request_id: The request.
            watch: Called with a snapshot after every step made here.

        Returns:
            The request in its final state.

        Raises:
            StateError: The request was cancelled, or waits for an approval.
            HybridMUError: The request failed.
        """
        session = self._session
        while (request := session.ledger.request(request_id)).state not in _FINAL:
            if request.state is RequestState.PROPOSED:
                raise StateError(
                    f"request {request_id} waits for another caller's approval",
                    expected="a request that a coordinator can fulfil",
                    remedy=f"`hybridmu requests approve {request_id}`, by somebody else than its caller",
                )
            session.coordination.follow(watch)
        if request.state is RequestState.FAILED:
            raise HybridMUError(
                f"request {request_id} failed",
                got=request.reason or "",
                remedy="its rows stay revoked; remove the cause, then send the request again under another key",
            )
        if request.state is RequestState.CANCELLED:
            raise StateError(f"request {request_id} was cancelled", remedy="send it again under another key")
        return request

    def _wait_for_delivery(self, request_id: str, watch: Watcher | None) -> None:
        """Follow the running coordinator, or become it, until every linked model has a request or could not be told."""
        session = self._session
        since = time.time()

        def open_() -> bool:
            forwards = session.linked.forwards.of_request(request_id)
            return any(f.state is ForwardState.WAITING and (f.tried_at or 0.0) < since for f in forwards)

        while open_():
            session.coordination.follow(watch)

    def _wait_for_quality(self, request_id: str, watch: Watcher | None) -> None:
        """Follow the running coordinator, or become it, until the quality of a request's version is known.

        It is a report's last line, not a promise: a coordinator that does not come to it is not waited for.
        """
        session = self._session
        version, until = session.ledger.request(request_id).version_after, time.monotonic() + _QUALITY_SECONDS
        evaluations = session.database.evaluations
        if not session.settings.evaluation.every_version:
            return
        while version is not None and time.monotonic() < until and evaluations.awaits(version):
            session.coordination.follow(watch)


def approval_rule(settings: Settings) -> ApprovalRule:
    """Return which deletions a second person has to approve."""
    return ApprovalRule(settings.admission.approval_rows, settings.admission.approval_groups)


def _assumed_pools(settings: Settings) -> Pools:
    """Return the configured pools, or those of this machine: a plan is shown without starting a cluster."""
    cluster = settings.cluster
    fitting = max(1, int((os.cpu_count() or 1) / cluster.cpus_per_shard))
    return Pools(cluster.max_parallel or fitting, cluster.updaters)
