"""Sign-in of browsers to the console: a form takes a token once, a session stands for it afterwards."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import parse_qs

from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.responses import RedirectResponse, Response
from starlette.concurrency import run_in_threadpool

from hybridmu.core.token_scopes import Token
from hybridmu.server.authentication import Authentication, TooManyCallsError, too_many
from hybridmu.server.console_pages import PAGE_HEADERS, render_page
from hybridmu.server.cookies import drop, keep, refuse_foreign, session_name
from hybridmu.store.ledger.console_sessions import ConsoleSessions


async def _signed_in(request: Request) -> Token:
    token: Token = request.state.token  # from `ConsoleSignIn.admit`, which the pages' router asks first
    return token


SignedIn = Annotated[Token, Depends(_signed_in)]


class NotSignedInError(Exception):
    """A browser without a session that counts: it gets the page that asks for a token."""


class ConsoleSignIn:
    """Sessions of browsers, each of which rests on a token.

    Args:
        authentication: The valid tokens, and the limits on calls.
        sessions: Which browsers are signed in.
    """

    def __init__(self, authentication: Authentication, sessions: ConsoleSessions) -> None:
        self._authentication, self._sessions = authentication, sessions

    def router(self) -> APIRouter:
        """Return the routes of the two forms."""
        router = APIRouter(include_in_schema=False)
        router.post("/console/enter")(self.enter)
        router.post("/console/leave")(self.leave)
        return router

    def add_refusals(self, app: FastAPI) -> None:
        """Answer what `admit` raises.

        Args:
            app: The application.
        """

        async def ask_for_token(_: Request, __: Exception) -> Response:
            return render_page("login", says="")

        async def wait(_: Request, error: Exception) -> Response:
            assert isinstance(error, TooManyCallsError)
            return too_many(error)

        app.add_exception_handler(NotSignedInError, ask_for_token)
        app.add_exception_handler(TooManyCallsError, wait)

    async def admit(self, request: Request) -> None:
        """Let a browser that is signed in pass; its token is `request.state.token` from here on.

        Args:
            request: The call.

        Raises:
            NotSignedInError: It is not.
        """

        def look() -> Token | None:
            # A page that refreshes itself is nobody who looks.
            found = self._sessions.find(session_name(request), seen="again" not in request.query_params)
            return self._authentication.of_session(request, found)

        token = await run_in_threadpool(look)
        if token is None or not token.allows("audit"):
            raise NotSignedInError
        request.state.token = token

    async def enter(self, request: Request) -> Response:
        """Sign a browser in by the token in a form."""  # noqa: DOC201
        refuse_foreign(request)
        given = parse_qs((await request.body()).decode("utf-8", "replace"), max_num_fields=10)
        text = given.get("token", [""])[0].strip()
        token = await run_in_threadpool(self._authentication.of_text, request, text)
        if token is None or not token.allows("audit"):
            says = "this token is not valid" if token is None else "this token lacks the scope audit or admin"
            return render_page("login", 403, says=says)

        def begin() -> str:
            if old := session_name(request):
                self._sessions.end(old)
            return self._sessions.begin(token.token_id)

        answer = RedirectResponse("/console", 303, PAGE_HEADERS)
        keep(request, answer, await run_in_threadpool(begin))
        return answer

    async def leave(self, request: Request) -> Response:
        """End a browser's session."""  # noqa: DOC201
        refuse_foreign(request)

        def end() -> None:
            name = session_name(request)
            self._authentication.of_session(request, self._sessions.find(name, seen=False))  # counted as any call
            self._sessions.end(name)

        await run_in_threadpool(end)
        answer = RedirectResponse("/console", 303, PAGE_HEADERS)
        drop(request, answer)
        return answer
