"""Endpoint for policy webhooks of Fides: an erasure is forgotten here, and Fides waits until it is purged."""

# ruff: noqa: DOC201 - the interface's own description shows these docstrings
from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from hybridmu.config import FidesSettings
from hybridmu.core.token_scopes import Token
from hybridmu.errors import UnknownKeysError
from hybridmu.server import schemas
from hybridmu.server.call_lanes import CallLanes
from hybridmu.server.json_body import body_schema, json_body
from hybridmu.server.schemas import PrivacyRequest
from hybridmu.server.token_scope_checks import ForgetToken
from hybridmu.system.system import System
from hybridmu.types import KeyKind

_log = logging.getLogger("hybridmu.api")
_PATH = re.compile(r"(/[A-Za-z0-9_-]{1,80}){1,6}")
_TOKEN = re.compile(r"[!-~]{1,4000}")


class Halt(BaseModel):
    """Answer to a policy webhook: whether Fides waits until it is told to go on."""

    halt: bool


class FidesRoutes:
    """Endpoint for Fides.

    Args:
        lanes: Where the work is done.
        fides: What its identities are here.
    """

    def __init__(self, lanes: CallLanes, fides: FidesSettings) -> None:
        self._lanes, self._fides = lanes, fides

    def router(self) -> APIRouter:
        """Return the routes."""
        router = APIRouter()
        router.post("/v1/fides", response_model=Halt, openapi_extra=body_schema(PrivacyRequest))(self.privacy_request)
        return router

    async def privacy_request(self, request: Request, token: ForgetToken) -> Any:
        """Commit the erasure that a policy webhook of Fides tells of; the same privacy request is one request."""
        raw, headers = await json_body(request), request.headers

        def work(system: System) -> Response:
            said = schemas.read(PrivacyRequest, raw, 1)
            if said.policy_action != "erasure" or said.callback_type == "pre_approval":
                return _answer(halt=False)
            keys = keys_of(said.identity, self._fides.identities)
            path, secret = _reply_to(headers) if _is_waited_for(said) else ("", "")
            request_id = _forget(system, said.privacy_request_id, keys, token)
            if request_id is None:
                return _answer(halt=False)
            if path:
                system.database.replies.keep(said.privacy_request_id, request_id, path, secret)
            return _answer(halt=bool(path))

        return await self._lanes.deletions.run_call(token.caller, work)


def keys_of(identity: Mapping[str, Any], known: Mapping[str, KeyKind]) -> dict[KeyKind, list[int | str]]:
    """Return ids and groups that identities of Fides are here; what the configuration does not name is left out.

    Args:
        identity: Name → value, or an object with the value; null where Fides does not know it.
        known: Name → what it is here.

    Raises:
        HTTPException: A value is neither text nor a whole number.

    Example:
        >>> keys_of({"email": "a@b.org", "phone_number": None, "no": {"label": "No.", "value": 7}},
        ...         {"email": "group", "no": "id"})
        {'group': ['a@b.org'], 'id': [7]}
    """
    found: dict[KeyKind, list[int | str]] = {}
    for name, kind in known.items():
        value = identity.get(name)
        value = value.get("value") if isinstance(value, Mapping) else value
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, (int, str)):
            raise HTTPException(422, f"identity {name} is neither text nor a whole number")
        found.setdefault(kind, []).append(value)
    return found


def _forget(system: System, name: str, keys: Mapping[KeyKind, list[int | str]], token: Token) -> str | None:
    """Return the request; None where nobody of that identity is or was here."""
    if not keys:
        return None
    try:
        report = system.forget(
            ids=keys.get("id", ()),
            groups=keys.get("group", ()),
            key=f"fides {name}",
            caller=token.caller,
            ignore_unknown=True,
        )
    except UnknownKeysError:
        return None
    _log.info("request %s accepted from Fides by token %s", report["request_id"], token.token_id)
    return str(report["request_id"])


def _is_waited_for(said: PrivacyRequest) -> bool:
    """Return whether Fides can be made to wait: only before a policy runs, and where it listens to the answer."""
    return said.callback_type == "pre" and said.direction == "two_way"


def _reply_to(headers: Mapping[str, str]) -> tuple[str, str]:
    """Return where Fides wants its answer, and the token for it.

    Raises:
        HTTPException: It does not say, or something that is no path or no token.
    """
    path, token = headers.get("reply-to", ""), headers.get("reply-to-token", "")
    if not _PATH.fullmatch(path) or not _TOKEN.fullmatch(token):
        raise HTTPException(422, "a two_way call before the policy runs needs the headers reply-to and reply-to-token")
    return path, token


def _answer(*, halt: bool) -> Response:
    return JSONResponse({"halt": halt})
