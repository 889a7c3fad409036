"""A receiver of webhooks on loopback: a real HTTP server that answers as a test says, and checks signatures itself."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from hybridmu.config import WebhookSettings

SECRET = "whsec_" + base64.b64encode(b"the key of the webhook's test").decode()


@dataclass(frozen=True)
class Received:
    """One POST.

    Attributes:
        headers: By their names in small letters.
        body: As it came.
        path: That was called.
    """

    headers: Mapping[str, str]
    body: bytes
    path: str = ""

    @property
    def data(self) -> dict[str, Any]:
        """Return what it tells of a request."""
        return json.loads(self.body)["data"]

    @property
    def what(self) -> tuple[str, str]:
        """Return (request, event)."""
        return self.data["request_id"], self.data["event"]


Answer = int | Callable[[BaseHTTPRequestHandler], None]


class Receiver:
    """The server.

    Attributes:
        url: Where it listens.
        received: What came, in order.
        answers: Returns the status for a POST, or writes an answer of its own.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.received: list[Received] = []
        self.answers: Callable[[Received], Answer] = lambda _: 204

    def settings(self, **options: Any) -> WebhookSettings:
        """Return what a configuration says of it; the secret is in the variable HOOK_SECRET."""
        return WebhookSettings(**{"url": self.url, "secret": "env:HOOK_SECRET", "timeout_seconds": 30, **options})

    @property
    def told(self) -> list[tuple[str, str]]:
        """Return (request, event) of all that came, repetitions included."""
        return [one.what for one in self.received]


@contextmanager
def receiver(context: ssl.SSLContext | None = None) -> Iterator[Receiver]:
    """Yield a receiver that listens.

    Args:
        context: For TLS.
    """

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            got = Received({name.lower(): value for name, value in self.headers.items()}, body, self.path)
            with lock:
                made.received.append(got)
            answer = made.answers(got)
            if callable(answer):
                answer(self)
            else:
                self.send_response(answer)
                self.send_header("content-length", "0")
                self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads, block_on_close = True, False

        def handle_error(self, *_: object) -> None:  # a sender that was killed, or would not wait
            pass

    lock = threading.Lock()
    server = Server(("127.0.0.1", 0), Handler)
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    made = Receiver(f"{'http' if context is None else 'https'}://localhost:{server.server_port}/hook?of=us")
    made.url = made.url if context is not None else made.url.replace("localhost", "127.0.0.1")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield made
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def is_signed(got: Received, secret: str, now: float, tolerance: float = 300.0) -> bool:
    """Return whether a receiver may believe a POST; written after the text of Standard Webhooks, not after our code."""
    stamp = got.headers["webhook-timestamp"]
    if abs(now - int(stamp)) > tolerance:
        return False
    key = base64.b64decode(secret[len("whsec_") :])
    signed = f"{got.headers['webhook-id']}.{stamp}.".encode() + got.body
    right = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
    given = [one.split(",", 1) for one in got.headers["webhook-signature"].split(" ")]
    return any(version == "v1" and hmac.compare_digest(right, made) for version, made in given)
