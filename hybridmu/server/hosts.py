"""Host names of the interface: a call whose Host header has another name is refused."""

from __future__ import annotations

import re
from collections.abc import Sequence

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from hybridmu.config.deployment import ApiSettings
from hybridmu.server.schemas import Problem

_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_HOST = re.compile(r"(?:\[(?P<v6>[0-9A-Fa-f:.]+)\]|(?P<name>[0-9A-Za-z_.-]+))(?::\d{1,5})?")
_PROBED = "/healthz"  # an orchestrator's probe calls by any address, and learns nothing


class AllowedHosts:
    """ASGI middleware that answers 421 to a call by a name that is not ours.

    Args:
        app: What it guards.
        hosts: The names, from `allowed_hosts`.
    """

    def __init__(self, app: ASGIApp, hosts: Sequence[str]) -> None:
        self._app, self._hosts = app, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one call."""
        named = [value for name, value in scope["headers"] if name == b"host"] if scope["type"] == "http" else []
        if scope["type"] != "http" or scope["path"] == _PROBED or (len(named) == 1 and self._ours(named[0])):
            await self._app(scope, receive, send)
            return
        body = Problem(
            error="Refused",
            what="the Host header names another host",
            expected="a Host header with a name under api.hosts",
            remedy="use such a name, or let the operator add this one to api.hosts",
        )
        await JSONResponse(body.model_dump(), 421)(scope, receive, send)

    def _ours(self, named: bytes) -> bool:
        found = _HOST.fullmatch(named.decode("latin-1"))
        if found is None:
            return False
        host = (found["v6"] or found["name"]).lower()
        return any(
            known in {"*", host} or (known.startswith("*.") and host.endswith(known[1:])) for known in self._hosts
        )


def allowed_hosts(settings: ApiSettings) -> tuple[str, ...]:
    """Return the names that callers may use, in small letters.

    Args:
        settings: The interface's; without `hosts` these are loopback's names and the address that it listens on.

    Example:
        >>> allowed_hosts(ApiSettings(host="10.0.0.7"))
        ('127.0.0.1', 'localhost', '::1', '10.0.0.7')
    """
    return tuple(host.lower() for host in settings.hosts or (*_LOOPBACK, settings.host))
