"""The console's cookie, which names a session and is no token; and calls that another site makes a browser send.

Every form is refused when the browser says that another site sent it, and `SameSite=Strict` keeps the cookie from every
such call: there is nothing for a secret in the form to add.
"""

from __future__ import annotations

from urllib.parse import urlsplit

from fastapi import Request
from fastapi.responses import Response
from starlette.exceptions import HTTPException

_NAME = "hybridmu_console"
_LOCKED = f"__Host-{_NAME}"  # browsers take it from this host alone, and over TLS alone


def session_name(request: Request) -> str:
    """Return the name of the session that a browser presents; empty without one."""
    return request.cookies.get(_LOCKED if _secure(request) else _NAME, "")


def keep(request: Request, answer: Response, name: str) -> None:
    """Let a browser keep a session until it is closed; scripts can't read it, other sites can't make it send it.

    Args:
        request: What is answered.
        answer: The answer.
        name: The session.
    """
    secure = _secure(request)
    key, path = (_LOCKED, "/") if secure else (_NAME, "/console")
    answer.set_cookie(key, name, path=path, secure=secure, httponly=True, samesite="strict")


def drop(request: Request, answer: Response) -> None:
    """Let a browser forget its session."""
    secure = _secure(request)
    key, path = (_LOCKED, "/") if secure else (_NAME, "/console")
    answer.delete_cookie(key, path=path, secure=secure, httponly=True, samesite="strict")


def refuse_foreign(request: Request) -> None:
    """Refuse a form that another site sent, as every browser says.

    Raises:
        HTTPException: Another site did.
    """
    site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin")
    ours = site in {"same-origin", "none"} if site else not origin or _host(origin) == request.headers.get("host", "")
    if not ours:
        raise HTTPException(403, "another site sent this form")


def _host(origin: str) -> str:
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return ""  # no address at all


def _secure(request: Request) -> bool:
    return request.url.scheme == "https"
