"""Lists of requests in parts, each named by a request: numbers would tell how many requests others have."""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated, Any

from fastapi import Path

from hybridmu.core.token_scopes import Token
from hybridmu.server.permissions import sees, unknown_request
from hybridmu.system.system import System
from hybridmu.types import RequestState

NAME = r"^[0-9A-Za-z_-]+$"
RequestId = Annotated[str, Path(max_length=40, pattern=NAME)]


def list_requests(
    system: System, token: Token, *, states: Collection[RequestState], limit: int, before: str | None
) -> dict[str, Any]:
    """Return a part of the requests that a token may see, newest first.

    Args:
        system: Where to look.
        token: Who asks.
        states: Only those in one of these states; all when empty.
        limit: How many at most.
        before: The request after which the part begins; None: the newest.

    Returns:
        `requests`, and `next`: what `before` has to be for the part after it, None when there is no more.

    Raises:
        HTTPException: `before` is no request that the token may see.
    """  # noqa: DOC501 - a function makes it
    only = sees(token)
    number = None if before is None else system.session.pages.number_of(before, only)
    if before is not None and number is None:
        raise unknown_request(only)
    page = system.page(states=states, caller=only, limit=limit, before=number)
    found = page["requests"]
    return {"requests": found, "next": found[-1]["request_id"] if page["next_before"] is not None else None}
