"""Endpoints that show requests, their certificates, and what must not be trained on again."""

# ruff: noqa: DOC201 - the interface's own description shows these docstrings
from __future__ import annotations

from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, Query
from fastapi.responses import JSONResponse, Response

from hybridmu.report.json_values import finite
from hybridmu.server.permissions import certificate, visible
from hybridmu.server.request_lists import NAME, RequestId, list_requests
from hybridmu.server.schemas import Report
from hybridmu.server.token_scope_checks import AuditToken, ReadToken
from hybridmu.server.worker_lanes import Lane
from hybridmu.system.system import System
from hybridmu.types import RequestState


class ReportRoutes:
    """Endpoints for callers who look at their requests, and for auditors.

    Args:
        lane: Where the work is done.
    """

    def __init__(self, lane: Lane) -> None:
        self._lane = lane

    def router(self) -> APIRouter:
        """Return the routes."""
        router = APIRouter()
        router.get("/v1/requests", response_model=list[Report])(self.requests)
        router.get("/v1/requests/{request_id}", response_model=Report)(self.request_)
        router.get("/v1/certificates/{request_id}", response_model=dict[str, Any])(self.certificate_)
        router.get("/v1/exclusions", response_model=dict[str, Any])(self.exclusions)
        return router

    async def requests(
        self,
        token: ReadToken,
        state: Annotated[list[RequestState] | None, Query(max_length=len(RequestState))] = None,
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
        before: Annotated[str | None, Query(max_length=40, pattern=NAME)] = None,
    ) -> Any:
        """List the caller's newest requests, an auditor all callers'; newest first.

        Where there are more, the header Link names the next part (`rel="next"`): those before the last one shown.
        """

        def work(system: System) -> Response:
            page = list_requests(system, token, states=state or (), limit=limit, before=before)
            answer = JSONResponse(finite(page["requests"]))
            if page["next"] is not None:
                query = [*(("state", one) for one in state or ()), ("limit", limit), ("before", page["next"])]
                answer.headers["Link"] = f'</v1/requests?{urlencode(query)}>; rel="next"'
            return answer

        return await self._lane.run_call(token.caller, work)

    async def request_(self, request_id: RequestId, token: ReadToken) -> Any:
        """Show every time of a request, what it still waits for, and plan against actual per round and shard."""

        def work(system: System) -> Response:
            return JSONResponse(finite(system.report(visible(system, request_id, token).request_id)))

        return await self._lane.run_call(token.caller, work)

    async def certificate_(self, request_id: RequestId, token: ReadToken) -> Any:
        """Return the signed certificate of a purged request, as `hybridmu certificate verify` takes it."""

        def work(system: System) -> Response:
            return JSONResponse(certificate(system, request_id, token)[1])  # the very document: its digits are signed

        return await self._lane.run_call(token.caller, work)

    async def exclusions(self, token: AuditToken, version: Annotated[int | None, Query(ge=1, lt=2**63)] = None) -> Any:
        """Return the signed manifest of what a version is without, the newest by default: keyed digests, no ids."""

        def work(system: System) -> Response:
            return JSONResponse(system.exclusions(version))  # the very document: its digits are signed

        return await self._lane.run_call(token.caller, work)
