"""Reports and lists of deletion requests as JSON-able data."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from hybridmu.errors import StateError
from hybridmu.store.certificates import Certificates
from hybridmu.system.arguments import AnyCaller, AnyCount, Count, Name, States, checked
from hybridmu.system.quality_reports import quality_of
from hybridmu.system.session import Session
from hybridmu.types import ForgetRequest


class RequestReports:
    """Reports of one system's deletion requests.

    Args:
        session: The open system.
    """

    def __init__(self, session: Session) -> None:
        self._session = session

    @checked
    def requests(self, states: States = (), caller: AnyCaller = None) -> list[dict[str, Any]]:
        """Return requests in the order in which they were accepted, as JSON-able data.

        Args:
            states: Only those in one of these states.
            caller: Only those of this caller.
        """
        session = self._session
        session.check_bound()
        return [_plain(request) for request in session.ledger.requests(states, caller)]

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
        session = self._session
        session.check_bound()
        found = session.pages.page(caller=caller, states=tuple(states), limit=limit, before=before)
        return {"requests": [_plain(request) for request in found.requests], "next_before": found.next_before}

    @checked
    def certificate(self, request_id: Name) -> dict[str, Any]:
        """Return the signed certificate of a purged request, as `hybridmu certificate verify` takes it.

        Raises:
            RequestError: There is no such request.
            StateError: It is not purged yet, or had no row here.
        """
        session = self._session
        session.check_bound()
        request = session.ledger.request(request_id)
        if request.certificate is None:
            raise StateError(
                f"request {request_id} has no certificate",
                expected="a request that is purged, with rows in this system",
                got=str(request.state),
                remedy="`System.run(until_idle=True)` purges what is due",
            )
        return Certificates(session.site.storage).get(request.certificate)

    @checked
    def report(self, request_id: Name) -> dict[str, Any]:
        """Return one request as JSON-able data, with its times and plan against actual per round and shard.

        `seconds_to_applied` is when the approximate or the exact removal was published, `seconds_to_exact` when every
        shard was exact; `owes_exact_repair` lists the shards that are not yet, and `repair` says when they will be.
        `approval` says who approved it, where a second person had to.
        """
        session = self._session
        session.check_bound()
        request = session.ledger.request(request_id)
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
            for row in session.measurements.outcomes(request_id)
        ]
        names = ("deadline", "planned", "applied", "served", "exact", "purged")
        moments = {name: getattr(request, f"{name}_at") for name in names}
        versions = {"before": request.version_before, "after": request.version_after, "exact": request.version_exact}
        measured, approval = quality_of(session, *versions.values()), session.database.approvals.of_request(request_id)
        return {
            **asdict(request),
            "state": str(request.state),
            "approval": None if approval is None else asdict(approval),
            "models": session.linked.report(request_id, request.received_at),
            **{f"seconds_to_{name}": at - request.received_at if at else None for name, at in moments.items()},
            "owes_exact_repair": self._owed(request),
            "repair": session.settings.policy.repair,
            "quality": {when: measured.get(version or 0) for when, version in versions.items()},
            "shards": shards,
        }

    def _owed(self, request: ForgetRequest) -> list[int]:
        """Return the shards whose exact removal an applied request still waits for."""
        session = self._session
        if request.applied_at is None or request.exact_at is not None:
            return []
        exact = {sub.shard: sub.exact_upto for sub in session.registry.version().shards}
        needs = session.ledger.shards_of([request.request_id])[request.request_id]
        return sorted(shard for shard, upto in needs.items() if exact[shard] < upto)


def _plain(request: ForgetRequest) -> dict[str, Any]:
    """Return a request as JSON-able data; `asdict` would copy every field deeply, which a long list feels."""
    fields = {name: getattr(request, name) for name in ForgetRequest.__dataclass_fields__}
    return {**fields, "state": str(request.state)}
