"""Answers to failed calls: errors of the call in full, all others as a reference into the log."""

from __future__ import annotations

import logging
import re
import secrets
import traceback
from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

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
    StorageMismatchError,
    StrategyUnavailableError,
    WouldEmptyError,
)
from hybridmu.server.schemas import Problem, problem

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
# What is said of an error whose own words are the operator's: they name files, hosts and settings.
_INSTEAD: tuple[tuple[type[HybridMUError], str], ...] = (
    (DatabaseError, "the ledger is not available"),
    (StorageError, "storage is not available"),
    (CorruptBlobError, "a stored file is damaged"),
    (StorageMismatchError, "the interface is configured for another system"),
)
_HIDDEN = tuple(kind for kind, _ in _INSTEAD)
_ABOUT_THE_CALL = (RequestError, StrategyUnavailableError)
_PERHAPS = (DataError, StateError)
# A path, a URL, or a statement for the database.
_PLACE = re.compile(
    r"\w+://|(?:^|[^\w.])(?:~|\.{1,2})?/[^\s/]|[A-Za-z]:\\|\b(?:SELECT|INSERT|UPDATE|DELETE)\b.*\b(?:FROM|INTO|SET)\b",
    re.DOTALL,
)
_LONGEST = 200


def told(error: HybridMUError) -> bool:
    """Return whether an error speaks of the call alone, so that its caller may read all of it.

    Args:
        error: One of ours.
    """
    if isinstance(error, _ABOUT_THE_CALL):
        return True
    if not isinstance(error, _PERHAPS) or isinstance(error, _HIDDEN):
        return False
    return not any(_PLACE.search(text) for text in (error.what, error.expected, error.got, error.remedy))


def code_of(error: HybridMUError) -> int:
    """Return the status code of an error of ours."""
    return next((code for kind, code in _CODES if isinstance(error, kind)), 500)


def answer(error: HybridMUError) -> JSONResponse:
    """Return the answer to a call that met an error of ours; what its caller may not read goes to the log.

    Args:
        error: The error.
    """
    code = code_of(error)
    headers = {"Retry-After": "5"} if code in {429, 503} else None
    if told(error):
        return JSONResponse(problem(error).model_dump(), code, headers)
    # One of the call that names a place besides may hold ids, which belong into no log.
    mixed = isinstance(error, _PERHAPS) and not isinstance(error, _HIDDEN)
    says = f"{type(error).__name__}: {error.what if mixed else error}"
    what = next((text for kind, text in _INSTEAD if isinstance(error, kind)), "the call failed")
    return JSONResponse(_fault(type(error).__name__, what, says).model_dump(), code, headers)


def _fault(name: str, what: str, says: str) -> Problem:
    reference = secrets.token_hex(4)
    _log.error("fault %s: %s", reference, says)
    return Problem(
        error=name, what=what, remedy=f"try again later; the log has the details under reference {reference}"
    )


class ErrorResponses:
    """ASGI middleware that makes every error an answer; of an unexpected one the log has the place, not the values.

    Args:
        app: What may fail.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one call."""
        begun = False

        async def begin(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self._app(scope, receive, begin)
        except ClientDisconnect:
            return  # nobody is there who could be told
        except HybridMUError as error:
            response = answer(error)
        except Exception as error:
            frames = traceback.extract_tb(error.__traceback__)[-8:]
            where = " < ".join(f"{frame.filename}:{frame.lineno}" for frame in reversed(frames))
            body = _fault("InternalError", "the call failed", f"{type(error).__name__} in {where}")
            response = JSONResponse(body.model_dump(), 500)
        else:
            return
        if not begun:
            await response(scope, receive, send)


def add_refusals(app: FastAPI) -> None:
    """Make every refusal of the framework a `Problem`.

    Args:
        app: The application.
    """

    async def theirs(_: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        body = Problem(error="Refused", what=str(error.detail)).model_dump()
        return JSONResponse(body, error.status_code, error.headers)

    async def invalid(_: Request, error: Exception) -> Response:
        # Without what was sent: answers end in other people's logs.
        assert isinstance(error, RequestValidationError)
        return JSONResponse(not_as_said(error.errors()).model_dump(), 422)

    handlers: dict[type[Exception], Callable[[Request, Exception], Awaitable[Response]]] = {
        HTTPException: theirs,
        RequestValidationError: invalid,
    }
    for kind, handler in handlers.items():
        app.add_exception_handler(kind, handler)


def not_as_said(errors: Any) -> Problem:
    """Return the refusal of a call that is not as the schema says.

    Args:
        errors: What pydantic found.
    """
    says = "; ".join(f"{'.'.join(map(str, one['loc']))[:_LONGEST]}: {one['msg'][:_LONGEST]}" for one in errors[:10])
    return Problem(error="RequestValidationError", what="the call does not fit the schema in /openapi.json", got=says)
