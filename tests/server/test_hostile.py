"""Calls of somebody who means harm: bodies, headers, paths and names of every kind; none ends in a 5xx or half-done."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator

import pytest
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hybridmu.config import LogSettings
from hybridmu.logs import start_logging
from tests.server.test_app import ROWS, Company

JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def company(tmp_path_factory) -> Iterator[Company]:
    made = Company(tmp_path_factory.mktemp("hostile"))
    yield made
    made.close()


@pytest.fixture(scope="module")
def admin(company):
    return company.as_("admin", "admin")


@pytest.mark.parametrize("path", ["/v1/forget", "/v1/plan"])
@pytest.mark.parametrize(("raw", "says"), [
    (b"", "not JSON|Expecting"),
    (b"{", "Expecting"),
    (b"null", "body"),
    (b"[]", "body"),
    (b'{"ids":[1],"ids":[2]}', "twice"),
    (b'{"ids":[1],"i\\u0064s":[2]}', "twice"),
    (b'{"ids":[{"a":1,"a":2}]}', "twice"),
    (b'{"ids":[NaN]}', "no number NaN"),
    (b'{"ids":[1],"deadline_seconds":Infinity}', "no number Infinity"),
    (b'{"ids":[1],"deadline_seconds":-Infinity}', "no number -Infinity"),
    (b'{"ids":[1],"deadline_seconds":1e400}', "deadline_seconds"),
    (b'{"ids":[1e400]}', "ids.0"),
    (b'{"ids":[1.0]}', "ids.0"),
    (b'{"ids":[' + b"9" * 5000 + b"]}", "not JSON"),
    (b'{"ids":[1],"deadline_seconds":true}', "deadline_seconds"),
    (b'{"ids":[1],"deadline_seconds":"5"}', "deadline_seconds"),
    (b'{"ids":[1],"ignore_unknown":1}', "ignore_unknown"),
    (b'{"ids":[1],"ignore_unknown":"yes"}', "ignore_unknown"),
    (b'{"ids":[1],"key":7}', "key"),
    (b'{"ids":[true]}', "ids.0"),
    (b'{"ids":[1],"strategy":["auto"]}', "strategy"),
    (b'{"ids":["\\ud800"]}', "ids.0"),
    (b'{"ids":"17"}', "ids"),
    (b'{"ids":{"0":17}}', "ids"),
    (b'{"ids":[[17]]}', "ids.0"),
    (b'{"ids":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested"),
    (b'{"ids":[1],"x":' + b'{"a":' * 100_000 + b"1" + b"}" * 100_001, "nested"),
    (b'{"ids":[1],"' + b"x" * 100_000 + b'":1}', "Extra"),
    (b"\xff\xfe{\x00}\x00", "not JSON"),
    ('{"ids":[1]}'.encode("utf-16"), "not JSON"),
    (b'{"ids":[1],"strategy":"Retrain"}', "strategy"),
    (b'{"ids":[1],"key":""}', "key"),
    (b'{"ids":[1],"__proto__":{}}', "__proto__"),
])  # fmt: skip
def test_bodies_that_say_nothing_clear(company, admin, path, raw, says):
    before = company.system.requests()
    found = admin.post(path, content=raw, headers=JSON)
    assert found.status_code == 422, found.text
    assert set(found.json()) == {"error", "what", "expected", "got", "remedy"}
    assert len(found.content) < 10_000
    assert re.search(says, found.text) or path == "/v1/plan"
    assert company.system.requests() == before


@pytest.mark.parametrize(("kind", "code"), [
    ("application/json", 202),
    ("application/json; charset=utf-8", 202),
    ("Application/JSON;charset=UTF-8", 202),
    ('application/json; charset="utf-8"', 202),
    ("application/json; charset=utf-16", 415),
    ("application/json; charset=latin-1", 415),
    ("application/json; charset=utf-8; charset=utf-16", 415),
    ("application/x-www-form-urlencoded", 415),
    ("multipart/form-data; boundary=a", 415),
    ("text/plain", 415),
    ("application/jsonp", 415),
    ("", 415),
    (None, 415),
])  # fmt: skip
def test_a_body_is_json_in_utf_8_or_none(company, admin, kind, code):
    headers = {} if kind is None else {"Content-Type": kind}
    found = admin.post("/v1/forget", content=b'{"ids":[%d]}' % ROWS[2], headers=headers)
    assert found.status_code == code
    if code == 202:
        admin.post(f"/v1/requests/{found.json()['request_id']}/cancel")


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(raw=st.binary(max_size=200) | st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(st.characters()),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["ids", "groups", "key", "strategy", "x"]), inner),
    max_leaves=10,
).map(lambda value: json.dumps(value).encode()))  # fmt: skip
def test_no_body_is_a_fault_or_half_done(company, admin, raw):
    stones = len(company.system.ledger.tombstones())
    for path in ("/v1/forget", "/v1/plan"):
        found = admin.post(path, content=raw, headers=JSON)
        assert found.status_code in {200, 202, 409, 422, 429}
        if found.status_code >= 400:
            assert len(company.system.ledger.tombstones()) == stones
    admin.post("/console/enter", content=raw)
    admin.post("/console/leave", content=raw)


NAMES = [
    "..",
    ".",
    "%2e%2e",
    "..%2f..%2fledger.sqlite3",
    "%00",
    "r-%0d%0aSet-Cookie:a=b",
    "r-\u202e",
    "r-%F0%9F%92%A9",
    "r-%ff",
    "a" * 41,
    "r-a%2fcancel",
    "r-'%20OR%201=1--",
    "r-%25s",
    "{request_id}",
    "r-\u0661",
    "%C2%A0",
]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "path",
    [
        "/v1/requests/{}",
        "/v1/requests/{}/cancel",
        "/v1/certificates/{}",
        "/v1/requests?before={}",
        "/console/requests/{}",
        "/console/certificates/{}",
    ],
)
def test_names_that_are_none(company, admin, path, name):
    client = company.as_("auditor", "admin")
    client.post("/console/enter", data={"token": client.headers["authorization"].split()[1]})
    found = client.request("POST" if path.endswith("cancel") else "GET", path.format(name), follow_redirects=False)
    assert found.status_code in {200, 404, 405, 422}
    if found.status_code == 200:  # `.` and `..` are resolved by the client: a list, or the console
        assert name in {"..", ".", "%2e%2e"}
    assert "set-cookie" not in found.headers
    assert "location" not in found.headers


ROUTES = [
    ("POST", "/v1/forget"),
    ("POST", "/v1/plan"),
    ("GET", "/v1/requests"),
    ("GET", "/v1/requests/r-1"),
    ("POST", "/v1/requests/r-1/cancel"),
    ("GET", "/v1/certificates/r-1"),
    ("GET", "/metrics"),
    ("GET", "/healthz"),
    ("GET", "/console"),
    ("POST", "/console/enter"),
    ("POST", "/console/leave"),
]


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_methods_that_a_call_does_not_know(admin, method, path):
    for other in ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "TRACE", "CONNECT", "FORGET"):
        if other != method:
            found = admin.request(other, path)
            assert found.status_code == 405
            assert found.headers["allow"] == method


@pytest.mark.parametrize(("method", "path"), [*ROUTES, ("GET", "/openapi.json"), ("GET", "/docs"), ("GET", "/redoc"),
                                              ("GET", "/"), ("GET", "/console/style.css")])  # fmt: skip
def test_every_answer_is_closed_to_other_sites_and_caches(company, method, path):
    for client in (company.stranger, company.as_("auditor", "admin")):
        found = client.request(method, path, headers=JSON, follow_redirects=False)
        policy = found.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "script-src" not in policy
        assert found.headers["x-content-type-options"] == "nosniff"
        assert found.headers["referrer-policy"] in {"no-referrer", "same-origin"}
        assert found.headers["cache-control"] in {"no-store", "no-cache"}
        assert "access-control-allow-origin" not in found.headers
        assert "<script" not in found.text
        assert found.status_code != 200 or path not in {"/docs", "/redoc", "/"}


@pytest.mark.parametrize(("host", "ours"), [
    ("testserver", True),
    ("TestServer:8080", True),
    ("127.0.0.1:1", True),
    ("evil.example", False),
    ("testserver.evil.example", False),
    ("testserver@evil.example", False),
    ("evil.example/testserver", False),
    ("testserver:80:80", False),
    ("[::1", False),
    ("", False),
])  # fmt: skip
def test_the_name_that_a_call_is_made_by(company, admin, host, ours):
    for path in ("/v1/requests", "/v1/requests/", "/console", "/console/", "/console/leave", "//evil.example/console"):
        method = "POST" if path.endswith("leave") else "GET"
        found = admin.request(method, path, headers={"Host": host, "X-Forwarded-Host": "evil.example"},
                              follow_redirects=False)  # fmt: skip
        assert (found.status_code != 421) == ours
        assert "evil" not in found.headers.get("location", "") + found.text
        assert found.headers.get("location", "/").startswith("/")
    assert admin.get("/healthz", headers={"Host": "10.1.2.3:8080"}).status_code == 200


def test_the_hosts_of_a_company(company):
    app = company.remade(api={"hosts": ("*.example.org", "api.internal", "::1")})
    for host, code in (("a.b.example.org", 200), ("API.internal", 200), ("[::1]:80", 200), ("example.org", 421),
                       ("aexample.org", 421), ("testserver", 421)):  # fmt: skip
        assert TestClient(app).get("/openapi.json", headers={"Host": host}).status_code == code


def test_log_lines_are_one_line_each(capsys):
    try:
        start_logging(LogSettings(format="text", level="info"))
        logging.getLogger("hybridmu.test").info("name %s", "a\r\n2026-01-01 INFO forged\x1b[2J\u2028\ud800")
        (line,) = capsys.readouterr().err.splitlines()
        assert line.endswith(r"name a\r\n2026-01-01 INFO forged\x1b[2J\u2028\ud800")
    finally:
        logging.basicConfig(handlers=[], force=True)
