"""Connections to the real server over loopback: nobody who sends or reads too slowly stays, and others are answered."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import httpx
import pytest

from hybridmu.config.deployment import ApiSettings
from hybridmu.server.connections import make_server
from tests.server.test_app import Company

_HANG = 60  # seconds after which a test has failed; none waits for its end otherwise


@pytest.fixture(scope="module")
def company(tmp_path_factory) -> Iterator[Company]:
    made = Company(tmp_path_factory.mktemp("connections"))
    yield made
    made.close()


@contextmanager
def serving(company: Company, **settings):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = make_server(company.app, ApiSettings(port=port, **settings))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        yield server, port
    finally:
        server.should_exit = True
        thread.join(_HANG)
        assert not thread.is_alive(), "it stops, whoever is connected"


def connect(port: int) -> socket.socket:
    made = socket.create_connection(("127.0.0.1", port), timeout=_HANG)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return made


def answer_to(made: socket.socket, slowly: bytes = b"") -> bytes:
    """Return all that comes until the other side closes, while something is sent byte by byte."""
    made.settimeout(0.02)
    found, until = b"", time.monotonic() + _HANG
    while time.monotonic() < until:
        try:
            if slowly:
                made.sendall(slowly[:1])
                slowly = slowly[1:]
            if not (piece := made.recv(65536)):
                return found
            found += piece
        except TimeoutError:
            continue
        except OSError:  # closed while we sent
            return found
    raise AssertionError("the connection stays open")


def head(company: Company, length: int) -> bytes:
    token = company.as_("slow", "forget").headers["authorization"]
    return (f"POST /v1/plan HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: {token}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {length}\r\n\r\n").encode()  # fmt: skip


GOOD = b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"


@pytest.mark.parametrize(("sent", "slowly", "says"), [
    (b"", b"", b""),
    (b"\r\n", b"", b"400"),
    (b"GET /heal", b"", b"408"),
    (b"GET /healthz HTTP/1.1\r\n", b"X-A: b\r\n" * 1000, b"408"),
    (b"\r\n", b"\r\n" * 1000, b"400"),
])  # fmt: skip
def test_headers_that_do_not_end(company, sent, slowly, says):
    with serving(company, header_seconds=0.3) as (server, port), connect(port) as made:
        made.sendall(sent)
        assert says in answer_to(made, slowly)
        gone(server)


def test_headers_of_a_second_call_that_do_not_end(company):
    with serving(company, header_seconds=0.3, idle_seconds=_HANG) as (server, port), connect(port) as made:
        made.sendall(GOOD + b"GET /healthz HTTP/1.1\r\n")
        found = answer_to(made, b"X-A: b\r\n" * 1000)
        assert found.startswith(b"HTTP/1.1 200")
        assert b"408" in found
        gone(server)


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_that_does_not_end(company, chunked):
    begun = head(company, 1000)
    if chunked:
        begun = begun.replace(b"Content-Length: 1000", b"Transfer-Encoding: chunked")
    with serving(company, body_seconds=0.3) as (server, port), connect(port) as made:
        made.sendall(begun)
        found = answer_to(made, b"1\r\n \r\n" * 1000 if chunked else b" " * 900)
        assert found.startswith(b"HTTP/1.1 408")
        gone(server)


def test_a_body_that_nobody_waits_for(company):
    # The answer (no token) is given before the body; what is still sent of it is bounded too.
    refused = b"POST /v1/plan HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000\r\n\r\n"
    with serving(company, body_seconds=0.3, idle_seconds=_HANG) as (server, port), connect(port) as made:
        made.sendall(refused)
        found = answer_to(made, b" " * 900)
        assert found.startswith(b"HTTP/1.1 401")
        assert found.count(b"HTTP/1.1 ") == 1
        gone(server)


def test_a_body_that_is_too_long_is_answered(company):
    with serving(company) as (_, port):
        token = company.as_("long", "forget").headers["authorization"]
        found = httpx.post(f"http://127.0.0.1:{port}/v1/plan", content=b" " * 10_000_000, timeout=_HANG,
                           headers={"Authorization": token, "Content-Type": "application/json"})  # fmt: skip
        assert found.status_code == 413


def test_a_connection_without_a_call(company):
    with serving(company, idle_seconds=0.3) as (server, port), connect(port) as made:
        made.sendall(GOOD + GOOD)
        assert answer_to(made).count(b"HTTP/1.1 200") == 2
        gone(server)


def test_answers_that_nobody_reads(company):
    with serving(company, reply_seconds=0.3, idle_seconds=0.3) as (server, port), socket.socket() as made:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        made.settimeout(_HANG)
        made.connect(("127.0.0.1", port))
        asked = b"GET /openapi.json HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" * 500
        made.settimeout(0.2)
        with suppress(OSError):  # until nothing more is taken, or the other side has ended it
            while True:
                made.sendall(asked)
        gone(server)


def test_half_open_connections_keep_nobody_out(company):
    with serving(company, connections=5, header_seconds=_HANG) as (server, port):
        half_open = [connect(port) for _ in range(12)]
        for made in half_open:
            made.sendall(b"GET /healthz HTTP/1.1\r\n")
        for _ in range(10):
            assert httpx.get(f"http://127.0.0.1:{port}/healthz", timeout=_HANG).status_code == 200
        assert len(server.server_state.connections) <= 5
        for made in half_open:
            made.close()


@pytest.mark.parametrize("sent", [
    b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    b"GET / HTTP/1.1\r\n\r\n",
    b"POST /v1/plan HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n12",
    b"POST /v1/plan HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999999999\r\n\r\n",
    b"POST /v1/plan HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
    b"POST /v1/plan HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n",
    b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 100_000 + b"\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: a\r\n" * 20_000 + b"\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\n folded: b\r\nX : y\r\n\r\n",
    b"GET / HTTP/1.1\nHost: a\n\x00: b\n\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"GET http://evil.example/healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nHost: evil.example\r\n\r\n",
])  # fmt: skip
@pytest.mark.sampled
def test_what_is_no_http_ends_the_connection(company, sent):
    with serving(company, header_seconds=0.3, body_seconds=0.3, idle_seconds=0.3) as (server, port):
        with connect(port) as made:
            made.sendall(sent)
            found = answer_to(made)
            assert found.startswith((b"HTTP/1.1 400", b"HTTP/1.1 408", b"HTTP/1.1 421")) or not found
        gone(server)
        assert httpx.get(f"http://127.0.0.1:{port}/healthz", timeout=_HANG).status_code == 200


def test_chunks_of_a_wrong_length_are_no_body(company):
    begun = head(company, 0).replace(b"Content-Length: 0", b"Transfer-Encoding: chunked")
    with serving(company, body_seconds=0.3) as (server, port):
        for body in (b"zz\r\n{}\r\n0\r\n\r\n", b"1\r\n{}\r\n0\r\n\r\n", b"-2\r\n{}\r\n", b"ffffffffffffffff\r\n{}"):
            with connect(port) as made:
                made.sendall(begun + body)
                assert b" 200 " not in answer_to(made)
        gone(server)


@pytest.mark.parametrize(("trusted", "secure"), [((), False), (("127.0.0.0/8",), True)])
def test_only_a_proxy_that_was_named_speaks_for_others(company, trusted, secure):
    token = company.as_("auditor", "audit").headers["authorization"].split()[1]
    headers = {"X-Forwarded-For": "203.0.113.9", "X-Forwarded-Proto": "https", "Forwarded": "proto=https;host=evil"}
    with serving(company, trusted_proxies=trusted) as (_, port):
        entered = httpx.post(
            f"http://127.0.0.1:{port}/console/enter", data={"token": token}, headers=headers, timeout=_HANG
        )
    assert entered.status_code == 303
    assert ("Secure" in entered.headers["set-cookie"]) == secure


def gone(server) -> None:
    until = time.monotonic() + _HANG
    while server.server_state.connections:
        assert time.monotonic() < until, "a connection stays"
        time.sleep(0.01)
