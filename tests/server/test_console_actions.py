"""The console acts: deletions are planned, submitted and taken back, people found, work paused and rows held."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator

import pytest
from fastapi.testclient import TestClient

from tests.server.test_app import Company
from tests.server.test_console import browser


@pytest.fixture(scope="module")
def company(tmp_path_factory) -> Iterator[Company]:
    made = Company(tmp_path_factory.mktemp("actions"))
    yield made
    made.close()


def fields(page: str) -> dict[str, str]:
    """Return what the form of a deletion holds."""
    key = re.search(r'name="key" value="([^"]*)"', page)
    assert key
    return {"key": html.unescape(key[1]), "ids": "", "groups": "", "strategy": "auto", "days": ""}


def deletion(client: TestClient, do: str, **said: str):
    form = fields(client.get("/console/forget").text) | said
    return client.post("/console/forget", data={**form, "do": do}, follow_redirects=False), form


def requests(company: Company) -> list[str]:
    return [request["request_id"] for request in company.system.requests()]


def test_a_plan_changes_nothing_and_the_same_form_forgets(company):
    client, before = browser(company, "audit", "forget"), requests(company)
    page, form = deletion(client, "plan", ids="5\r\n6\r\n\r\n", days="2")
    assert page.status_code == 200
    assert '<h3 id="plan">Plan</h3>' in page.text
    assert "5\n6" in html.unescape(page.text)
    assert requests(company) == before
    assert fields(page.text)["key"] == form["key"]
    done = client.post("/console/forget", data={**form, "do": "forget"}, follow_redirects=False)
    assert done.status_code == 303
    assert (
        client.post("/console/forget", data={**form, "do": "forget"}, follow_redirects=False).headers["location"]
        == done.headers["location"]
    ), "sent twice, it is one request"
    report = company.system.report(requests(company)[-1])
    assert done.headers["location"].endswith(report["request_id"])
    assert (report["keys"], report["caller"], report["state"]) == (2, "auditor", "RECEIVED")
    assert report["seconds_to_deadline"] == pytest.approx(2 * 86_400)


@pytest.mark.parametrize(
    ("said", "code", "words"),
    [
        ({}, 422, "name at least one id or group"),
        ({"ids": "no-such-row"}, 422, "no-such-row"),
        ({"ids": "1", "days": "-3"}, 422, "deadline_seconds"),
        ({"ids": "1", "days": "nan"}, 422, "JSON has no number NaN"),
        ({"ids": "1", "strategy": "wish"}, 422, "strategy"),
        ({"groups": "<script>alert(1)</script>"}, 422, "&lt;script&gt;"),
    ],
)
@pytest.mark.parametrize("do", ["plan", "forget"])
def test_what_is_wrong_is_said_beside_the_form_and_nothing_is_changed(company, do, said, code, words):
    client, before = browser(company, "audit", "forget"), requests(company)
    page, form = deletion(client, do, **said)
    assert page.status_code == code
    assert 'role="alert"' in page.text
    assert words in page.text
    assert "<script>" not in page.text
    assert fields(page.text)["key"] == form["key"]
    assert requests(company) == before


def test_days_that_are_no_number(company):
    page, _ = deletion(browser(company, "audit", "forget"), "plan", ids="1", days="soon")
    assert page.status_code == 422
    assert "no number of days" in page.text


def test_who_may_only_look_is_shown_no_form_and_can_send_none(company):
    client, before = browser(company, "audit"), requests(company)
    overview = client.get("/console").text
    assert "/console/forget" not in overview
    assert "/console/pause" not in overview
    assert "/console/person" not in overview
    assert client.get("/console/forget").status_code == 403
    assert client.get("/console/person").status_code == 403
    name = before[-1] if before else company.system.forget(ids=[9])["request_id"]
    paths = (
        "forget",
        "person",
        f"requests/{name}/cancel",
        f"requests/{name}/approve",
        "pause",
        "resume",
        "hold",
        f"requests/{name}/hold",
        "holds/1/lift",
    )
    for path in paths:
        answer = client.post(f"/console/{path}", data={"ids": "1", "reason": "x"}, follow_redirects=False)
        assert answer.status_code == 403, path
    desk = browser(company, "audit", "forget")
    for path in paths[4:]:
        assert desk.post(f"/console/{path}", data={"reason": "x"}, follow_redirects=False).status_code == 403, path
    assert company.system.status()["pause"] is None
    assert company.system.holds() == []
    stranger = company.stranger.post("/console/forget", data={"ids": "1", "do": "forget"})
    assert '<input id="token"' in stranger.text


@pytest.mark.parametrize("header", [{"sec-fetch-site": "cross-site"}, {"origin": "https://evil.example"}])
def test_a_form_that_another_site_sent_does_nothing(company, header):
    client, before = browser(company, "audit", "forget", "admin"), requests(company)
    for path in (
        "forget",
        "person",
        "pause",
        "resume",
        "hold",
        "requests/r-1/cancel",
        "requests/r-1/approve",
        "requests/r-1/hold",
        "holds/1/lift",
    ):
        answer = client.post(f"/console/{path}", data={"ids": "1", "do": "forget", "reason": "x"}, headers=header)
        assert answer.status_code == 403, path
        assert "another site" in answer.text
    assert requests(company) == before


def test_a_request_is_taken_back_by_its_caller_or_an_admin_alone(company):
    mine = company.system.forget(ids=[21], caller="auditor")["request_id"]
    other = company.system.forget(ids=[22], caller="shop")["request_id"]
    client = browser(company, "audit", "forget")
    assert f"/console/requests/{mine}/cancel" in client.get(f"/console/requests/{mine}").text
    assert f"/console/requests/{other}/cancel" not in client.get(f"/console/requests/{other}").text
    assert client.post(f"/console/requests/{other}/cancel", follow_redirects=False).status_code == 403
    assert client.post(f"/console/requests/{mine}/cancel", follow_redirects=False).status_code == 303
    assert company.system.report(mine)["state"] == "CANCELLED"
    admin = browser(company, "admin")
    assert admin.post(f"/console/requests/{other}/cancel", follow_redirects=False).status_code == 303
    assert company.system.report(other)["state"] == "CANCELLED"


def test_an_admin_pauses_holds_and_lifts(company):
    admin = browser(company, "admin")
    assert admin.post("/console/pause", data={"reason": "audit <b>now</b>"}).status_code == 200
    assert company.system.status()["pause"]["reason"] == "audit <b>now</b>"
    overview = admin.get("/console").text
    assert "audit &lt;b&gt;now&lt;/b&gt;" in overview
    assert "/console/resume" in overview
    admin.post("/console/resume")
    assert company.system.status()["pause"] is None
    name = company.system.forget(ids=[31], caller="shop")["request_id"]
    admin.post(f"/console/requests/{name}/hold", data={"reason": "court"})
    admin.post("/console/hold", data={"reason": "all of them"})
    first, second = company.system.holds()
    assert (first["request_id"], second["request_id"]) == (name, None)
    assert f'action="/console/holds/{second["number"]}/lift"' in admin.get("/console").text
    for placed in (first, second):
        assert admin.post(f"/console/holds/{placed['number']}/lift", follow_redirects=False).status_code == 303
    assert company.system.holds() == []
    page = admin.post(f"/console/holds/{first['number']}/lift")
    assert (page.status_code, "Not done" in page.text) == (409, True)
    page = admin.post("/console/pause", data={"reason": " "})
    assert page.status_code == 422


def test_a_person_is_found_while_they_wait_and_after_they_are_gone(company, caplog):
    client = browser(company, "audit", "forget")
    name = company.system.forget(ids=[41], strategy="retrain", caller="shop")["request_id"]
    page = client.post("/console/person", data={"kind": "id", "value": "41"}).text
    assert name in page
    assert "RECEIVED" in page
    company.system.run(until_idle=True)
    report = company.system.report(name)
    assert report["state"] == "PURGED"
    page = client.post("/console/person", data={"kind": "id", "value": "41"}).text
    assert name in page
    assert f'<a href="/console/certificates/{name}">{report["certificate"]}</a>' in page
    page = browser(company, "admin").post(f"/console/requests/{name}/cancel", follow_redirects=False)
    assert (page.status_code, "Not done" in page.text) == (409, True)
    for nobody in ({"kind": "id", "value": "42"}, {"kind": "group", "value": "41"}, {"kind": "id", "value": "4141"}):
        assert "No request named it" in client.post("/console/person", data=nobody).text, nobody
    assert client.post("/console/person", data={"kind": "row", "value": "41"}).status_code == 422
    assert "41" not in [word for record in caplog.records for word in re.findall(r"\w+", record.getMessage())]


def test_a_plan_gives_the_form_back_to_the_character(company):
    odd = 'a\u202eb\u200b"<&'
    page, _ = deletion(browser(company, "audit", "forget"), "plan", groups=odd)
    assert f'rows="4">{html.escape(odd, quote=False).replace(chr(34), "&#34;")}</textarea>' in page.text


def test_too_many_fields_and_bytes_that_are_no_text(company):
    client = browser(company, "audit", "forget")
    assert client.post("/console/forget", data={f"f{n}": "1" for n in range(40)}).status_code == 422
    page = client.post(
        "/console/forget", content=b"ids=%ff%fe&do=plan", headers={"content-type": "application/x-www-form-urlencoded"}
    )
    assert page.status_code == 422
