"""The HTTP interface: the verbs of `System` for callers with a token; the same durable log as the command line.

It needs the ledger and storage, no Ray: requests are accepted while the cluster is down, and fulfilled when it is back.
Bodies, and so ids, are never logged; nothing of a token but its public part is.
"""

# No `from __future__ import annotations` here: FastAPI needs the real types of functions inside a function.
import logging
import math
import queue
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Path, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException

from hybridmu.config import Settings
from hybridmu.core.access import Scope, Token
from hybridmu.errors import (
    AdmissionError,
    ConflictError,
    CorruptBlobError,
    DatabaseError,
    DataError,
    HybridMUError,
    RequestError,
    StateError,
    StorageError,
    StrategyUnavailableError,
    WouldEmptyError,
)
from hybridmu.gateway.bodies import Forget, Keys, PlanAnswer, Problem, Report, problem
from hybridmu.gateway.console import add_console
from hybridmu.gateway.length import BodyLimit
from hybridmu.gateway.metrics import exposition
from hybridmu.report.plain import finite
from hybridmu.serving.door import Buckets, Door
from hybridmu.store.certificates import Certificates
from hybridmu.store.sql.tokens import Tokens
from hybridmu.system import System
from hybridmu.types import RequestState

_log = logging.getLogger("hybridmu.api")
# What an error of ours is over HTTP; the first kind that fits counts.
_CODES: tuple[tuple[type[HybridMUError], int], ...] = (
    (AdmissionError, 429),
    (ConflictError, 409),
    (WouldEmptyError, 409),
    (RequestError, 422),
    (DataError, 422),
    (StrategyUnavailableError, 422),
    (DatabaseError, 503),
    (StorageError, 503),
    (StateError, 409),
    (CorruptBlobError, 500),
)
_REFUSALS = {401: "no token that counts", 403: "the token has not the scope", 413: "the body is too long"}
_REFUSALS |= {400: "not HTTP or JSON", 404: "there is none, or not for this caller", 422: "not as the schema says"}
_REFUSALS |= {409: "not in the state for that", 429: "too many calls or requests", 503: "ledger or storage is away"}
RequestId = Annotated[str, Path(max_length=40, pattern=r"^[0-9A-Za-z_-]+$")]


def make_app(settings: Settings) -> FastAPI:
    """Return the ASGI application over one system.

    Args:
        settings: The configuration.
    """
    systems: queue.LifoQueue[System] = queue.LifoQueue()
    for _ in range(settings.api.workers):  # none of them starts anything that would have to be closed
        systems.put(System(settings, "local"))
    door = Door(Tokens(_first(systems)._engine).all, settings.api.token_seconds)
    buckets = Buckets(settings.api.requests_per_second, settings.api.burst)

    @contextmanager
    def system() -> Iterator[System]:
        taken = systems.get()  # a system is used by one thread at a time
        try:
            yield taken
        finally:
            systems.put(taken)

    refusals: dict[int | str, dict[str, Any]] = {
        code: {"model": Problem, "description": text} for code, text in _REFUSALS.items()
    }
    app = FastAPI(
        title="HybridMU",
        description="Deletion requests, plans and certificates.",
        version="1",
        docs_url=None,  # its page would load scripts from elsewhere
        redoc_url=None,
        responses=refusals,
    )
    bearer = HTTPBearer(auto_error=False, description="`hybridmu tokens create`")

    def enter(request: Request, text: str) -> Token | None:
        """Return the token that counts, within the limits on calls."""
        token = door.enter(text)
        host = request.client.host if request.client else ""
        if wait := buckets.take(token.token_id if token else f"@{host}"):
            raise HTTPException(429, "too many calls", {"Retry-After": str(math.ceil(wait))})
        return token

    def allowed(*scopes: Scope) -> Callable[..., Token]:
        def admit(
            request: Request, given: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)] = None
        ) -> Token:
            token = enter(request, given.credentials if given else "")
            if token is None:
                raise HTTPException(401, "no token that counts", {"WWW-Authenticate": "Bearer"})
            if not token.allows(*scopes):
                raise HTTPException(403, f"this token is not for {' or '.join(scopes)}")
            return token

        return admit

    def visible(taken: System, request_id: str, token: Token) -> dict[str, Any]:
        """Return a report; a request of somebody else is as if it were not there."""
        only = _only(token)
        try:
            known = taken.ledger.request(request_id)
        except DatabaseError:
            raise
        except StateError:
            known = None
        if known is None or only not in {None, known.caller}:
            raise HTTPException(404, "there is no such request" + (" of yours" if only else ""))
        return taken.report(request_id)

    Forgets = Annotated[Token, Depends(allowed("forget"))]
    Looks = Annotated[Token, Depends(allowed("forget", "audit"))]

    @app.post("/v1/forget", status_code=202, response_model=Report)
    def forget(body: Forget, token: Forgets) -> Any:
        """Commit a deletion request; durable when this answers. The same key and body again give the same request."""
        with system() as taken:
            report = taken.forget(
                ids=body.ids,
                groups=body.groups,
                strategy=body.strategy,
                key=body.key,
                caller=token.caller,
                deadline_seconds=body.deadline_seconds,
                ignore_unknown=body.ignore_unknown,
            )
        _log.info("request %s accepted by token %s", report["request_id"], token.token_id)
        return finite(report)

    @app.post("/v1/plan", response_model=PlanAnswer)
    def plan(body: Keys, token: Forgets) -> Any:
        """Show what a request would do and cost, without doing it."""
        with system() as taken:
            found = taken.plan(
                ids=body.ids, groups=body.groups, strategy=body.strategy, ignore_unknown=body.ignore_unknown
            )
        return finite({**asdict(found), "explanation": found.explain()})

    @app.get("/v1/requests", response_model=list[Report])
    def requests(
        token: Looks,
        state: Annotated[list[RequestState] | None, Query()] = None,
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    ) -> Any:
        """List the caller's newest requests, an auditor all callers'; newest first."""
        with system() as taken:
            return finite(taken.requests(state or (), _only(token))[::-1][:limit])

    @app.get("/v1/requests/{request_id}", response_model=Report)
    def request_(request_id: RequestId, token: Looks) -> Any:
        """Show every time of a request, what it still waits for, and plan against actual per round and shard."""
        with system() as taken:
            return finite(visible(taken, request_id, token))

    @app.post("/v1/requests/{request_id}/cancel", response_model=Report)
    def cancel(request_id: RequestId, token: Forgets) -> Any:
        """Take back a request that nobody began to fulfil; its rows are live again."""
        with system() as taken:
            visible(taken, request_id, token)
            report = taken.cancel(request_id, token.caller)
        _log.info("request %s taken back by token %s", request_id, token.token_id)
        return finite(report)

    @app.get("/v1/certificates/{request_id}", response_model=dict[str, Any])
    def certificate(request_id: RequestId, token: Looks) -> Any:
        """Return the signed certificate of a purged request, as `hybridmu certificate verify` takes it."""
        with system() as taken:
            number = visible(taken, request_id, token)["certificate"]
            if number is None:
                raise HTTPException(404, "this request has no certificate yet: it is not purged")
            # The very document: every digit of it is signed.
            return JSONResponse(Certificates(taken.site.storage).get(number))

    @app.get("/metrics", response_class=PlainTextResponse)
    def metrics(_: Annotated[Token, Depends(allowed("audit"))]) -> Any:
        """Show the ledger's metrics in Prometheus' text format."""
        with system() as taken:
            return PlainTextResponse(exposition(taken.vitals()), media_type=CONTENT_TYPE_LATEST)

    @app.get("/healthz", responses={200: {"description": "requests can be accepted"}})
    def healthz() -> dict[str, str]:
        """Answer 200 while the ledger can be reached."""
        with system() as taken:
            taken.lease.holder()
        return {"status": "ok"}

    add_console(app, enter, system, visible)
    _handlers(app)
    app.add_middleware(BodyLimit, limit=settings.api.body_bytes)
    return app


def _first(systems: "queue.LifoQueue[System]") -> System:
    taken = systems.get()
    systems.put(taken)
    return taken


def _only(token: Token) -> str | None:
    """Return whose requests a token may see; None: everybody's."""
    return None if token.allows("audit") else token.caller


def _handlers(app: FastAPI) -> None:
    """Make every refusal a `Problem`."""

    async def ours(_: Request, error: Exception) -> Response:
        assert isinstance(error, HybridMUError)
        code = next((code for kind, code in _CODES if isinstance(error, kind)), 500)
        headers = {"Retry-After": "5"} if code in {429, 503} else None
        return JSONResponse(problem(error).model_dump(), code, headers)

    async def theirs(_: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        body = Problem(error="Refused", what=str(error.detail)).model_dump()
        return JSONResponse(body, error.status_code, error.headers)

    async def invalid(_: Request, error: Exception) -> Response:
        # Without what was sent: answers end in other people's logs.
        assert isinstance(error, RequestValidationError)
        says = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors()[:10])
        body = Problem(error="RequestValidationError", what="the call is not as /openapi.json says", got=says)
        return JSONResponse(body.model_dump(), 422)

    handlers: dict[type[Exception], Callable[[Request, Exception], Awaitable[Response]]] = {
        HybridMUError: ours,
        HTTPException: theirs,
        RequestValidationError: invalid,
    }
    for kind, handler in handlers.items():
        app.add_exception_handler(kind, handler)
