"""The console's pages that show: requests, shards, quality, certificates. `console_actions` has those that act."""

from __future__ import annotations

import time
from typing import Annotated

from fastapi import APIRouter, Depends, Query
from fastapi.responses import JSONResponse, Response

from hybridmu.server import charts
from hybridmu.server.console_pages import PAGE_HEADERS, STYLE, quality_changes, quality_shown, render_page
from hybridmu.server.console_sign_in import ConsoleSignIn, SignedIn
from hybridmu.server.permissions import certificate, visible
from hybridmu.server.request_life import Surroundings, next_step, steps
from hybridmu.server.request_lists import NAME, RequestId, list_requests
from hybridmu.server.worker_lanes import Lane
from hybridmu.system.system import System
from hybridmu.types import RequestState
from hybridmu.verifier.statements import shown_by

_REFRESH_SECONDS = 10
_SHOWN = 50
_POINTS = 200


_Before = Annotated[str | None, Query(max_length=40, pattern=NAME)]


class ConsoleRoutes:
    """Pages under `/console`.

    Args:
        sign_in: Which browsers see them.
        lane: Where they are made.
    """

    def __init__(self, sign_in: ConsoleSignIn, lane: Lane) -> None:
        self._sign_in, self._lane = sign_in, lane

    def router(self) -> APIRouter:
        """Return the routes."""
        pages = APIRouter(include_in_schema=False, dependencies=[Depends(self._sign_in.admit)])
        pages.get("/console")(self.overview)
        pages.get("/console/requests/{request_id}")(self.request_)
        pages.get("/console/certificates/{request_id}")(self.certificate_)
        pages.get("/console/exclusions")(self.exclusions)
        router = APIRouter(include_in_schema=False)
        router.get("/console/style.css")(self.style)
        router.include_router(pages)
        return router

    async def style(self) -> Response:
        """Return the style sheet, which the page that asks for a token needs too."""
        return Response(STYLE, media_type="text/css", headers={"Cache-Control": "no-cache"})

    async def overview(self, token: SignedIn, state: RequestState | None = None, before: _Before = None) -> Response:
        """Return the page of requests, shards and plots."""

        def work(system: System) -> Response:
            status, vitals, outcomes = system.status(), system.vitals(), system.measurements.recent(_POINTS)
            listed = list_requests(system, token, states=[state] if state else [], limit=_SHOWN, before=before)
            return render_page(
                "overview",
                token=token,
                refresh=_REFRESH_SECONDS if before is None else None,
                again="/console?again=1" + (f"&state={state}" if state else ""),
                status=status,
                quality=quality_shown(status["quality"]),
                requests=listed["requests"],
                state=state,
                before=before,
                next=listed["next"],
                overdue=vitals.overdue,
                now=time.time(),
                last={row["shard"]: row for row in reversed(outcomes)},
                plots={
                    "points": outcomes,
                    "strategies": sorted({row["strategy"] for row in outcomes}),
                    "figures": [charts.plan_and_actual(outcomes), charts.boundary(outcomes)],
                },
            )

        return await self._lane.run_call(token.caller, work)

    async def request_(self, request_id: RequestId, token: SignedIn) -> Response:
        """Return the page of one request."""

        def work(system: System) -> Response:
            request = visible(system, request_id, token)
            shows = shown_by(certificate(system, request_id, token)[1]) if request.certificate is not None else []
            relies_on = system.ledger.relies_on(request.request_id)
            report, policy = system.report(request.request_id), system.settings.policy
            around = Surroundings(
                coordinator=system.lease.holder() is not None,
                paused=system.controls.paused() is not None,
                collect_seconds=policy.batch_seconds,
            )
            return render_page(
                "request",
                token=token,
                report=report,
                life=steps(report, time.time(), quarantine=policy.quarantine),
                next=next_step(report, around),
                quality=quality_changes(report),
                shows=shows,
                relies_on=relies_on,
            )

        return await self._lane.run_call(token.caller, work)

    async def certificate_(self, request_id: RequestId, token: SignedIn) -> Response:
        """Return a certificate as a file to be saved."""

        def work(system: System) -> Response:
            number, document = certificate(system, request_id, token)
            name = f'attachment; filename="certificate-{number}.json"'
            return JSONResponse(document, headers={**PAGE_HEADERS, "Content-Disposition": name})

        return await self._lane.run_call(token.caller, work)

    async def exclusions(self, token: SignedIn) -> Response:
        """Return what must not be trained on again, as a file to be saved."""

        def work(system: System) -> Response:
            document = system.exclusions()
            name = f'attachment; filename="exclusions-{document["version"]}.json"'
            return JSONResponse(document, headers={**PAGE_HEADERS, "Content-Disposition": name})

        return await self._lane.run_call(token.caller, work)
