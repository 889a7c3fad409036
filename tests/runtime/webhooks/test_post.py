"""One POST against real servers that are slow, redirect, babble, or are not who they say."""

from __future__ import annotations

import datetime
import ipaddress
import socket
import ssl
import threading

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from hybridmu.runtime.webhooks.post import Answer, out_of_reach, post
from tests.scenes.webhook_receiver import receiver
from tests.support import HANG_SECONDS

HEADERS = {"webhook-id": "msg_1"}


@pytest.fixture
def there():
    with receiver() as made:
        yield made


def test_what_is_sent_arrives_as_it_is(there):
    assert post(there.settings(), HEADERS, b'{"a":1}') == Answer(None, reached=True)
    (got,) = there.received
    assert got.body == b'{"a":1}'
    assert got.headers["host"] == there.url.split("/")[2]
    wanted = {
        "content-type": "application/json",
        "webhook-id": "msg_1",
        "content-length": "7",
        "user-agent": "hybridmu",
    }
    assert got.headers.items() >= wanted.items()


@pytest.mark.parametrize("status", [200, 201, 204, 299])
def test_any_success_acknowledges(there, status):
    there.answers = lambda _: status
    assert post(there.settings(), HEADERS, b"{}").problem is None


@pytest.mark.parametrize("status", [400, 404, 410, 429, 500, 503])
def test_any_failure_does_not(there, status):
    there.answers = lambda _: status
    assert post(there.settings(), HEADERS, b"{}") == Answer(f"HTTP {status}", reached=True)


def test_no_redirect_is_followed(there):
    with receiver() as other:

        def redirect(handler):
            handler.send_response(307)
            handler.send_header("location", other.url)
            handler.end_headers()

        there.answers = lambda _: redirect
        assert post(there.settings(), HEADERS, b"{}") == Answer(
            "HTTP 307, and redirects are not followed", reached=True
        )
        assert (len(there.received), other.received) == (1, [])


def test_a_huge_answer_is_not_read(there):
    stopped = threading.Event()

    def babble(handler):
        handler.send_response(200)
        handler.end_headers()
        try:
            while True:
                handler.wfile.write(b"x" * 65536)
        except OSError:  # the sender has hung up
            stopped.set()

    there.answers = lambda _: babble
    assert post(there.settings(), HEADERS, b"{}").problem is None
    assert stopped.wait(HANG_SECONDS)


@pytest.mark.parametrize("first", [b"HTTP/1.1 200 OK\r\n", b""])
def test_an_endless_head_ends_in_time_or_at_its_bound(there, first):
    def babble(handler):
        handler.wfile.write(first)
        try:
            while True:
                handler.wfile.write(b"x-more: 1\r\n" if first else b"x")
        except OSError:
            pass

    there.answers = lambda _: babble
    assert post(there.settings(timeout_seconds=5), HEADERS, b"{}").problem in {
        "the answer is no HTTP",
        "no answer in time",
    }


@pytest.mark.parametrize("drop", [b"HTTP/1.1 100 Continue\r\n\r\n", b"x", b""])
def test_a_receiver_that_stalls_or_drips_is_left_in_time(there, drop):
    over = threading.Event()

    def drip(handler):
        while not over.wait(0.1):
            handler.wfile.write(drop)

    there.answers = lambda _: drip
    answer = post(there.settings(timeout_seconds=1), HEADERS, b"{}")
    over.set()
    assert answer == Answer("no answer in time", reached=False)


def test_what_is_no_http_is_told_in_our_words(there):
    there.answers = lambda _: lambda handler: handler.wfile.write(b"SSH-2.0-secret\r\n\r\n")
    assert post(there.settings(), HEADERS, b"{}") == Answer("the answer is no HTTP", reached=False)


def test_where_nobody_listens():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and never listens
        with receiver() as made:
            settings = made.settings(url=f"http://127.0.0.1:{taken.getsockname()[1]}/")
        assert post(settings, HEADERS, b"{}") == Answer("nobody listens there", reached=False)


def test_a_look_connects_and_sends_nothing(there):
    assert out_of_reach(there.settings()) is None
    assert there.received == []
    refused = there.settings(url="https://192.168.0.1/hook")
    assert out_of_reach(refused) == "the host has a private network's address: set private_network"


def test_a_proxy_of_the_environment_is_not_used(there, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    assert post(there.settings(), HEADERS, b"{}").problem is None


# ---------------------------------------------------------------------- TLS


def certificate(folder, name):
    """Return (file of a self-signed certificate, file of its key)."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    names = [x509.DNSName(name), x509.IPAddress(ipaddress.ip_address("192.0.2.1"))]
    made = x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
    made = made.not_valid_before(now - datetime.timedelta(days=1)).not_valid_after(now + datetime.timedelta(days=1))
    made = made.add_extension(x509.SubjectAlternativeName(names), critical=False)
    signed = made.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True).sign(
        key, hashes.SHA256()
    )
    (folder / "cert.pem").write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    plain = serialization.NoEncryption()
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
    (folder / "key.pem").write_bytes(pem)
    return folder / "cert.pem", folder / "key.pem"


@pytest.mark.parametrize(
    ("name", "trusted", "problem"),
    [
        ("localhost", True, None),
        ("localhost", False, "its certificate is not valid here"),
        ("other.example.org", True, "its certificate is not valid here"),
    ],
)
def test_only_the_host_that_was_meant_is_told(name, trusted, problem, tmp_path, monkeypatch):
    cert, key = certificate(tmp_path, name)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    if trusted:
        monkeypatch.setenv("SSL_CERT_FILE", str(cert))
    with receiver(context) as made:
        assert out_of_reach(made.settings()) == problem
        assert made.received == []
        assert post(made.settings(), HEADERS, b"{}").problem == problem
        assert len(made.received) == (problem is None)


def test_a_handshake_that_never_ends_is_left_in_time():
    with socket.create_server(("127.0.0.1", 0)) as silent, receiver() as made:
        settings = made.settings(url=f"https://127.0.0.1:{silent.getsockname()[1]}/", timeout_seconds=1)
        assert post(settings, HEADERS, b"{}") == Answer("no answer in time", reached=False)
        assert out_of_reach(settings) == "no answer in time"
