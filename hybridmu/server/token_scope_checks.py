"""Scope checks: dependencies of endpoints that need a token of some scope."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.exceptions import HTTPException

from hybridmu.core.token_scopes import Scope, Token

# The gate has read the token by then; this is what the schema says of it.
_Bearer = Annotated[
    HTTPAuthorizationCredentials | None,
    Depends(HTTPBearer(auto_error=False, description="`hybridmu tokens create`")),
]


def _token_with(*scopes: Scope) -> Callable[..., Awaitable[Token]]:
    async def admit(request: Request, _: _Bearer = None) -> Token:
        token: Token = request.state.token  # from the gate
        if not token.allows(*scopes):
            raise HTTPException(403, f"the token lacks the scope {' or '.join(scopes)}")
        return token

    return admit


ForgetToken = Annotated[Token, Depends(_token_with("forget"))]
ReadToken = Annotated[Token, Depends(_token_with("forget", "audit"))]
AuditToken = Annotated[Token, Depends(_token_with("audit"))]
