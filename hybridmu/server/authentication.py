"""Token authentication and limits on calls, before anything of a body is read."""

from __future__ import annotations

import math

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from hybridmu.config.deployment import ApiSettings
from hybridmu.core.token_scopes import Token
from hybridmu.server.schemas import Problem
from hybridmu.serving.auth import RateLimiter, TokenDirectory
from hybridmu.store.ledger.tokens import Tokens

_GUARDED = ("/v1/", "/metrics/")


class TooManyCallsError(Exception):
    """A caller calls too often.

    Args:
        seconds: After which it may call again.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = math.ceil(seconds)
        super().__init__(f"too many calls; the next one in {self.seconds} s")


class Authentication:
    """The valid tokens, and a limit on the calls of each holder.

    Args:
        tokens: All tokens.
        settings: The limits.
    """

    def __init__(self, tokens: Tokens, settings: ApiSettings) -> None:
        self._directory = TokenDirectory(tokens.all, settings.token_seconds)
        self._rates = RateLimiter(settings.requests_per_second, settings.burst)

    def of_text(self, request: Request, text: str) -> Token | None:
        """Return the token that a caller presented, or None where it does not count.

        Args:
            request: The call.
            text: The token.
        """
        return self._counted(request, self._directory.authenticate(text))

    def of_session(self, request: Request, token_id: str | None) -> Token | None:
        """Return the token that a session rests on, or None where it does not count any more.

        Args:
            request: The call.
            token_id: Its public part; None: there is no session.
        """
        return self._counted(request, self._directory.current(token_id) if token_id else None)

    def _counted(self, request: Request, token: Token | None) -> Token | None:
        host = request.client.host if request.client else ""
        if wait := self._rates.take(token.token_id if token else f"@{host}"):
            raise TooManyCallsError(wait)
        return token


class TokenGate:
    """ASGI middleware that lets calls with a token in, and nobody else: it is `request.state.token` from here on.

    Args:
        app: What it guards: calls for requests and metrics, none of which is answered without such a token.
        authentication: The valid tokens.
    """

    def __init__(self, app: ASGIApp, authentication: Authentication) -> None:
        self._app, self._authentication = app, authentication

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one call."""
        if scope["type"] != "http" or not f"{scope['path']}/".startswith(_GUARDED):
            await self._app(scope, receive, send)
            return
        request = Request(scope)
        try:
            token = await run_in_threadpool(self._authentication.of_text, request, _bearer(request))
        except TooManyCallsError as error:
            await too_many(error)(scope, receive, send)
            return
        if token is None:
            body = Problem(error="Refused", what="the token is missing or not valid").model_dump()
            await JSONResponse(body, 401, {"WWW-Authenticate": "Bearer"})(scope, receive, send)
            return
        request.state.token = token
        await self._app(scope, receive, send)


def too_many(error: TooManyCallsError) -> JSONResponse:
    """Return the refusal of a call too many."""
    body = Problem(error="Refused", what="too many calls").model_dump()
    return JSONResponse(body, 429, {"Retry-After": str(error.seconds)})


def _bearer(request: Request) -> str:
    """Return the token in a call's header; of two headers none counts."""
    given = request.headers.getlist("authorization")
    scheme, _, text = given[0].partition(" ") if len(given) == 1 else ("", "", "")
    return text.strip(" ") if scheme.lower() == "bearer" else ""
