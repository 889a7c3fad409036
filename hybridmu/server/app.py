"""The HTTP interface: the verbs of `System` for callers with a token; the same durable log as the command line.

It needs the ledger and storage, no Ray: requests are accepted while the cluster is down, and fulfilled when it is back.
Bodies, and so ids, are never logged; nothing of a token but its public part is. Whatever asks the ledger or storage
runs in a lane of threads: plans and deletions wait for each other alone, and the event loop for nobody.
"""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI

from hybridmu.config import Settings
from hybridmu.server.authentication import Authentication, TokenGate
from hybridmu.server.body_limit import BodyLimit
from hybridmu.server.call_lanes import make_lanes
from hybridmu.server.console_actions import ConsoleActions
from hybridmu.server.console_routes import ConsoleRoutes
from hybridmu.server.console_sign_in import ConsoleSignIn
from hybridmu.server.deletion_routes import DeletionRoutes
from hybridmu.server.error_responses import ErrorResponses, add_refusals
from hybridmu.server.fides_routes import FidesRoutes
from hybridmu.server.headers import SafeHeaders
from hybridmu.server.health_routes import HealthRoutes
from hybridmu.server.hosts import AllowedHosts, allowed_hosts
from hybridmu.server.report_routes import ReportRoutes
from hybridmu.server.schemas import Problem
from hybridmu.system.system import System

_REFUSALS: dict[int | str, str] = {
    401: "the token is missing or not valid",
    403: "the token does not allow this",
    404: "it does not exist, or is another caller's",
    409: "the request's or the system's state does not allow this",
    413: "the body is too long",
    415: "the body is not JSON in UTF-8",
    421: "the Host header names another host",
    422: "the call does not fit the schema",
    429: "too many calls or requests",
    500: "an internal fault; the log has the details",
    503: "the ledger or storage is not available",
}


def make_app(settings: Settings) -> FastAPI:
    """Return the ASGI application over one system.

    Args:
        settings: The configuration.
    """
    api = settings.api
    database = System(settings, "local").database
    authentication = Authentication(database.tokens, api)
    sessions = database.sessions(api.console_seconds, api.console_idle_seconds)
    lanes = make_lanes(settings)
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
    sign_in = ConsoleSignIn(authentication, sessions)
    app.include_router(DeletionRoutes(lanes, settings.admission.keys_per_request).router())
    app.include_router(ReportRoutes(lanes.reads).router())
    app.include_router(HealthRoutes(lanes).router())
    if settings.fides is not None:
        app.include_router(FidesRoutes(lanes, settings.fides).router())
    app.include_router(sign_in.router())
    app.include_router(ConsoleRoutes(sign_in, lanes.reads).router())
    app.include_router(ConsoleActions(sign_in, lanes, settings.admission.keys_per_request).router())
    sign_in.add_refusals(app)
    add_refusals(app)
    # The last one added is the first to be asked.
    app.add_middleware(TokenGate, authentication=authentication)
    app.add_middleware(BodyLimit, limit=api.body_bytes)
    app.add_middleware(AllowedHosts, hosts=allowed_hosts(api))
    app.add_middleware(ErrorResponses)
    app.add_middleware(SafeHeaders)
    return app
