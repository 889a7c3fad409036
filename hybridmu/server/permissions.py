"""Permissions to see a request and to take it back: its caller, an auditor, an admin; others are told of none."""

from __future__ import annotations

from typing import Any

from starlette.exceptions import HTTPException

from hybridmu.core.token_scopes import Token
from hybridmu.errors import DatabaseError, StateError
from hybridmu.store.certificates import Certificates
from hybridmu.system.system import System
from hybridmu.types import ForgetRequest


def sees(token: Token) -> str | None:
    """Return whose requests a token may see; None: everybody's."""
    return None if token.allows("audit") else token.caller


def visible(system: System, request_id: str, token: Token) -> ForgetRequest:
    """Return a request that a token may see.

    Args:
        system: Where to look.
        request_id: The request.
        token: Who asks.

    Raises:
        HTTPException: There is none, or it is another caller's; the answer and what is done for it are the same.
        DatabaseError: The ledger can't be asked.
    """
    only = sees(token)
    try:
        known = system.ledger.request(request_id)
    except DatabaseError:
        raise
    except StateError:
        known = None
    if known is None or only not in {None, known.caller}:
        raise HTTPException(404, "there is no such request" + (" of yours" if only is not None else ""))
    return known


def refuse_cancelling(request: ForgetRequest, token: Token) -> None:
    """Refuse a token that may see a request, but not take it back: only its caller and an admin may.

    Raises:
        HTTPException: It is neither.
    """
    if request.caller != token.caller and "admin" not in token.scopes:
        raise HTTPException(403, "only its caller, or an admin, may take a request back")


def certificate(system: System, request_id: str, token: Token) -> tuple[int, dict[str, Any]]:
    """Return number and document of the certificate of a request that a token may see.

    Raises:
        HTTPException: There is none.
    """
    number = visible(system, request_id, token).certificate
    if number is None:
        raise HTTPException(404, "this request has no certificate: it is not purged yet, or others revoked its rows")
    return number, Certificates(system.site.storage).get(number)
