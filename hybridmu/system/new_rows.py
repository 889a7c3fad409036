"""New and corrected rows of a trained system, and the forgotten keys that may come in again."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from hybridmu.errors import HybridMUError, RequestError
from hybridmu.store.dataset.key_lookup import Lookup, RawKey
from hybridmu.store.ledger.accept.accept import Limits
from hybridmu.system.arguments import (
    AnyCount,
    Caller,
    Deadline,
    Flag,
    IdempotencyKey,
    Keys,
    Name,
    Reason,
    Slices,
    Source,
    Watch,
    checked,
)
from hybridmu.system.encoding import encoding
from hybridmu.system.request_reports import RequestReports
from hybridmu.system.session import Session
from hybridmu.system.webhook_operations import register_receivers
from hybridmu.types import IngestState, KeyKind


class NewRows:
    """Rows that come in later; a correction is a deletion request as well.

    Args:
        session: The open system.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._reports = RequestReports(session)

    @checked
    def ingest(
        self,
        source: Source,
        *,
        slices: Slices = 1,
        epochs: AnyCount = None,
        key: IdempotencyKey = None,
        caller: Caller = "",
        wait: Flag = False,
        watch: Watch = None,
    ) -> dict[str, Any]:
        """Commit new rows for a trained system; durable when this returns.

        Every row is checked, and copied into storage, first. They become a generation of their own, and only its slices
        are trained. Rows whose id or group is forgotten are skipped and counted.

        Args:
            source: File in Parquet, Arrow IPC or CSV, or folder of them; path or URI.
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
        session = self._session
        session.refresh()
        with encoding(session) as encode:
            new = session.intake.receive(
                str(source), slices=slices, epochs=epochs, key=key, caller=caller, encode=encode
            )
        if wait:
            self.wait_for_rows(new.ingest_id, watch)
        return self.ingestion(new.ingest_id)

    @checked
    def correct(
        self,
        source: Source,
        *,
        key: IdempotencyKey = None,
        caller: Caller = "",
        deadline_seconds: Deadline = None,
        wait: Flag = False,
        watch: Watch = None,
    ) -> dict[str, Any]:
        """Commit corrected rows of existing ids: the old ones are forgotten and purged, then the new ones come in.

        Args:
            source: The same, with whole rows.
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
        session = self._session
        session.refresh()
        admission = session.settings.admission
        register_receivers(session)
        with encoding(session) as encode:
            request = session.intake.correct(
                str(source),
                key=key,
                caller=caller,
                limits=Limits(admission.open_requests, admission.requests_per_minute),
                deadline_seconds=deadline_seconds or session.settings.policy.deadline_seconds,
                encode=encode,
            )
        new = session.ingestions.of_request(request.request_id)
        assert new is not None
        if wait:
            self.wait_for_rows(new.ingest_id, watch)
        return {**self._reports.report(request.request_id), "ingestion": self.ingestion(new.ingest_id)}

    @checked
    def ingestion(self, ingest_id: Name) -> dict[str, Any]:
        """Return one ingestion as JSON-able data.

        Args:
            ingest_id: Its name.
        """
        session = self._session
        session.refresh()
        new = session.ingestions.get(ingest_id)
        moments = {name: getattr(new, f"{name}_at") for name in ("applied", "served")}
        seconds = {f"seconds_to_{name}": at - new.received_at if at else None for name, at in moments.items()}
        return {**asdict(new), "state": str(new.state), **seconds}

    @checked
    def ingests(self) -> list[dict[str, Any]]:
        """Return every ingestion, in the order in which they were accepted."""
        session = self._session
        session.check_bound()
        return [self.ingestion(new.ingest_id) for new in session.ingestions.all()]

    @checked
    def wait_for_rows(self, ingest_id: Name, watch: Watch = None) -> None:
        """Follow the running coordinator, or become it, until every answer knows the rows of an ingestion.

        Args:
            ingest_id: The ingestion.
            watch: Called with a snapshot after every step made here.

        Raises:
            HybridMUError: It failed.
        """
        session = self._session
        while (new := session.ingestions.get(ingest_id)).state in {IngestState.RECEIVED, IngestState.APPLIED}:
            session.coordination.follow(watch)
        if new.state is IngestState.FAILED:
            remedy = "none of its rows was accepted; correct them and ingest them again"
            raise HybridMUError(f"ingestion {ingest_id} failed", got=new.reason or "", remedy=remedy)

    @checked
    def readmit(self, *, ids: Keys = (), groups: Keys = (), reason: Reason, caller: Caller = "") -> dict[str, Any]:
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
        session = self._session
        session.refresh()
        lookup = Lookup(session.lake)
        kinds: list[tuple[KeyKind, object]] = [*(("id", x) for x in ids), *(("group", x) for x in groups)]
        if not kinds:
            raise RequestError("the readmission names no key", expected="at least one id or group")
        keys = [RawKey(kind, str(raw), lookup.typed(kind, raw)) for kind, raw in dict.fromkeys(kinds)]
        return {"readmitted": session.guard.readmit(keys, reason, caller)}

    @checked
    def accept_guard_loss(self, key_id: Name, *, reason: Reason, caller: Caller = "") -> dict[str, Any]:
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
        session = self._session
        session.check_bound()
        return {"key_id": key_id, "given_up": session.guard.accept_loss(key_id, reason, caller)}
