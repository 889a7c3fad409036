"""The console: pages for auditors and operators, made on the server; it looks, and changes nothing.

A browser keeps the token in a cookie that scripts can't read and other sites can't make it send. There are no scripts.
"""

# No `from __future__ import annotations` here, as in `app`.
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from importlib import resources
from typing import Annotated, Any
from urllib.parse import parse_qs

import jinja2
from fastapi import FastAPI, Path, Request
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.exceptions import HTTPException

from hybridmu.core.access import Token
from hybridmu.gateway import drawing
from hybridmu.store.certificates import Certificates
from hybridmu.system import System

_COOKIE = "hybridmu_console"
_COOKIE_SECONDS = 8 * 3600
_REFRESH_SECONDS = 10
_SHOWN = 50
_POINTS = 200
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; form-action 'self'; frame-ancestors 'none'; "
    "base-uri 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}
_COLOURS = {"FAILED": "bad", "PURGED": "good", "SERVED": "good", "CANCELLED": ""}
_Name = Annotated[str, Path(max_length=40, pattern=r"^[0-9A-Za-z_-]+$")]


class _NotInError(Exception):
    """A browser without a token that counts: it gets the page that asks for one."""


def add_console(
    app: FastAPI,
    enter: Callable[[Request, str], Token | None],
    system: Callable[[], AbstractContextManager[System]],
    visible: Callable[[System, str, Token], dict[str, Any]],
) -> None:
    """Add the pages under `/console`.

    Args:
        app: The application.
        enter: Returns the token that a browser presented, or None where it does not count; limits calls.
        system: Lends a system.
        visible: Returns the report of a request that a token may see.
    """
    pages = _pages()

    def page(name: str, code: int = 200, **values: Any) -> HTMLResponse:
        text = pages.get_template(f"{name}.html.j2").render(**{"caller": None, "refresh": None, **values})
        return HTMLResponse(text, code, _HEADERS)

    def holder(request: Request) -> Token:
        token = enter(request, request.cookies.get(_COOKIE, ""))
        if token is None or not token.allows("audit"):
            raise _NotInError
        return token

    @app.exception_handler(_NotInError)
    def ask_for_token(_: Request, __: Exception) -> Response:
        return page("login", says="")

    @app.get("/console/style.css", include_in_schema=False)
    def style() -> Response:
        text = (resources.files("hybridmu") / "gateway" / "pages" / "style.css").read_text()
        return Response(text, media_type="text/css", headers={"X-Content-Type-Options": "nosniff"})

    @app.post("/console/enter", include_in_schema=False)
    async def come_in(request: Request) -> Response:
        given = parse_qs((await request.body()).decode("utf-8", "replace")).get("token", [""])[0].strip()
        token = enter(request, given)
        if token is None or not token.allows("audit"):
            says = "this token does not count" if token is None else "this token has not the scope audit or admin"
            return page("login", 403, says=says)
        answer = RedirectResponse("/console", 303, _HEADERS)
        secure = request.url.scheme == "https"
        answer.set_cookie(_COOKIE, given, _COOKIE_SECONDS, path="/console", secure=secure, httponly=True,
                          samesite="strict")  # fmt: skip
        return answer

    @app.post("/console/leave", include_in_schema=False)
    def leave() -> Response:
        answer = RedirectResponse("/console", 303, _HEADERS)
        answer.delete_cookie(_COOKIE, path="/console")
        return answer

    @app.get("/console", include_in_schema=False)
    def overview(request: Request) -> Response:
        token = holder(request)
        now = time.time()
        with system() as taken:
            status, requests = taken.status(), taken.requests()[::-1]
            outcomes = taken.measurements.recent(_POINTS)
        return page(
            "overview",
            caller=token.caller,
            refresh=_REFRESH_SECONDS,
            status=status,
            requests=requests[:_SHOWN],
            overdue=sum(_late(r, now) for r in requests),
            now=now,
            last={row["shard"]: row for row in reversed(outcomes)},
            plots={
                "points": outcomes,
                "strategies": sorted({row["strategy"] for row in outcomes}),
                "figures": [drawing.plan_and_actual(outcomes), drawing.boundary(outcomes)],
            },
        )

    @app.get("/console/requests/{request_id}", include_in_schema=False)
    def request_(request_id: _Name, request: Request) -> Response:
        token = holder(request)
        with system() as taken:
            return page("request", caller=token.caller, report=visible(taken, request_id, token))

    @app.get("/console/certificates/{request_id}", include_in_schema=False)
    def certificate(request_id: _Name, request: Request) -> Response:
        token = holder(request)
        with system() as taken:
            number = visible(taken, request_id, token)["certificate"]
            if number is None:
                raise HTTPException(404, "this request has no certificate yet: it is not purged")
            document = Certificates(taken.site.storage).get(number)
        name = f'attachment; filename="certificate-{number}.json"'
        return JSONResponse(document, headers={**_HEADERS, "Content-Disposition": name})


def _pages() -> jinja2.Environment:
    pages = jinja2.Environment(
        loader=jinja2.PackageLoader("hybridmu", "gateway/pages"), autoescape=True, undefined=jinja2.StrictUndefined
    )
    pages.filters |= {"moment": _moment, "after": _after, "late": _late, "colour": lambda s: _COLOURS.get(s, "middle")}
    return pages


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
