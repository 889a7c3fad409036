"""Rights over HTTP: every call, every scope, one's own requests and those of others."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.server.test_app import Company

NOBODY = "r-0123456789abcdef"
# Who asks, and about whose request. `both` has the scopes forget and audit; nobody's request does not exist.
HOLDERS = {"predict": ["predict"], "forget": ["forget"], "audit": ["audit"], "both": ["forget", "audit"],
           "admin": ["admin"]}  # fmt: skip
SEES = {  # what a holder is told of its own request, of another's, and of one that is not there
    "predict": (403, 403, 403),
    "forget": (200, 404, 404),
    "audit": (200, 200, 404),
    "both": (200, 200, 404),
    "admin": (200, 200, 404),
}
CANCELS = {
    "predict": (403, 403, 403),
    "forget": (200, 404, 404),
    "audit": (403, 403, 403),
    "both": (200, 403, 404),
    "admin": (200, 200, 404),
}
ASKS = {"predict": 403, "forget": 422, "audit": 403, "both": 422, "admin": 422}  # of an id that nobody has
WATCHES = {"predict": 403, "forget": 403, "audit": 200, "both": 200, "admin": 200}
LISTS = {"predict": 403, "forget": 200, "audit": 200, "both": 200, "admin": 200}


@pytest.fixture(scope="module")
def company(tmp_path_factory) -> Iterator[Company]:
    made = Company(tmp_path_factory.mktemp("rights"))
    rows = iter(range(80))
    # Two certified requests a holder: its own, and another caller's.
    made.own = {name: made.system.forget(ids=[next(rows)], caller=name)["request_id"] for name in HOLDERS}
    made.other = made.system.forget(ids=[next(rows)], caller="somebody")["request_id"]
    made.system.run(until_idle=True)
    made.rows = rows
    yield made
    made.close()


@pytest.mark.parametrize("name", HOLDERS)
@pytest.mark.parametrize("path", ["/v1/requests/{}", "/v1/certificates/{}"])
@pytest.mark.sampled
def test_what_one_sees_of_a_request(company, name, path):
    client = company.as_(name, *HOLDERS[name])
    asked = (company.own[name], company.other, NOBODY)
    assert tuple(client.get(path.format(one)).status_code for one in asked) == SEES[name]


@pytest.mark.parametrize("name", HOLDERS)
def test_what_one_may_take_back(company, name):
    client = company.as_(name, *HOLDERS[name])
    mine = company.system.forget(ids=[next(company.rows)], caller=name)["request_id"]
    other = company.system.forget(ids=[next(company.rows)], caller="somebody")["request_id"]
    answers = [client.post(f"/v1/requests/{one}/cancel") for one in (mine, other, NOBODY)]
    assert tuple(answer.status_code for answer in answers) == CANCELS[name]
    for one, answer in zip((mine, other), answers, strict=False):
        state = "CANCELLED" if answer.status_code == 200 else "RECEIVED"
        assert company.system.report(one)["state"] == state
        company.system.cancel(one)


@pytest.mark.parametrize("name", HOLDERS)
def test_what_one_may_ask_list_and_watch(company, name):
    client = company.as_(name, *HOLDERS[name])
    for path in ("/v1/forget", "/v1/plan"):
        assert client.post(path, json={"ids": [10**9]}).status_code == ASKS[name]
    assert client.get("/metrics").status_code == WATCHES[name]
    listed = client.get("/v1/requests", params={"limit": 1000})
    assert listed.status_code == LISTS[name]
    if listed.status_code == 200:
        callers = {one["caller"] for one in listed.json()}
        assert callers == {name} if name == "forget" else {"somebody", *HOLDERS} <= callers
    entered = client.post("/console/enter", data={"token": client.headers["authorization"].split()[1]})
    assert entered.status_code == WATCHES[name]
    for path in ("/healthz", "/openapi.json"):
        assert company.stranger.get(path).status_code == 200


def test_anothers_request_is_as_if_there_were_none(company):
    client = company.as_("forget", "forget")
    for method, path in (
        ("GET", "/v1/requests/{}"),
        ("GET", "/v1/certificates/{}"),
        ("POST", "/v1/requests/{}/cancel"),
        ("GET", "/v1/requests?before={}"),
    ):
        told = [client.request(method, path.format(one)) for one in (company.other, NOBODY)]
        assert told[0].status_code == 404
        assert told[0].content == told[1].content
        assert told[0].headers == told[1].headers


@pytest.mark.parametrize("header", [None, "", "Bearer", "Bearer x", "Basic {}", "{}", "Bearer {} x", "Bearer {}x"])
@pytest.mark.parametrize(("method", "path"), [("POST", "/v1/plan"), ("GET", "/v1/requests"), ("GET", "/metrics")])
def test_what_is_no_token_opens_nothing(company, header, method, path):
    token = company.as_("admin", "admin").headers["authorization"].split()[1]
    headers = {} if header is None else {"Authorization": header.format(token)}
    assert company.stranger.request(method, path, headers=headers).status_code == 401


def test_of_two_tokens_none_counts(company):
    tokens = [company.as_("admin", "admin").headers["authorization"] for _ in range(2)]
    found = company.stranger.get("/v1/requests", headers=[("Authorization", one) for one in tokens])
    assert found.status_code == 401


def test_a_list_is_turned_page_by_page_and_names_no_request_of_others(company):
    client, auditor = company.as_("pages", "forget"), company.as_("auditor", "audit")
    mine = []
    for _ in range(5):
        mine.append(company.system.forget(ids=[next(company.rows)], caller="pages")["request_id"])
        company.system.forget(ids=[next(company.rows)], caller="somebody")
    seen, path = [], "/v1/requests?limit=2&state=RECEIVED"
    while path:
        page = client.get(path)
        assert len(page.json()) <= 2
        seen += [one["request_id"] for one in page.json()]
        path = page.links["next"]["url"] if "next" in page.links else ""
    assert seen == mine[::-1]
    assert len(auditor.get("/v1/requests?limit=1000").json()) == len(company.system.requests())
    assert auditor.get("/v1/requests?limit=1001").status_code == 422
