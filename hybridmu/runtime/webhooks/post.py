"""One try to hand a body to a receiver: a single POST, ended in time, whose answer is a status and nothing else."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import Protocol
from urllib.parse import SplitResult

from hybridmu.runtime.webhooks.receiver_addresses import look_up

_DEFAULT_PORTS = {"https": 443, "http": 80}
_OUT_OF_TIME = "no answer in time"


@dataclass(frozen=True)
class Answer:
    """What came of a try.

    Attributes:
        problem: Why the receiver did not acknowledge, in our own words, at most 80 characters; None: it did.
        reached: Whether it answered at all.
    """

    problem: str | None
    reached: bool


class _FailedError(Exception):
    """A receiver could not be reached; the text says why, in our own words."""


class Receiver(Protocol):
    """Whoever is told something."""

    @property
    def address(self) -> SplitResult:
        """Return where, in its parts."""
        ...

    @property
    def private_network(self) -> bool:
        """Return whether its host may have addresses of a private network."""
        ...

    @property
    def timeout_seconds(self) -> float:
        """Return how long one try may take in all."""
        ...


def post(receiver: Receiver, headers: Mapping[str, str], body: bytes) -> Answer:
    """Return what came of one POST.

    The receiver acknowledges by a status of 200 to 299. Redirects are not followed, proxies of the environment not
    used, and the answer's body is not read; a receiver that stalls is left when its time is over.

    Args:
        receiver: Who.
        headers: Besides those of HTTP.
        body: JSON.
    """
    parts = receiver.address
    try:
        with _opened(receiver) as sock:
            connection = _http(receiver, sock)
            connection.sock = sock  # connected to an address that was checked: the name is not looked up again
            target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
            fixed = {"content-type": "application/json", "user-agent": "hybridmu", "connection": "close"}
            connection.request("POST", target, body=body, headers={**fixed, **headers})
            status = connection.getresponse().status
    except _FailedError as error:
        return Answer(str(error), reached=False)
    if 200 <= status < 300:
        return Answer(None, reached=True)
    return Answer(f"HTTP {status}" + (", and redirects are not followed" if 300 <= status < 400 else ""), reached=True)


def out_of_reach(receiver: Receiver) -> str | None:
    """Return why no connection to a receiver can be made, with TLS where its address asks for it; None: one can.

    Nothing is sent to it but what makes the connection.

    Args:
        receiver: Who.
    """
    try:
        with _opened(receiver):
            return None
    except _FailedError as error:
        return str(error)


@contextmanager
def _opened(receiver: Receiver) -> Iterator[socket.socket]:
    """Connect to a receiver; whatever is done with the connection ends when the receiver's time is over.

    Yields:
        The connection, after the handshake of TLS.

    Raises:
        _FailedError: It can't be made, or what is done with it fails.
    """
    deadline = time.monotonic() + receiver.timeout_seconds
    host, port = _place(receiver)
    addresses, refused = look_up(host, port, private=receiver.private_network)
    if refused:
        raise _FailedError(refused)
    try:
        sock = _connected(addresses, port, deadline)
        if receiver.address.scheme == "https":
            # The handshake comes later: it has to be over in time as well.
            context = ssl.create_default_context()
            sock = context.wrap_socket(sock, server_hostname=host, do_handshake_on_connect=False)
    except OSError as error:
        raise _FailedError(_said(error)) from None
    with sock, _EndedAt(sock, deadline) as late:
        try:
            if isinstance(sock, ssl.SSLSocket):
                sock.do_handshake()
            yield sock
        except (OSError, HTTPException, ValueError) as error:
            raise _FailedError(_OUT_OF_TIME if late.is_set() else _said(error)) from None


def _place(receiver: Receiver) -> tuple[str, int]:
    parts = receiver.address
    return parts.hostname or "", parts.port or _DEFAULT_PORTS[parts.scheme]


def _http(receiver: Receiver, sock: socket.socket) -> HTTPConnection:
    """Return HTTP over a connection that is there; the class decides which port the header Host leaves out."""
    host, port = _place(receiver)
    return (
        HTTPSConnection(host, port, context=sock.context)
        if isinstance(sock, ssl.SSLSocket)
        else HTTPConnection(host, port)
    )


def _connected(addresses: list[str], port: int, deadline: float) -> socket.socket:
    """Return a connection to the first address that takes one.

    Raises:
        OSError: None did, or time is over.
    """
    failure: OSError = TimeoutError()  # where time was over before the first
    for address in addresses:
        if (left := deadline - time.monotonic()) <= 0:
            break
        try:
            return socket.create_connection((address, port), timeout=left)
        except OSError as error:
            failure = error
    raise failure


class _EndedAt:
    """A clock over a connection: when time is over, it is shut down under the call that waits for it.

    Time-outs of a socket would start over with every byte that a receiver lets fall.

    Args:
        sock: The connection.
        deadline: On the monotonic clock.
    """

    def __init__(self, sock: socket.socket, deadline: float) -> None:
        self._sock, self._late = sock, threading.Event()
        self._timer = threading.Timer(max(0.0, deadline - time.monotonic()), self._end)
        self._timer.daemon = True

    def __enter__(self) -> threading.Event:
        self._timer.start()
        return self._late

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()

    def _end(self) -> None:
        self._late.set()
        with suppress(OSError):
            # Not the method of a TLS socket, which would go on in plain text.
            socket.socket.shutdown(self._sock, socket.SHUT_RDWR)


def _said(error: Exception) -> str:
    """Return what went wrong, in our own words: an error's text may hold what the receiver sent."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return "its certificate is not valid here"
    if isinstance(error, ssl.SSLError):
        return "no TLS connection"
    if isinstance(error, TimeoutError):
        return _OUT_OF_TIME
    if isinstance(error, ConnectionRefusedError):
        return "nobody listens there"
    if isinstance(error, (HTTPException, ValueError)) and not isinstance(error, OSError):
        return "the answer is no HTTP"
    return "the connection failed"
