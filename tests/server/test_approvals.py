"""A second person's approval over HTTP and in the console: who may, who may not, and what is shown."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.server.test_app import Company
from tests.server.test_console import browser


@pytest.fixture(scope="module")
def company(tmp_path_factory) -> Iterator[Company]:
    made = Company(tmp_path_factory.mktemp("approvals"))
    made.app = made.remade(admission={"approval_rows": 0})
    made.rows = iter(range(80))
    yield made
    made.close()


def proposed(company, caller="ann") -> str:
    answer = company.as_(caller, "forget").post("/v1/forget", json={"ids": [next(company.rows)]})
    assert (answer.status_code, answer.json()["state"]) == (202, "PROPOSED")
    assert answer.json()["approval"] == {"rows": 1, "approved_by": None, "approved_at": None}
    return answer.json()["request_id"]


@pytest.mark.parametrize(
    ("caller", "scopes", "code"),
    [
        ("ann", ["forget"], 403),
        ("ann", ["forget", "audit"], 403),
        ("ann", ["admin"], 403),
        ("ben", ["forget"], 404),
        ("ben", ["audit"], 403),
        ("ben", ["forget", "audit"], 200),
        ("ben", ["admin"], 200),
    ],
)
def test_who_may_forget_and_see_it_under_another_name_may_approve(company, caller, scopes, code):
    name = proposed(company)
    answer = company.as_(caller, *scopes).post(f"/v1/requests/{name}/approve")
    assert answer.status_code == code, answer.text
    report = company.system.report(name)
    assert report["state"] == ("RECEIVED" if code == 200 else "PROPOSED")
    assert report["approval"]["approved_by"] == ("ben" if code == 200 else None)


def test_approved_twice_it_is_one_request_and_taken_back_it_is_none(company):
    ben, name = company.as_("ben", "forget", "audit"), proposed(company)
    first, second = (ben.post(f"/v1/requests/{name}/approve") for _ in range(2))
    assert first.json()["request_id"] == second.json()["request_id"] == name
    gone = proposed(company)
    assert company.as_("ann", "forget").post(f"/v1/requests/{gone}/cancel").json()["state"] == "CANCELLED"
    assert ben.post(f"/v1/requests/{gone}/approve").status_code == 409


def test_the_console_shows_what_waits_and_a_button_to_others(company):
    name = proposed(company)
    ben, auditor = browser(company, "audit", "forget"), browser(company, "audit")
    overview = ben.get("/console").text
    assert f'<a href="/console/requests/{name}">{name}</a> of ann waits for another person' in overview
    page = ben.get(f"/console/requests/{name}").text
    assert f'action="/console/requests/{name}/approve"' in page
    assert 'aria-current="step"><strong>proposed<' in page
    assert "Somebody else than its caller approves it" in page
    assert "/approve" not in auditor.get(f"/console/requests/{name}").text
    own = proposed(company, "auditor")  # as the console's browsers are called here
    page = ben.get(f"/console/requests/{own}").text
    assert "/approve" not in page
    assert "Somebody else than you has to approve it" in page
    assert ben.post(f"/console/requests/{own}/approve", follow_redirects=False).status_code == 403
    done = ben.post(f"/console/requests/{name}/approve", follow_redirects=False)
    assert (done.status_code, done.headers["location"]) == (303, f"/console/requests/{name}")
    page = ben.get(f"/console/requests/{name}").text
    assert "approved by</dt><dd>auditor</dd>" in page
    company.system.run(until_idle=True)
    report = company.system.report(name)
    assert (report["state"], report["approval"]["approved_by"]) == ("PURGED", "auditor")
