"""Limit on the length of bodies, by the bytes that arrive: a header can lie, and may be missing."""

from __future__ import annotations

import contextlib

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hybridmu.server.schemas import Problem

_FORM_BYTES = 8 * 1024
_DIGITS = 18  # Python refuses to read numbers of some thousand


class _TooLongError(Exception):
    pass


class BodyLimit:
    """ASGI middleware that answers 413 before a longer body is in memory.

    Args:
        app: What it guards.
        limit: Bytes; the console's forms, which anybody may send, are shorter in any case.
    """

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self._app, self._limit = app, limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one call."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        limit = min(self._limit, _FORM_BYTES) if scope["path"].startswith("/console") else self._limit
        stated = dict(scope["headers"]).get(b"content-length", b"0")
        seen, begun = 0, False
        long = stated.isdigit() and (len(stated) > _DIGITS or int(stated) > limit)

        async def count() -> Message:
            nonlocal seen, long
            message = await receive()
            seen += len(message.get("body", b""))
            long = long or seen > limit
            if long:
                raise _TooLongError
            return message

        async def begin(message: Message) -> None:
            nonlocal begun
            if not long or begun:  # what is made of half a body is not said
                begun = True
                await send(message)

        if not long:
            with contextlib.suppress(_TooLongError):
                await self._app(scope, count, begin)
        if long and not begun:
            body = Problem(error="TooLong", what="the body is too long", expected=f"at most {limit} bytes")
            # The rest is read and dropped, for as long as a body may take: a client that is cut off sees no answer.
            await JSONResponse(body.model_dump(), 413)(scope, receive, send)
