"""Endpoints for monitoring: the ledger's metrics, and whether requests can be accepted."""

# ruff: noqa: DOC201 - the interface's own description shows these docstrings
from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from fastapi.responses import PlainTextResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST

from hybridmu.server.call_lanes import CallLanes
from hybridmu.server.prometheus import exposition
from hybridmu.server.token_scope_checks import AuditToken
from hybridmu.system.system import System


class HealthRoutes:
    """Endpoints for Prometheus and for an orchestrator's probe.

    Args:
        lanes: Where the work is done.
    """

    def __init__(self, lanes: CallLanes) -> None:
        self._lanes = lanes

    def router(self) -> APIRouter:
        """Return the routes."""
        router = APIRouter()
        router.get("/metrics", response_class=PlainTextResponse)(self.metrics)
        router.get("/healthz", responses={200: {"description": "requests can be accepted"}})(self.healthz)
        return router

    async def metrics(self, token: AuditToken) -> Any:
        """Show the ledger's metrics in Prometheus' text format."""

        def work(system: System) -> Response:
            return PlainTextResponse(exposition(system.vitals()), media_type=CONTENT_TYPE_LATEST)

        return await self._lanes.reads.run_call(token.caller, work)

    async def healthz(self) -> dict[str, str]:
        """Answer 200 while the ledger can be reached."""
        await self._lanes.health.run_call("", lambda system: system.lease.holder())
        return {"status": "ok"}
