"""Connections of the HTTP interface: limits on their number, and on the time that each may keep us waiting.

The server's own clock runs between two calls alone: headers, a body or a reading that never end would stay for ever.
This protocol puts a clock on each of them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Literal, cast

import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from hybridmu.config.deployment import ApiSettings

_Waits = Literal["headers", "body"]
_LATE = b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
_FULL = b"HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\nretry-after: 5\r\ncontent-length: 0\r\n\r\n"
_STOP_SECONDS = 30


class TimedConnection(H11Protocol):
    """A connection that is closed when its caller takes too long.

    Args:
        settings: How long, and how many connections.
        options: What the server gives every protocol.
    """

    def __init__(self, settings: ApiSettings, **options: Any) -> None:
        super().__init__(**options)
        self._settings = settings
        self._waits: _Waits | None = None  # what is waited for
        self._since = self.loop.time()
        self._clock: asyncio.TimerHandle | None = None
        self._reading: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for headers; where there are too many connections, one of them goes."""
        super().connection_made(transport)
        if len(self.connections) > self._settings.connections and not self._make_room():
            self.transport.write(_FULL)
            self.transport.close()
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop all clocks."""
        super().connection_lost(exc)
        self._unset_keepalive_if_required()
        for clock in (self._clock, self._reading):
            if clock is not None:
                clock.cancel()

    def data_received(self, data: bytes) -> None:
        """Handle what came, and see what is waited for now."""
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        """Wait for the next call."""
        super().on_response_complete()
        self._watch()

    def timeout_keep_alive_handler(self) -> None:
        """Close a connection without a call."""
        super().timeout_keep_alive_handler()
        self._watch()

    def shutdown(self) -> None:
        """Close a connection at the server's end."""
        super().shutdown()
        self._watch()

    def pause_writing(self) -> None:
        """Begin to wait for a caller that does not read."""
        super().pause_writing()
        self._await_reading()

    def resume_writing(self) -> None:
        """Stop to wait for a caller that reads."""
        super().resume_writing()
        if self._reading is not None and not self.transport.is_closing():
            self._reading.cancel()
            self._reading = None

    @property
    def idle_since(self) -> float | None:
        """Since when a caller has kept us waiting; None while a call of it is worked on."""
        working = self.cycle is not None and not self.cycle.response_complete
        return None if working and self._waits is None else self._since

    def _watch(self) -> None:
        if self.transport.is_closing():
            self._wait_for(None)
            if self.transport.get_write_buffer_size():
                self._await_reading()
            return
        state = self.conn.their_state
        if state is h11.SEND_BODY:
            self._wait_for("body")
        elif state is h11.IDLE and self.timeout_keep_alive_task is None:
            self._wait_for("headers")
        else:
            self._wait_for(None)

    def _wait_for(self, what: _Waits | None) -> None:
        if what == self._waits:
            return
        if self._clock is not None:
            self._clock.cancel()
            self._clock = None
        self._waits, self._since = what, self.loop.time()
        if what is not None:
            seconds = self._settings.header_seconds if what == "headers" else self._settings.body_seconds
            self._clock = self.loop.call_later(seconds, self._late)

    def _late(self) -> None:
        if self.transport.is_closing():
            return
        answered = self.cycle is not None and self.cycle.response_started
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        # After an answer to this very call a second one would be taken for the next call's.
        if self._waits == "headers" or not answered:
            self.transport.write(_LATE)
        self.transport.close()
        self._watch()

    def _await_reading(self) -> None:
        if self._reading is None:
            self._reading = self.loop.call_later(self._settings.reply_seconds, self.transport.abort)

    def _make_room(self) -> bool:
        """Return whether there was a connection to close: the one that has kept us waiting for the longest."""
        others = [one for one in self.connections if isinstance(one, TimedConnection) and one is not self]
        waiting = [(since, one) for one in others if (since := one.idle_since) is not None]
        if not waiting:
            return False
        min(waiting, key=lambda pair: pair[0])[1].transport.abort()
        return True


def make_server(app: ASGIApp, settings: ApiSettings) -> uvicorn.Server:
    """Return the server of the HTTP interface.

    Args:
        app: The application.
        settings: Where it listens, and whom and what it waits for.
    """

    def protocol(**options: Any) -> TimedConnection:
        return TimedConnection(settings, **options)

    return uvicorn.Server(
        uvicorn.Config(
            cast(Callable[..., Any], app),
            host=settings.host,
            port=settings.port,
            http=cast(type[asyncio.Protocol], protocol),
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="warning",
            access_log=False,
            server_header=False,
            proxy_headers=bool(settings.trusted_proxies),
            forwarded_allow_ips=list(settings.trusted_proxies),
            timeout_keep_alive=cast(int, settings.idle_seconds),  # what it becomes is a delay of the event loop
            timeout_graceful_shutdown=_STOP_SECONDS,
        )
    )
