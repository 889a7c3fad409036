"""Policy webhooks of Fides: an erasure is one request, Fides waits for it, and goes on when it is purged."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import pytest

from hybridmu.config import FidesSettings, Settings
from hybridmu.errors import ConfigError
from hybridmu.server.app import make_app
from hybridmu.store.ledger import tables as t
from tests.scenes.webhook_receiver import Receiver, receiver
from tests.server.test_app import Company
from tests.support import rows_of

TOKEN = "eyJhbGciOiJBMjU2R0NNS1cifQ.x.y"
NAME = "pri_029832ba-3b84-40f7-8946-82aec6f95448"


@pytest.fixture(scope="module")
def there() -> Iterator[Receiver]:
    with receiver() as made:
        yield made


@pytest.fixture(scope="module")
def company(tmp_path_factory, there) -> Iterator[Company]:
    made = Company(tmp_path_factory.mktemp("fides"))
    fides = FidesSettings(url=there.url.partition("/hook")[0] + "/api/v1", identities={"email": "group", "no": "id"})
    settings = made.system.settings.model_copy(update={"fides": fides})
    made.app = make_app(settings)
    made.system.close()
    made.system = type(made.system)(settings, "local")
    made.people = iter([f"p{n}" for n in range(20)])
    yield made
    made.close()


@pytest.fixture(autouse=True)
def _as_ever(there):
    there.answers = lambda _: 200
    there.received.clear()


def call(company, name=NAME, *, headers=True, scopes=("forget",), **changed):
    body = {
        "privacy_request_id": name,
        "privacy_request_status": "in_processing",
        "direction": "two_way",
        "callback_type": "pre",
        "identity": {"email": "p1", "phone_number": None, "external_id": None},
        "policy_action": "erasure",
        "timestamp": "2026-01-01T00:00:00",
        **changed,
    }
    said = {"reply-to": f"/privacy-request/{name}/resume", "reply-to-token": TOKEN} if headers else {}
    return company.as_("fides", *scopes).post("/v1/fides", json=body, headers=said)


def requests(company):
    return [one["request_id"] for one in company.system.requests(caller="fides")]


def test_an_erasure_waits_until_it_is_purged_and_then_goes_on(company, there):
    person = next(company.people)
    answer = call(company, identity={"email": person})
    assert (answer.status_code, answer.json()) == (200, {"halt": True})
    (name,) = requests(company)
    assert company.system.report(name)["keys"] == 1
    assert call(company, identity={"email": person}).json() == {"halt": True}, "asked again"
    assert requests(company) == [name]
    company.system.send_webhooks(once=True)
    assert there.received == [], "it is not purged yet"
    company.system.run(until_idle=True)
    assert rows_of(company.system.database.engine, t.replies) == []
    (got,) = there.received
    assert got.path == f"/api/v1/privacy-request/{NAME}/resume"
    assert got.headers["authorization"] == f"Bearer {TOKEN}"
    assert json.loads(got.body) == {}
    assert company.system.report(name)["state"] == "PURGED"


def test_what_is_no_erasure_forgets_nobody(company):
    before = requests(company)
    for changed in (
        {"policy_action": "access"},
        {"policy_action": "consent"},
        {"policy_action": None},
        {"callback_type": "pre_approval"},
        {"identity": {"email": None}},
        {"identity": {"phone_number": "p1"}},
        {"identity": {"email": "nobody@example.org"}},
    ):
        answer = call(company, f"pri_{len(before)}", **changed)
        assert (answer.status_code, answer.json()) == (200, {"halt": False}), changed
    assert requests(company) == before


def test_where_nobody_waits_it_is_forgotten_all_the_same(company):
    for number, changed in enumerate(({"direction": "one_way"}, {"callback_type": "post"})):
        identity = {"email": next(company.people)}
        before = len(requests(company))
        answer = call(company, f"pri_one_{number}", headers=False, identity=identity, **changed)
        assert (answer.status_code, answer.json()) == (200, {"halt": False})
        assert len(requests(company)) == before + 1
    assert rows_of(company.system.database.engine, t.replies) == []


def test_labelled_identities_and_ids(company):
    answer = call(company, "pri_ids", identity={"no": {"label": "Customer", "value": 77}, "email": None})
    assert answer.json() == {"halt": True}
    before = requests(company)
    assert call(company, "pri_text", identity={"no": "77"}).json() == {"halt": True}
    assert requests(company) == before, "as a text it is the same row"


@pytest.mark.parametrize(
    ("changed", "headers"),
    [
        ({"privacy_request_id": "a b"}, {}),
        ({"direction": "three_way"}, {}),
        ({"identity": {"email": ["p1"]}}, {}),
        ({"identity": {"email": True}}, {}),
        ({}, {"reply-to": "https://evil.example/x"}),
        ({}, {"reply-to": "/a/../../b"}),
        ({}, {"reply-to": "//evil.example/x"}),
        ({}, {"reply-to-token": ""}),
        ({}, {"reply-to-token": "a b"}),
    ],
)
def test_what_is_wrong_is_refused_and_forgets_nobody(company, changed, headers):
    before = requests(company)
    body = {"privacy_request_id": "pri_bad", "direction": "two_way", "callback_type": "pre",
            "policy_action": "erasure", "identity": {"email": "p1"}, **changed}  # fmt: skip
    said = {"reply-to": "/privacy-request/pri_bad/resume", "reply-to-token": TOKEN, **headers}
    answer = company.as_("fides", "forget").post("/v1/fides", json=body, headers=said)
    assert answer.status_code == 422
    assert requests(company) == before


def test_it_needs_the_scope(company):
    assert call(company, scopes=("audit",)).status_code == 403


def test_an_answer_that_is_not_taken_is_tried_again(company, there):
    there.answers = lambda _: 503
    answer = call(company, "pri_later", identity={"email": next(company.people)})
    assert answer.json() == {"halt": True}
    company.system.run(until_idle=True)
    waiting = {row.name: row for row in rows_of(company.system.database.engine, t.replies)}
    assert waiting["pri_later"].problem == "HTTP 503"
    assert waiting["pri_later"].attempts >= 1
    assert TOKEN.encode() not in waiting["pri_later"].token, "masked"
    there.answers = lambda _: 200
    with company.system.database.engine.begin() as connection:
        connection.execute(t.replies.update().values(next_at=time.time()))
    company.system.send_webhooks(once=True)
    assert rows_of(company.system.database.engine, t.replies) == []


def test_without_the_section_there_is_no_such_call(company):
    app = make_app(company.system.settings.model_copy(update={"fides": None}))
    assert "/v1/fides" not in app.openapi()["paths"]
    assert "/v1/fides" in company.app.openapi()["paths"]


@pytest.mark.parametrize(
    "fides",
    [
        {"url": "http://fides.example.org/api/v1", "identities": {"email": "group"}},
        {"url": "https://fides.example.org/api/v1?x=1", "identities": {"email": "group"}},
        {"url": "https://fides.example.org/api/v1", "identities": {}},
        {"url": "https://fides.example.org/api/v1", "identities": {"email": "person"}},
        {"url": "https://fides.example.org/api/v1", "identities": {"e mail": "group"}},
    ],
)
def test_what_is_no_configuration(fides):
    with pytest.raises(ConfigError, match="fides"):
        Settings.parse({"data": {"train": "t.parquet"}, "storage_url": "/tmp/nowhere", "fides": fides})
