"""Endpoints that plan, accept, approve and take back deletion requests."""

# ruff: noqa: DOC201 - the interface's own description shows these docstrings
from __future__ import annotations

from dataclasses import asdict
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from hybridmu.report.json_values import finite
from hybridmu.server import schemas
from hybridmu.server.call_lanes import CallLanes
from hybridmu.server.deletions import agree, submit, take_back
from hybridmu.server.json_body import body_schema, json_body
from hybridmu.server.request_lists import RequestId
from hybridmu.server.schemas import Forget, Keys, PlanAnswer, Report
from hybridmu.server.token_scope_checks import ForgetToken
from hybridmu.system.system import System


class DeletionRoutes:
    """Endpoints for callers who may forget.

    Args:
        lanes: Where the work is done.
        most_keys: Ids and groups in one call.
    """

    def __init__(self, lanes: CallLanes, most_keys: int) -> None:
        self._lanes, self._most_keys = lanes, most_keys

    def router(self) -> APIRouter:
        """Return the routes."""
        router = APIRouter()
        router.post("/v1/forget", status_code=202, response_model=Report, openapi_extra=body_schema(Forget))(
            self.forget
        )
        router.post("/v1/plan", response_model=PlanAnswer, openapi_extra=body_schema(Keys))(self.plan)
        router.post("/v1/requests/{request_id}/cancel", response_model=Report)(self.cancel)
        router.post("/v1/requests/{request_id}/approve", response_model=Report)(self.approve)
        return router

    async def forget(self, request: Request, token: ForgetToken) -> Any:
        """Commit a deletion request; durable when this answers. The same key and body again give the same request."""
        raw = await json_body(request)

        def work(system: System) -> Response:
            body = schemas.read(Forget, raw, self._most_keys)
            return JSONResponse(finite(submit(system, body, token)), 202)

        return await self._lanes.for_deletion(raw).run_call(token.caller, work)

    async def plan(self, request: Request, token: ForgetToken) -> Any:
        """Show what a request would do and cost, without doing it."""
        raw = await json_body(request)

        def work(system: System) -> Response:
            body = schemas.read(Keys, raw, self._most_keys)
            found = system.plan(
                ids=body.ids, groups=body.groups, strategy=body.strategy, ignore_unknown=body.ignore_unknown
            )
            return JSONResponse(finite({**asdict(found), "explanation": found.explain()}))

        return await self._lanes.for_plan(raw).run_call(token.caller, work)

    async def cancel(self, request_id: RequestId, token: ForgetToken) -> Any:
        """Take back a request of one's own that nobody began to fulfil; its rows are live again."""

        def work(system: System) -> Response:
            return JSONResponse(finite(take_back(system, request_id, token)))

        return await self._lanes.deletions.run_call(token.caller, work)

    async def approve(self, request_id: RequestId, token: ForgetToken) -> Any:
        """Approve a request that another caller proposed; who may not see it can't. It is committed then."""

        def work(system: System) -> Response:
            return JSONResponse(finite(agree(system, request_id, token)))

        return await self._lanes.deletions.run_call(token.caller, work)
