"""The HTTP interface over a real system: the same log as the command line, scopes, limits, and no bad input's 5xx."""

from __future__ import annotations

import logging
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import schemathesis
import yaml
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from schemathesis.specs.openapi import checks

import hybridmu
from hybridmu.core.proof.exclusions import Exclusions, read_manifest
from hybridmu.server.app import make_app
from hybridmu.types import RequestState
from tests.support import HANG_SECONDS, make_table, settings_dict


class Company:
    """A trained system, its HTTP interface, and a client per role."""

    def __init__(self, folder: Path, **api) -> None:
        make_table(folder / "train.parquet", 80, groups=20)
        raw = settings_dict(
            folder, data={"train": str(folder / "train.parquet"), "group": "person"}, sisa={"shards": 2, "slices": 2}
        )
        raw["policy"] |= {"retention_seconds": 0.0}
        raw["api"] = {
            "hosts": ["testserver", "console.example", "127.0.0.1"],
            "token_seconds": 0.0,
            "requests_per_second": 1e6,
            "burst": 1_000_000,
            **api,
        }
        (folder / "config.yaml").write_text(yaml.safe_dump(raw))
        self.folder, self.system = folder, hybridmu.connect(folder / "config.yaml", executor="local")
        self.system.train()
        self.tokens = self.system.database.tokens
        self.app = make_app(self.system.settings)
        self.stranger = TestClient(self.app, raise_server_exceptions=False)

    def as_(self, caller: str, *scopes: str) -> TestClient:
        text, _ = self.tokens.create(caller, scopes)
        return TestClient(self.app, headers={"Authorization": f"Bearer {text}"}, raise_server_exceptions=False)

    def remade(self, **sections):
        """Return the application under other settings."""
        settings = self.system.settings
        changed = {name: getattr(settings, name).model_copy(update=values) for name, values in sections.items()}
        return make_app(settings.model_copy(update=changed))

    def close(self) -> None:
        self.system.close()


@pytest.fixture(scope="module")
def company(tmp_path_factory) -> Iterator[Company]:
    made = Company(tmp_path_factory.mktemp("company"))
    yield made
    made.close()


ROWS = list(range(80))


def test_from_acceptance_to_certificate(company):
    privacy, auditor = company.as_("privacy", "forget"), company.as_("auditor", "audit")
    plan = privacy.post("/v1/plan", json={"ids": [ROWS[0]]})
    assert plan.status_code == 200, plan.text
    assert [line["revoked"] for line in plan.json()["shards"]] == [1]
    body = {"ids": [ROWS[0]], "strategy": "retrain", "key": "ticket-1", "deadline_seconds": 3600}
    made = privacy.post("/v1/forget", json=body)
    assert made.status_code == 202, made.text
    name = made.json()["request_id"]
    assert (made.json()["state"], made.json()["caller"], made.json()["keys"]) == ("RECEIVED", "privacy", 1)
    assert privacy.post("/v1/forget", json=body).json()["request_id"] == name
    # The same log as every other way in.
    same = {"strategy": "retrain", "key": "ticket-1", "caller": "privacy", "deadline_seconds": 3600.0}
    assert company.system.forget(ids=[ROWS[0]], **same)["request_id"] == name
    other = privacy.post("/v1/forget", json={**body, "ids": [ROWS[1]]})
    assert (other.status_code, other.json()["error"]) == (409, "ConflictError")
    assert privacy.get(f"/v1/certificates/{name}").status_code == 404
    company.system.run(until_idle=True)
    done = privacy.get(f"/v1/requests/{name}").json()
    assert done["state"] == "PURGED", done["reason"]
    document = auditor.get(f"/v1/certificates/{name}").json()
    assert document["request"]["id"] == name
    file = company.folder / "certificate.json"
    file.write_bytes(privacy.get(f"/v1/certificates/{name}").content)
    command = [*_hybridmu(), "certificate", "verify", str(file), "--without-key"]
    checked = subprocess.run(command, capture_output=True, text=True, timeout=HANG_SECONDS, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert [one["request_id"] for one in auditor.get("/v1/requests", params={"state": "PURGED"}).json()] == [name]


def test_what_must_not_be_trained_on_again(company):
    privacy, auditor = company.as_("exclusions", "forget"), company.as_("auditor", "audit")
    privacy.post("/v1/forget", json={"ids": [ROWS[40]], "strategy": "retrain"})
    company.system.run(until_idle=True)
    answer = auditor.get("/v1/exclusions")
    assert answer.status_code == 200
    public, keys = company.system.keyring.public_keys().values(), company.system.keyring.exclusion_keys().values()
    found = Exclusions(read_manifest(answer.content, [*public]), [*keys])
    assert found.excluded("id", [ROWS[40], 10**9]) == [True, False]
    first = auditor.get("/v1/exclusions", params={"version": 1}).json()
    assert (first["version"], first["lists"]) == (1, [])
    assert auditor.get("/v1/exclusions", params={"version": 10**6}).status_code == 422
    assert auditor.get("/v1/exclusions", params={"version": 0}).status_code == 422


def test_taken_back_by_its_caller_alone(company):
    privacy, other = company.as_("first", "forget"), company.as_("second", "forget")
    name = privacy.post("/v1/forget", json={"ids": [ROWS[5]]}).json()["request_id"]
    for call in (other.get(f"/v1/requests/{name}"), other.post(f"/v1/requests/{name}/cancel")):
        assert (call.status_code, call.json()["what"]) == (404, "the request does not exist, or is another caller's")
    assert name not in other.get("/v1/requests").text
    assert privacy.post(f"/v1/requests/{name}/cancel").json()["state"] == "CANCELLED"
    assert privacy.post(f"/v1/requests/{name}/cancel").json()["state"] == "CANCELLED"
    done = privacy.post("/v1/forget", json={"ids": [ROWS[6]]}).json()["request_id"]
    company.system.run(until_idle=True)
    late = privacy.post(f"/v1/requests/{done}/cancel")
    assert (late.status_code, late.json()["error"]) == (409, "StateError")
    assert company.system.ledger.request(name).state is RequestState.CANCELLED


@pytest.mark.parametrize(("method", "path", "scopes"), [
    ("POST", "/v1/forget", {"forget"}),
    ("POST", "/v1/plan", {"forget"}),
    ("GET", "/v1/requests", {"forget", "audit"}),
    ("GET", "/v1/requests/none", {"forget", "audit"}),
    ("GET", "/v1/certificates/none", {"forget", "audit"}),
    ("GET", "/v1/exclusions", {"audit"}),
    ("POST", "/v1/requests/none/cancel", {"forget"}),
    ("POST", "/v1/requests/none/approve", {"forget"}),
])  # fmt: skip
def test_a_token_opens_what_its_scope_says(company, method, path, scopes):
    assert company.stranger.request(method, path).status_code == 401
    for scope in ("predict", "forget", "audit", "admin"):
        code = company.as_(scope, scope).request(method, path).status_code
        assert (code == 403) == (scope not in scopes | {"admin"}), (scope, code)
        assert code != 401
    text, token = company.tokens.create("gone", ["admin"])
    client = TestClient(company.app, headers={"Authorization": f"Bearer {text}"})
    assert client.request(method, path).status_code != 401
    company.tokens.revoke(token.token_id)
    found = client.request(method, path)
    assert (found.status_code, found.headers["www-authenticate"]) == (401, "Bearer")


@pytest.mark.parametrize(("body", "code", "says"), [
    ({}, 422, "at least one id or group"),
    ({"ids": []}, 422, "at least one id or group"),
    ({"ids": [1.5]}, 422, "ids.0"),
    ({"ids": [True]}, 422, "ids.0"),
    ({"ids": [2**64]}, 422, "outside of 64 bits"),
    ({"groups": [-(2**63) - 1]}, 422, "outside of 64 bits"),
    ({"groups": ["x" * 65_537]}, 422, "too long"),
    ({"ids": [2**63]}, 422, "none of the ids and groups is known"),
    ({"ids": ["a\x00b", "", "x" * 2000]}, 422, "none of the ids and groups is known"),
    ({"ids": [3], "strategy": "magic"}, 422, "strategy"),
    ({"ids": [3], "deadline_seconds": -1}, 422, "deadline_seconds"),
    ({"ids": [3], "wait": True}, 422, "wait"),
    ({"ids": [999_999_999]}, 422, "999999999"),
    ({"ids": ROWS[9:30]}, 202, ""),
    ({"ids": ROWS}, 409, "decommission"),
])  # fmt: skip
def test_bad_bodies_are_refused_whole(company, body, code, says):
    client = company.as_("careless", "forget")
    before = company.system.requests()
    found = client.post("/v1/forget", json=body)
    assert found.status_code == code, found.text
    assert says in found.text
    if code == 202:
        client.post(f"/v1/requests/{found.json()['request_id']}/cancel")
    else:
        assert set(found.json()) == {"error", "what", "expected", "got", "remedy"}
        assert company.system.requests() == before


def test_no_ids_and_no_secrets_in_logs(company, caplog):
    client = company.as_("quiet", "forget")
    with caplog.at_level(logging.DEBUG):
        client.post("/v1/forget", json={"ids": [ROWS[7]], "key": "secret-ticket"})
        client.post("/v1/forget", json={"ids": [987_654_321_987]})
    ours = "\n".join(record.getMessage() for record in caplog.records if record.name.startswith("hybridmu"))
    assert "accepted by token" in ours
    for word in ("987654321987", "secret-ticket", client.headers["authorization"].rpartition("_")[2]):
        assert word not in caplog.text


@pytest.mark.slow
def test_limits_on_calls_and_bodies(tmp_path):
    company = Company(tmp_path, requests_per_second=0.01, burst=3, body_bytes=2000)
    try:
        client, other = company.as_("busy", "forget"), company.as_("calm", "forget")
        long = client.post("/v1/forget", json={"ids": ["x" * 100] * 100})
        assert (long.status_code, long.json()["error"]) == (413, "TooLong")

        def pieces() -> Iterator[bytes]:  # no content-length
            for _ in range(50):
                yield b" " * 100

        assert client.post("/v1/forget", content=pieces()).status_code == 413
        codes = [client.get("/v1/requests").status_code for _ in range(4)]
        assert codes[-1] == 429
        assert codes.count(200) <= 3
        refused = client.get("/v1/requests")
        assert 1 <= int(refused.headers["retry-after"]) <= 100
        assert other.get("/v1/requests").status_code == 200, "a caller's limit is no other's"
        assert [company.stranger.get("/v1/requests").status_code for _ in range(4)] == [401, 401, 401, 429]
    finally:
        company.close()


def test_an_absent_ledger_is_said_and_nobody_comes_in(tmp_path):
    company = Company(tmp_path)
    client = company.as_("privacy", "forget")
    assert client.get("/healthz").json() == {"status": "ok"}
    company.close()
    ledger = next(company.folder.rglob("ledger.sqlite3"))
    kept = ledger.read_bytes()
    ledger.write_bytes(b"no database" * 100)
    try:
        for call in (client.get("/healthz"), client.post("/v1/forget", json={"ids": [ROWS[0]]})):
            assert call.status_code == 503, call.text
            assert call.headers["retry-after"]
    finally:
        ledger.write_bytes(kept)


_ONE = "/v1/requests/{request_id}"


@pytest.mark.parametrize(
    "operation",
    [
        "/v1/forget",
        "/v1/plan",
        "/v1/requests",
        _ONE,
        f"{_ONE}/cancel",
        f"{_ONE}/approve",
        "/v1/certificates/{request_id}",
        "/v1/exclusions",
        "/metrics",
        "/healthz",
    ],
)
@pytest.mark.sampled
def test_whatever_is_sent_there_is_no_5xx_and_nothing_is_half_done(company, operation):
    token = company.as_("fuzz", "admin").headers["authorization"]
    schema = schemathesis.openapi.from_asgi("/openapi.json", company.app)
    (call,) = [one.ok() for one in schema.get_all_operations() if one.ok().path == operation]
    before = len(company.system.ledger.tombstones())

    @settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
    @given(case=call.as_strategy())
    def check(case):
        # Ids that fit the schema and are nobody's are refused as well.
        case.call_and_validate(headers={"Authorization": token}, excluded_checks=[checks.positive_data_acceptance])

    check()
    assert len(company.system.ledger.tombstones()) >= before
    assert all(r["keys"] + r["already_forgotten"] for r in company.system.requests(caller="fuzz"))


@pytest.mark.slow
def test_it_answers_on_loopback_until_it_is_stopped(company):
    config = company.folder / "config.yaml"
    raw = yaml.safe_load(config.read_text())
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        raw["api"]["port"] = port = free.getsockname()[1]
    served = company.folder / "served.yaml"
    served.write_text(yaml.safe_dump(raw))
    made = subprocess.run(
        [*_hybridmu(), "tokens", "create", "ops", "--scope", "audit", "--hours", "1", "-c", str(served), "--json"],
        capture_output=True, text=True, timeout=HANG_SECONDS, check=True,
    )  # fmt: skip
    token = yaml.safe_load(made.stdout)["token"]
    process = subprocess.Popen([*_hybridmu(), "api", "-c", str(served)], stderr=subprocess.PIPE, text=True)
    try:
        base, until = f"http://127.0.0.1:{port}", time.monotonic() + HANG_SECONDS
        while True:
            try:
                assert httpx.get(f"{base}/healthz", timeout=5).status_code == 200
                break
            except httpx.TransportError:
                assert time.monotonic() < until
                assert process.poll() is None, process.stderr.read()
                time.sleep(0.2)
        assert httpx.get(f"{base}/v1/requests", timeout=5).status_code == 401
        found = httpx.get(f"{base}/v1/requests", headers={"Authorization": f"Bearer {token}"}, timeout=5)
        assert found.status_code == 200
    finally:
        process.terminate()
        process.wait(HANG_SECONDS)
    listed = subprocess.run([*_hybridmu(), "tokens", "list", "-c", str(served)], capture_output=True, text=True,
                            timeout=HANG_SECONDS, check=True)  # fmt: skip
    assert "ops" in listed.stdout
    assert token.rpartition("_")[2] not in listed.stdout


def _hybridmu() -> list[str]:
    return [str(Path(sys.executable).with_name("hybridmu"))]


def test_metrics_are_for_auditors_and_name_nobody(company):
    assert company.stranger.get("/metrics").status_code == 401
    assert company.as_("desk", "forget").get("/metrics").status_code == 403
    answer = company.as_("prometheus", "audit").get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain")
    assert "# TYPE hybridmu_requests gauge" in answer.text
    assert "desk" not in answer.text
