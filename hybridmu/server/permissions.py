"""Permissions to see and to cancel a request: its caller, an auditor, an admin; for others it does not exist."""

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


def unknown_request(only: str | None) -> HTTPException:
    """Return the refusal of a request that a token may not see, whether or not it exists.

    Args:
        only: Whose requests the token may see; None: everybody's.
    """
    return HTTPException(404, "the request does not exist" + (", or is another caller's" if only is not None else ""))


def visible(system: System, request_id: str, token: Token) -> ForgetRequest:
    """Return a request that a token may see.

    Args:
        system: Where to look.
        request_id: The request.
        token: Who asks.

    Raises:
        HTTPException: There is none, or it is another caller's; the answer and what is done for it are the same.
        DatabaseError: The ledger can't be asked.
    """  # noqa: DOC501 - a function makes the first
    only = sees(token)
    try:
        known = system.ledger.request(request_id)
    except DatabaseError:
        raise
    except StateError:
        known = None
    if known is None or only not in {None, known.caller}:
        raise unknown_request(only)
    return known


def refuse_cancelling(request: ForgetRequest, token: Token) -> None:
    """Refuse a token that may see a request, but not take it back: only its caller and an admin may.

    Raises:
        HTTPException: It is neither.
    """
    if request.caller != token.caller and "admin" not in token.scopes:
        raise HTTPException(403, "only the caller of a request, or an admin, may cancel it")


def refuse_approving(request: ForgetRequest, token: Token) -> None:
    """Refuse a token that may see a request, but not approve it: its own caller may not.

    Raises:
        HTTPException: It is that.
    """
    if request.caller == token.caller:
        raise HTTPException(403, "another caller than the one who asked for a request has to approve it")


def certificate(system: System, request_id: str, token: Token) -> tuple[int, dict[str, Any]]:
    """Return number and document of the certificate of a request that a token may see.

    Raises:
        HTTPException: There is none.
    """
    number = visible(system, request_id, token).certificate
    if number is None:
        raise HTTPException(
            404, "the request has no certificate: it is not purged yet, or its rows were revoked by other requests"
        )
    return number, Certificates(system.site.storage).get(number)
