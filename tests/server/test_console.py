"""The console: what auditors see, who comes in, and what a browser is allowed to do with it."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from fastapi.testclient import TestClient

from hybridmu.server import charts
from tests.server.test_app import Company


@pytest.fixture(scope="module")
def company(tmp_path_factory) -> Iterator[Company]:
    made = Company(tmp_path_factory.mktemp("console"))
    made.system.forget(ids=[3], strategy="retrain", caller="<b>desk</b>", deadline_seconds=3600)
    made.system.run(until_idle=True)
    made.system.forget(ids=[4], strategy="retrain", caller="late", deadline_seconds=0.001)
    yield made
    made.close()


def browser(company: Company, *scopes: str) -> TestClient:
    text, _ = company.tokens.create("auditor", scopes)
    client = TestClient(company.app, raise_server_exceptions=False)
    client.post("/console/enter", data={"token": text})
    return client


def test_without_a_token_there_is_a_door_and_nothing_else(company):
    (first, late) = company.system.requests()
    for path in ("/console", f"/console/requests/{first['request_id']}", f"/console/certificates/{late['request_id']}"):
        page = company.stranger.get(path)
        assert '<input id="token"' in page.text
        assert first["request_id"] not in page.text
    refused = company.stranger.post("/console/enter", data={"token": "hmu_nothing"})
    assert (refused.status_code, "is not valid" in refused.text) == (403, True)
    for scopes in (["forget"], ["predict"]):
        text, _ = company.tokens.create("desk", scopes)
        refused = TestClient(company.app).post("/console/enter", data={"token": text})
        assert (refused.status_code, "lacks the scope" in refused.text) == (403, True)
        assert not refused.cookies


def test_the_overview_shows_what_the_ledger_knows(company):
    client = browser(company, "audit")
    page = client.get("/console")
    first, late = company.system.requests()
    for word in (first["request_id"], late["request_id"], "PURGED", "RECEIVED", "overdue", "auditor"):
        assert word in page.text
    assert re.search(r"overdue requests</dt><dd class=\"bad\">1<", page.text)
    assert "&lt;b&gt;desk&lt;/b&gt;" in page.text
    assert "<b>desk" not in page.text
    shards = company.system.status()["shards"]
    assert len(re.findall(r'<li class="(?:exact|owing|empty)">', page.text)) == len(shards)
    assert page.text.count('<circle class="retrain"') == 2, "one job, in two plots"
    assert "nothing answers predictions" in page.text


def test_a_request_shows_plan_against_actual_and_its_certificate(company):
    client = browser(company, "audit")
    first, late = company.system.requests()
    page = client.get(f"/console/requests/{first['request_id']}").text
    (shard,) = company.system.report(first["request_id"])["shards"]
    cells = re.findall(r'data-label="(?:shard|strategy|rule)">([^<]+)<', page)
    assert cells == [str(shard["shard"]), "retrain", "request"]
    assert "the request asks for retrain" in page
    assert "What the certificate shows" in page
    assert "training row(s) were in the slices that the old sub-models were trained on" in page
    found = client.get(f"/console/certificates/{first['request_id']}")
    assert found.json()["request"]["id"] == first["request_id"]
    assert "attachment" in found.headers["content-disposition"]
    assert client.get(f"/console/certificates/{late['request_id']}").status_code == 404
    assert client.get("/console/requests/none").status_code == 404


def test_a_request_is_one_line_in_order_and_says_where_it_stands(company):
    client = browser(company, "audit")
    first, late = company.system.requests()
    done = client.get(f"/console/requests/{first['request_id']}").text
    assert done.count('<ol class="life"') == 1
    names = re.findall(r"<li class=\"\w+\"[^>]*><strong>([\w ]+)<", done)
    assert names == ["accepted", "planned", "applied", "exact", "served", "purged", "deadline"]
    assert re.findall(r'<li class="(\w+)" aria-current="step"><strong>([\w ]+)<', done) == [("done", "purged")]
    assert "to spare" in done
    waits = client.get(f"/console/requests/{late['request_id']}").text
    names = re.findall(r"<li class=\"\w+\"[^>]*><strong>([\w ]+)<", waits)
    assert names == ["accepted", "deadline", "planned", "applied", "served", "exact", "purged"]
    assert re.findall(r'aria-current="step"><strong>([\w ]+)<', waits) == ["accepted"]
    assert "overdue by" in waits
    assert waits.count("<span>to come</span>") == 5
    assert "<strong>Next:</strong>" in waits


def test_the_manifest_of_exclusions_is_a_file(company):
    client = browser(company, "audit")
    assert 'href="/console/exclusions"' in client.get("/console").text
    found = client.get("/console/exclusions")
    version = company.system.status()["version"]
    assert found.headers["content-disposition"] == f'attachment; filename="exclusions-{version}.json"'
    assert found.json()["format"] == "hybridmu-exclusions/1"
    assert '<input id="token"' in company.stranger.get("/console/exclusions").text


def test_the_cookie_and_the_pages_are_closed_to_scripts_and_other_sites(company):
    text, token = company.tokens.create("auditor", ["audit"])
    client = TestClient(company.app, base_url="https://console.example")
    entered = client.post("/console/enter", data={"token": text}, follow_redirects=False)
    cookie = entered.headers["set-cookie"].lower()
    for word in ("httponly", "samesite=strict", "path=/;", "secure", "__host-"):
        assert word in cookie
    assert text.rpartition("_")[2] not in cookie
    page = client.get("/console")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert page.headers["cache-control"] == "no-store"
    assert "<script" not in page.text
    assert "style=" not in page.text
    assert 'http-equiv="refresh"' in page.text
    assert client.get("/console/style.css").headers["content-type"].startswith("text/css")
    company.tokens.revoke(token.token_id)
    assert '<input id="token"' in client.get("/console").text
    again = browser(company, "admin")
    assert "PURGED" in again.get("/console").text
    again.post("/console/leave")
    assert '<input id="token"' in again.get("/console").text


def test_points_lie_inside_and_on_the_diagonal_when_the_plan_was_right():
    rows = [{"estimated_seconds": s, "measured_seconds": s, "strategy": "dpus", "planned_visits": v}
            for s, v in ((0.013, 10), (4.2, 10_000), (0.9, 77))]  # fmt: skip
    for figure in (charts.plan_and_actual(rows), charts.boundary(rows)):
        assert all(40 <= x <= 290 and 10 <= y <= 190 for x, y, _ in figure.points)
    for x, y, _ in charts.plan_and_actual(rows).points:
        assert (x - 40) / 250 == pytest.approx((190 - y) / 180, abs=1e-3)
    assert charts.plan_and_actual([]).points == ()
    nothing = [{**rows[0], "measured_seconds": None}]
    assert charts.boundary(nothing).points == ()
