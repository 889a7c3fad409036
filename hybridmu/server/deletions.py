"""Deletions on behalf of a token: the same for callers of the HTTP interface and for the console's forms."""

from __future__ import annotations

import logging
from typing import Any

from hybridmu.core.token_scopes import Token
from hybridmu.server.permissions import refuse_approving, refuse_cancelling, visible
from hybridmu.server.schemas import Forget
from hybridmu.system.system import System

_log = logging.getLogger("hybridmu.api")


def submit(system: System, body: Forget, token: Token) -> dict[str, Any]:
    """Return the report of a request that is committed; the same key and body again give the same request.

    Args:
        system: Whose rows are named.
        body: The request.
        token: Who asks.
    """
    report = system.forget(
        ids=body.ids,
        groups=body.groups,
        strategy=body.strategy,
        key=body.key,
        caller=token.caller,
        deadline_seconds=body.deadline_seconds,
        ignore_unknown=body.ignore_unknown,
    )
    _log.info("request %s accepted by token %s", report["request_id"], token.token_id)
    return report


def take_back(system: System, request_id: str, token: Token) -> dict[str, Any]:
    """Return the report of a request that nobody began to fulfil, and that is taken back.

    Args:
        system: Whose request it is.
        request_id: The request.
        token: Who asks.

    Raises:
        HTTPException: The token may not see it, or not take it back.
    """
    refuse_cancelling(visible(system, request_id, token), token)
    report = system.cancel(request_id, token.caller)
    _log.info("request %s taken back by token %s", request_id, token.token_id)
    return report


def agree(system: System, request_id: str, token: Token) -> dict[str, Any]:
    """Return the report of a request that was proposed, and that is approved.

    Args:
        system: Whose request it is.
        request_id: The request.
        token: Who approves it.

    Raises:
        HTTPException: The token may not see it, or is its own caller's.
    """
    refuse_approving(visible(system, request_id, token), token)
    report = system.approve(request_id, token.caller)
    _log.info("request %s approved by token %s", request_id, token.token_id)
    return report
