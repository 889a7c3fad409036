"""The HTTP interface: the verbs of `System` for callers with a token; the same durable log as the command line.

It needs the ledger and storage, no Ray: requests are accepted while the cluster is down, and fulfilled when it is back.
Bodies, and so ids, are never logged; nothing of a token but its public part is. Whatever asks the ledger or storage
runs in a lane of threads: plans and deletions wait for each other alone, and the event loop for nobody.
"""

# No `from __future__ import annotations` here: FastAPI needs the real types of functions inside a function.
import logging
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import Depends, FastAPI, Query, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException

from hybridmu.config import Settings
from hybridmu.core.token_scopes import Scope, Token
from hybridmu.report.json_values import finite
from hybridmu.server import schemas
from hybridmu.server.body_limit import BodyLimit
from hybridmu.server.console import add_console
from hybridmu.server.entry import Entry, Gate
from hybridmu.server.error_responses import Faults, add_refusals
from hybridmu.server.headers import SafeHeaders
from hybridmu.server.hosts import AllowedHosts, allowed_hosts
from hybridmu.server.lanes import Lane
from hybridmu.server.permissions import certificate, refuse_cancelling, visible
from hybridmu.server.prometheus import exposition
from hybridmu.server.request_lists import NAME, RequestId, list_requests
from hybridmu.server.schemas import Forget, Keys, PlanAnswer, Problem, Report
from hybridmu.store.ledger.console_sessions import ConsoleSessions
from hybridmu.store.ledger.tokens import Tokens
from hybridmu.system.system import System
from hybridmu.types import RequestState

_log = logging.getLogger("hybridmu.api")
_REFUSALS = {401: "no token that counts", 403: "not with this token", 413: "the body is too long"}
_REFUSALS |= {404: "there is none, or not for this caller", 415: "not JSON", 422: "not as the schema says"}
_REFUSALS |= {409: "not in the state for that", 429: "too many calls or requests", 503: "ledger or storage is away"}
_REFUSALS |= {421: "called by a name that is not of this host", 500: "a fault; the log has more"}
_LONG = 16 * 1024  # bytes of a body: a thousand ids take some milliseconds, a hundred thousand some seconds
_UTF_8 = ("", "charset=utf-8", 'charset="utf-8"')


def make_app(settings: Settings) -> FastAPI:
    """Return the ASGI application over one system.

    Args:
        settings: The configuration.
    """
    api = settings.api

    def lane(name: str, workers: int) -> Lane:
        # None of the systems starts anything that would have to be closed.
        return Lane(name, [System(settings, "local") for _ in range(workers)], api.waiting)

    looks = lane("look", api.workers)
    health = Lane("health", [System(settings, "local")], api.connections)  # a probe is never one too many
    plans, deletions = lane("plan", api.key_workers), lane("forget", api.key_workers)
    long_plans, long_deletions = lane("long-plan", 1), lane("long-forget", 1)
    engine = System(settings, "local").session.engine
    entry = Entry(Tokens(engine), api)
    refusals: dict[int | str, dict[str, Any]] = {
        code: {"model": Problem, "description": text} for code, text in _REFUSALS.items()
    }
    app = FastAPI(
        title="HybridMU",
        description="Deletion requests, plans and certificates.",
        version="1",
        docs_url=None,  # its page would load scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,  # a redirect would repeat the name that the caller gave us
        responses=refusals,
    )
    bearer = HTTPBearer(auto_error=False, description="`hybridmu tokens create`")

    def allowed(*scopes: Scope) -> Callable[..., Awaitable[Token]]:
        async def admit(
            request: Request, _: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)] = None
        ) -> Token:
            token: Token = request.state.token  # from the gate
            if not token.allows(*scopes):
                raise HTTPException(403, f"this token is not for {' or '.join(scopes)}")
            return token

        return admit

    async def body_of(request: Request) -> bytes:
        raw = await request.body()
        kind, _, parameters = request.headers.get("content-type", "").lower().partition(";")
        if kind.strip() != "application/json" or parameters.strip() not in _UTF_8:
            raise HTTPException(415, "the body must be application/json in UTF-8")
        return raw

    Forgets = Annotated[Token, Depends(allowed("forget"))]
    Looks = Annotated[Token, Depends(allowed("forget", "audit"))]
    Audits = Annotated[Token, Depends(allowed("audit"))]
    most = settings.admission.keys_per_request

    @app.post("/v1/forget", status_code=202, response_model=Report, openapi_extra=_takes(Forget))
    async def forget(request: Request, token: Forgets) -> Any:
        """Commit a deletion request; durable when this answers. The same key and body again give the same request."""
        raw = await body_of(request)

        def work(system: System) -> Response:
            body = schemas.read(Forget, raw, most)
            report = system.forget(
                ids=body.ids,
                groups=body.groups,
                strategy=body.strategy,
                key=body.key,
                caller=token.caller,
                deadline_seconds=body.deadline_seconds,
                ignore_unknown=body.ignore_unknown,
            )
            _log.info("request %s accepted by token %s", report["request_id"], token.token_id)
            return JSONResponse(finite(report), 202)

        return await (long_deletions if len(raw) > _LONG else deletions).run(token.caller, work)

    @app.post("/v1/plan", response_model=PlanAnswer, openapi_extra=_takes(Keys))
    async def plan(request: Request, token: Forgets) -> Any:
        """Show what a request would do and cost, without doing it."""
        raw = await body_of(request)

        def work(system: System) -> Response:
            body = schemas.read(Keys, raw, most)
            found = system.plan(
                ids=body.ids, groups=body.groups, strategy=body.strategy, ignore_unknown=body.ignore_unknown
            )
            return JSONResponse(finite({**asdict(found), "explanation": found.explain()}))

        return await (long_plans if len(raw) > _LONG else plans).run(token.caller, work)

    @app.get("/v1/requests", response_model=list[Report])
    async def requests(
        token: Looks,
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

        return await looks.run(token.caller, work)

    @app.get("/v1/requests/{request_id}", response_model=Report)
    async def request_(request_id: RequestId, token: Looks) -> Any:
        """Show every time of a request, what it still waits for, and plan against actual per round and shard."""

        def work(system: System) -> Response:
            return JSONResponse(finite(system.report(visible(system, request_id, token).request_id)))

        return await looks.run(token.caller, work)

    @app.post("/v1/requests/{request_id}/cancel", response_model=Report)
    async def cancel(request_id: RequestId, token: Forgets) -> Any:
        """Take back a request of one's own that nobody began to fulfil; its rows are live again."""

        def work(system: System) -> Response:
            refuse_cancelling(visible(system, request_id, token), token)
            report = system.cancel(request_id, token.caller)
            _log.info("request %s taken back by token %s", request_id, token.token_id)
            return JSONResponse(finite(report))

        return await deletions.run(token.caller, work)

    @app.get("/v1/certificates/{request_id}", response_model=dict[str, Any])
    async def certificate_(request_id: RequestId, token: Looks) -> Any:
        """Return the signed certificate of a purged request, as `hybridmu certificate verify` takes it."""
        # The very document: every digit of it is signed.
        return await looks.run(token.caller, lambda system: JSONResponse(certificate(system, request_id, token)[1]))

    @app.get("/metrics", response_class=PlainTextResponse)
    async def metrics(token: Audits) -> Any:
        """Show the ledger's metrics in Prometheus' text format."""

        def work(system: System) -> Response:
            return PlainTextResponse(exposition(system.vitals()), media_type=CONTENT_TYPE_LATEST)

        return await looks.run(token.caller, work)

    @app.get("/healthz", responses={200: {"description": "requests can be accepted"}})
    async def healthz() -> dict[str, str]:
        """Answer 200 while the ledger can be reached."""
        await health.run("", lambda system: system.lease.holder())
        return {"status": "ok"}

    sessions = ConsoleSessions(engine, api.console_seconds, api.console_idle_seconds)
    add_console(app, entry, sessions, looks)
    add_refusals(app)
    # The last one added is the first to be asked.
    app.add_middleware(Gate, entry=entry)
    app.add_middleware(BodyLimit, limit=api.body_bytes)
    app.add_middleware(AllowedHosts, hosts=allowed_hosts(api))
    app.add_middleware(Faults)
    app.add_middleware(SafeHeaders)
    return app


def _takes(model: type[Keys]) -> dict[str, Any]:
    """Return what the schema says of a body that is read in a lane, where a long one keeps nobody waiting."""
    content = {"application/json": {"schema": model.model_json_schema()}}
    return {"requestBody": {"required": True, "content": content}}
