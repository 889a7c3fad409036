"""Sessions of the console: no token in a browser, an end on the server, and no form that another site sent."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import sqlalchemy as sa
from fastapi.testclient import TestClient

from hybridmu.server.app import make_app
from hybridmu.store.ledger import tables as t
from hybridmu.store.ledger.console_sessions import ConsoleSessions
from hybridmu.store.ledger.engine.transactions import reader
from tests.server.test_app import Company


class Clock:
    """A time that a test sets."""

    now = 1e9

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_a_session_ends_by_time_by_idleness_and_when_it_is_left(ledger, engine, clock):
    sessions = ConsoleSessions(engine, 1000.0, 100.0, clock)
    left, idle, seen, set_back = (sessions.begin("0123456789") for _ in range(4))
    assert sessions.find(left, seen=True) == "0123456789"
    sessions.end(left)
    sessions.end(left)
    assert sessions.find(left, seen=True) is None
    for _ in range(10):
        clock.now += 99
        assert sessions.find(seen, seen=True) == "0123456789"
        assert (sessions.find(idle, seen=False) is None) == (clock.now >= 1e9 + 100), "looking by itself keeps none"
    clock.now = 1e9 + 1000
    assert sessions.find(seen, seen=True) is None
    clock.now = 1e9 - 1
    assert sessions.find(set_back, seen=True) is None
    clock.now = 1e9 + 1000
    sessions.begin("0123456789")
    with reader(engine).begin() as connection:
        assert connection.scalar(sa.select(sa.func.count()).select_from(t.console_sessions)) == 1, "ended ones go"


@pytest.mark.parametrize("name", ["", "x", "\x00", "é", "\ud800", "a" * 100_000])
@pytest.mark.sampled
def test_what_is_no_session(ledger, engine, name):
    assert ConsoleSessions(engine, 10.0, 10.0).find(name, seen=True) is None


def test_what_is_kept_names_no_session(ledger, engine):
    name = ConsoleSessions(engine, 10.0, 10.0).begin("0123456789")
    with reader(engine).begin() as connection:
        (row,) = connection.execute(sa.select(t.console_sessions)).all()
    assert name not in repr(row)
    assert bytes.fromhex(name) not in row.digest


@pytest.fixture(scope="module")
def company(tmp_path_factory) -> Iterator[Company]:
    made = Company(tmp_path_factory.mktemp("sessions"))
    yield made
    made.close()


def entered(company: Company, app=None, base: str = "http://testserver") -> tuple[TestClient, str]:
    text, token = company.tokens.create("auditor", ["audit"])
    client = TestClient(app or company.app, base_url=base)
    client.post("/console/enter", data={"token": text})
    company.last = token.token_id
    return client, text


def is_in(client: TestClient) -> bool:
    page = client.get("/console")
    return 'id="requests"' in page.text and '<input id="token"' not in page.text


def test_the_cookie_is_no_token_and_no_token_is_a_cookie(company):
    client, text = entered(company)
    ((name, value),) = client.cookies.items()
    assert text not in value
    assert value not in text
    assert is_in(client)
    assert client.get("/v1/requests").status_code == 401
    assert client.get("/v1/requests", headers={"Authorization": f"Bearer {value}"}).status_code == 401
    assert not is_in(TestClient(company.app, cookies={name: text}))


def test_leaving_ends_the_session_on_the_server_and_coming_in_again_the_old_one(company):
    client, text = entered(company)
    kept = TestClient(company.app, cookies=dict(client.cookies))
    assert is_in(kept)
    client.post("/console/enter", data={"token": text})
    assert is_in(client)
    assert not is_in(kept)
    kept = TestClient(company.app, cookies=dict(client.cookies))
    assert is_in(kept)
    client.post("/console/leave")
    assert not is_in(client)
    assert not is_in(kept)


def test_a_session_rests_on_its_token_and_any_process_knows_it(company):
    client, _ = entered(company)
    other = TestClient(make_app(company.system.settings), cookies=dict(client.cookies))
    assert is_in(other)
    company.tokens.revoke(company.last)
    assert not is_in(other)
    assert not is_in(client)


def test_a_page_that_is_only_refreshed_ends(company):
    app = company.remade(api={"console_idle_seconds": 1.0})
    client, _ = entered(company, app)
    assert "again=1" in client.get("/console").text
    page = client.get("/console?again=1").text
    while '<input id="token"' not in page:  # ends however slow the machine is, since nothing renews it
        page = client.get("/console?again=1").text


@pytest.mark.parametrize(("headers", "ours"), [
    ({}, True),
    ({"Origin": "http://testserver"}, True),
    ({"Sec-Fetch-Site": "same-origin", "Origin": "null"}, True),
    ({"Sec-Fetch-Site": "none"}, True),
    ({"Origin": "null"}, False),
    ({"Origin": "http://evil.example"}, False),
    ({"Origin": "http://testserver.evil.example"}, False),
    ({"Origin": "http://testserver:81"}, False),
    ({"Origin": "http://[evil"}, False),
    ({"Sec-Fetch-Site": "cross-site"}, False),
    ({"Sec-Fetch-Site": "same-site", "Origin": "http://testserver"}, False),
])  # fmt: skip
def test_a_form_of_another_site_does_nothing(company, headers, ours):
    client, text = entered(company)
    before = dict(client.cookies)
    answers = [client.post("/console/enter", data={"token": text}, headers=headers, follow_redirects=False)]
    assert ours or dict(client.cookies) == before
    answers.append(client.post("/console/leave", headers=headers, follow_redirects=False))
    assert [answer.status_code for answer in answers] == [303 if ours else 403] * 2
    assert is_in(client) != ours


def test_over_tls_the_cookie_is_locked_to_the_host(company):
    client, _ = entered(company, base="https://console.example")
    assert is_in(client)
    (name,) = client.cookies
    assert name.startswith("__Host-")
    # A cookie that an unencrypted answer of another host could have set does not count here.
    assert not is_in(TestClient(company.app, base_url="https://console.example",
                                cookies={"hybridmu_console": client.cookies[name]}))  # fmt: skip


def test_a_form_is_short(company):
    found = company.stranger.post("/console/enter", content=b"token=" + b"a" * 9000)
    assert found.status_code == 413


def test_names_are_shown_as_text_and_turn_no_direction(company):
    name = "desk\u202ekrow</td><script>alert(1)</script>"
    made = company.system.forget(ids=[3], caller=name)["request_id"]
    client, _ = entered(company)
    for path in ("/console", f"/console/requests/{made}"):
        page = client.get(path).text
        assert "krow&lt;/td&gt;" in page
        assert "<script" not in page
        assert "\u202e" not in page


def test_the_list_is_turned_page_by_page_and_by_state(company, monkeypatch):
    monkeypatch.setattr("hybridmu.server.console_routes._SHOWN", 2)
    for row in range(10, 15):
        company.system.forget(ids=[row], caller="desk")
    client, _ = entered(company)
    total, seen, path = len(company.system.requests()), [], "/console?state=RECEIVED"
    while path:
        page = client.get(path).text
        found = page.split('<a href="/console/requests/')[1:]
        assert len(found) <= 2
        seen += [one[:18] for one in found]
        following = page.split('<a rel="next" href="')[1:]
        path = following[0].split('"')[0].replace("&amp;", "&") if following else ""
    assert seen == [one["request_id"] for one in company.system.requests()][::-1]
    assert len(set(seen)) == total
    assert "None yet" in client.get("/console?state=FAILED").text
    assert client.get("/console?state=NONE").status_code == 422
    assert client.get("/console?before=r-none").status_code == 404


def test_guesses_at_the_door_are_counted(company):
    client = TestClient(company.remade(api={"requests_per_second": 0.01, "burst": 3}))
    codes = [client.post("/console/enter", data={"token": "hmu_" + "0" * 75}).status_code for _ in range(4)]
    assert codes == [403, 403, 403, 429]
    for path in ("/console", "/console/requests/r-1"):
        refused = client.get(path)
        assert (refused.status_code, int(refused.headers["retry-after"]) > 0) == (429, True)


def test_a_session_ends_with_its_token_by_time(company):
    text, token = company.tokens.create("auditor", ["audit"], 3600.0)
    client = TestClient(company.app)
    client.post("/console/enter", data={"token": text})
    assert is_in(client)
    company.tokens.rotate(token.token_id)  # without a time of change the old one ends now
    assert not is_in(client)
