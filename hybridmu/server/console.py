"""The console: pages for auditors and operators, made on the server; it looks, and changes nothing. No scripts."""

# No `from __future__ import annotations` here, as in `app`.
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib import resources
from typing import Annotated, Any
from urllib.parse import parse_qs

import jinja2
from fastapi import Depends, FastAPI, Query, Request
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.concurrency import run_in_threadpool

from hybridmu.core.proof.statements import shown_by
from hybridmu.core.token_scopes import Token
from hybridmu.server import charts
from hybridmu.server.cookies import drop, keep, refuse_foreign, session_name
from hybridmu.server.entry import Entry, TooManyCallsError, too_many
from hybridmu.server.headers import PAGE_POLICY
from hybridmu.server.lanes import Lane
from hybridmu.server.permissions import certificate, visible
from hybridmu.server.request_lists import NAME, RequestId, list_requests
from hybridmu.store.ledger.console_sessions import ConsoleSessions
from hybridmu.system.system import System
from hybridmu.types import RequestState

_STYLE = (resources.files("hybridmu") / "server" / "pages" / "style.css").read_text()
# Without a referrer browsers would not say either which site sent a form.
_HEADERS = {"Content-Security-Policy": PAGE_POLICY, "Referrer-Policy": "same-origin"}
_REFRESH_SECONDS = 10
_SHOWN = 50
_POINTS = 200
_COLOURS = {"FAILED": "bad", "PURGED": "good", "SERVED": "good", "CANCELLED": ""}
_Before = Annotated[str | None, Query(max_length=40, pattern=NAME)]


class _NotInError(Exception):
    """A browser without a session that counts: it gets the page that asks for a token."""


def add_console(app: FastAPI, entry: Entry, sessions: ConsoleSessions, lane: Lane) -> None:
    """Add the pages under `/console`.

    Args:
        app: The application.
        entry: Knows the tokens, and limits calls.
        sessions: Which browsers are in.
        lane: Where pages are made.
    """
    pages = _pages()

    def page(name: str, code: int = 200, **values: Any) -> HTMLResponse:
        text = pages.get_template(f"{name}.html.j2").render(**{"caller": None, "refresh": None, **values})
        return HTMLResponse(text, code, _HEADERS)

    async def holder(request: Request) -> Token:
        def look() -> Token | None:
            # A page that refreshes itself is nobody who looks.
            found = sessions.find(session_name(request), seen="again" not in request.query_params)
            return entry.again(request, found)

        token = await run_in_threadpool(look)
        if token is None or not token.allows("audit"):
            raise _NotInError
        return token

    Holder = Annotated[Token, Depends(holder)]

    @app.exception_handler(_NotInError)
    async def ask_for_token(_: Request, __: Exception) -> Response:
        return page("login", says="")

    @app.exception_handler(TooManyCallsError)
    async def wait(_: Request, error: Exception) -> Response:
        assert isinstance(error, TooManyCallsError)
        return too_many(error)

    @app.get("/console/style.css", include_in_schema=False)
    async def style() -> Response:
        return Response(_STYLE, media_type="text/css", headers={"Cache-Control": "no-cache"})

    @app.post("/console/enter", include_in_schema=False)
    async def come_in(request: Request) -> Response:
        refuse_foreign(request)
        given = parse_qs((await request.body()).decode("utf-8", "replace"), max_num_fields=10)
        text = given.get("token", [""])[0].strip()
        token = await run_in_threadpool(entry.enter, request, text)
        if token is None or not token.allows("audit"):
            says = "this token does not count" if token is None else "this token has not the scope audit or admin"
            return page("login", 403, says=says)

        def begin() -> str:
            if old := session_name(request):
                sessions.end(old)
            return sessions.begin(token.token_id)

        answer = RedirectResponse("/console", 303, _HEADERS)
        keep(request, answer, await run_in_threadpool(begin))
        return answer

    @app.post("/console/leave", include_in_schema=False)
    async def leave(request: Request) -> Response:
        refuse_foreign(request)

        def end() -> None:
            name = session_name(request)
            entry.again(request, sessions.find(name, seen=False))  # counted as any other call
            sessions.end(name)

        await run_in_threadpool(end)
        answer = RedirectResponse("/console", 303, _HEADERS)
        drop(request, answer)
        return answer

    @app.get("/console", include_in_schema=False)
    async def overview(token: Holder, state: RequestState | None = None, before: _Before = None) -> Response:
        def work(system: System) -> Response:
            status, vitals, outcomes = system.status(), system.vitals(), system.measurements.recent(_POINTS)
            listed = list_requests(system, token, states=[state] if state else [], limit=_SHOWN, before=before)
            return page(
                "overview",
                caller=token.caller,
                refresh=_REFRESH_SECONDS if before is None else None,
                again="/console?again=1" + (f"&state={state}" if state else ""),
                status=status,
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

        return await lane.run(token.caller, work)

    @app.get("/console/requests/{request_id}", include_in_schema=False)
    async def request_(request_id: RequestId, token: Holder) -> Response:
        def work(system: System) -> Response:
            request = visible(system, request_id, token)
            shows = shown_by(certificate(system, request_id, token)[1]) if request.certificate is not None else []
            relies_on = system.ledger.relies_on(request.request_id)
            report = system.report(request.request_id)
            return page("request", caller=token.caller, report=report, shows=shows, relies_on=relies_on)

        return await lane.run(token.caller, work)

    @app.get("/console/certificates/{request_id}", include_in_schema=False)
    async def certificate_(request_id: RequestId, token: Holder) -> Response:
        def work(system: System) -> Response:
            number, document = certificate(system, request_id, token)
            name = f'attachment; filename="certificate-{number}.json"'
            return JSONResponse(document, headers={**_HEADERS, "Content-Disposition": name})

        return await lane.run(token.caller, work)


def _pages() -> jinja2.Environment:
    pages = jinja2.Environment(
        loader=jinja2.PackageLoader("hybridmu", "server/pages"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_plain,
    )
    pages.filters |= {"moment": _moment, "after": _after, "late": _late, "colour": lambda s: _COLOURS.get(s, "middle")}
    return pages


def _plain(value: Any) -> Any:
    """Return a value as a page shows it: a name can't turn the direction of what stands beside it.

    Example:
        >>> _plain("desk \u202ekrow") == "desk \ufffdkrow"
        True
    """
    if not isinstance(value, str):
        return value
    return "".join(c if c.isprintable() or c in "\n\t" else "\ufffd" for c in value)


def _moment(at: float | None) -> str:
    return "" if at is None else f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M:%S} UTC"


def _after(times: tuple[float | None, float]) -> str:
    """Return how long something took.

    Example:
        >>> _after((7325.0, 100.0)), _after((100.5, 100.0)), _after((None, 100.0))
        ('2 h 00 min', '0.5 s', '')
    """
    at, since = times
    if at is None:
        return ""
    seconds = at - since
    if seconds < 120:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60:02d} min"


def _late(report: Mapping[str, Any], now: float) -> bool:
    """Return whether a request is not exact and purged at its deadline."""
    over = report["deadline_at"] is not None and report["purged_at"] is None and report["deadline_at"] < now
    return over and report["state"] != "CANCELLED"
