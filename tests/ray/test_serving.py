"""The HTTP endpoint on Ray Serve: right answers, refusals that help, and swaps that nobody notices."""

from __future__ import annotations

import asyncio
import json
import math
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import pyarrow as pa
import pytest
import yaml
from ray import serve
from ray.serve.config import gRPCOptions

import hybridmu
from hybridmu.cluster.announcements import APPLICATION
from hybridmu.errors import ConfigError
from hybridmu.serving import grpc_calls
from serve.app import build
from tests import support as tables
from tests.ray import support
from tests.support import HANG_SECONDS

ROWS = [{**{f"x{i}": (row - 2) * (i % 3 - 1.0) for i in range(8)}, "whole": row} for row in range(5)]
CLIENTS = 4
GRPC = support.free_port()
FORGETS = 4


@pytest.fixture(scope="module")
def system(cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[hybridmu.System]:
    """Trained in this process, its requests are applied on Ray."""
    folder = tmp_path_factory.mktemp("serving")
    rows = tables.table(300, features=8)
    tables.write(folder, rows.append_column("whole", pa.array([n % 5 for n in range(300)])))
    # Replicas never look for a new version by themselves: every swap comes from the broadcast.
    serving = {"poll_seconds": 4 * HANG_SECONDS, "lease_seconds": 8 * HANG_SECONDS}
    raw = support.config(folder, sisa={"shards": 3, "slices": 2}, serving=serving)
    (folder / "config.yaml").write_text(yaml.safe_dump(raw))
    with hybridmu.connect(raw, executor="local") as trainer:
        trainer.train()
    with hybridmu.connect(raw) as opened:
        yield opened


@pytest.fixture(scope="module")
def url(system: hybridmu.System) -> Iterator[str]:
    """The deployed application."""
    port = support.free_port()
    calls = gRPCOptions(port=GRPC, grpc_servicer_functions=[f"{grpc_calls.__name__}.add_EnsembleServicer_to_server"])
    serve.start(proxy_location="HeadOnly", http_options={"host": "127.0.0.1", "port": port}, grpc_options=calls)
    config = Path(system.settings.storage_url).parent / "config.yaml"
    serve.run(build({"config": str(config)}), name=APPLICATION, route_prefix="/")
    yield f"http://127.0.0.1:{port}"
    serve.shutdown()


def test_answers_equal_the_offline_prediction(system: hybridmu.System, url: str) -> None:
    answer = httpx.post(f"{url}/v1/predict", json={"rows": ROWS}).raise_for_status().json()
    offline = system.predict(ROWS)
    assert answer["version"] == offline["version"]
    assert len(answer["predictions"]) == len(ROWS)
    for ours, theirs in zip(answer["predictions"], offline["predictions"], strict=True):
        assert ours["label"] == theirs["label"]
        assert ours["probabilities"] == pytest.approx(theirs["probabilities"], abs=1e-6)


def test_what_answers_can_be_asked(system: hybridmu.System, url: str) -> None:
    found = httpx.get(f"{url}/v1/version").raise_for_status().json()
    assert found["version"] == system.registry.served()
    assert found["voters"] == 3
    assert found["aggregation"] == "mean"
    assert found["forward"] in found["forward_seconds"]
    assert httpx.get(f"{url}/healthz").json() == {"status": "ok"}
    described = httpx.get(f"{url}/openapi.json").raise_for_status().json()
    assert {"/v1/predict", "/v1/version", "/healthz"} <= described["paths"].keys()


def test_where_tokens_are_asked_for_only_their_scope_opens(system: hybridmu.System, url: str) -> None:
    folder = Path(system.settings.storage_url).parent
    raw = yaml.safe_load((folder / "config.yaml").read_text())
    raw["serving"] |= {"authenticate": True, "body_bytes": 20_000, "request_rows": 9, "lease_seconds": 10.0}
    raw["api"] = {"token_seconds": 0.0}
    (folder / "guarded.yaml").write_text(yaml.safe_dump(raw))
    serve.run(build({"config": str(folder / "guarded.yaml")}), name="guarded", route_prefix="/guarded")
    try:
        tokens = system.database.tokens
        (right, mine), (wrong, _) = tokens.create("app", ["predict"]), tokens.create("desk", ["forget"])

        def code(token: str | None, path: str = "predict") -> int:
            headers = {"Authorization": f"Bearer {token}"} if token else {}
            where = f"{url}/guarded/v1/{path}"
            if path == "version":
                return httpx.get(where, headers=headers).status_code
            return httpx.post(where, headers=headers, json={"rows": ROWS}).status_code

        assert [code(None), code("hmu_x"), code(wrong), code(right)] == [401, 401, 403, 200]
        assert [code(None, "version"), code(right, "version")] == [401, 200]
        assert httpx.get(f"{url}/guarded/healthz").status_code == 200

        long = [json.dumps({"rows": [{**ROWS[0], "x": "y" * 30_000}]}).encode()]

        def posted(token: str, body: Any, **headers: str) -> int:
            told = {"Authorization": f"Bearer {token}"} | headers
            return httpx.post(f"{url}/guarded/v1/predict", headers=told, content=body).status_code

        assert [posted(token, long[0]) for token in ("hmu_x", wrong, right)] == [401, 403, 413]
        assert [posted(token, iter(long)) for token in ("hmu_x", right)] == [401, 413], "in chunks, without a length"
        assert posted("hmu_x", b"no JSON") == 401
        assert posted(right, json.dumps({"rows": ROWS * 2})) == 422, "ten rows"

        with grpc.insecure_channel(f"127.0.0.1:{GRPC}") as channel:

            def refusal(token: str, body: Any, application: str = "guarded") -> str:
                with pytest.raises(grpc.RpcError) as refused:
                    grpc_calls.call(channel, body, token, application)
                return str(refused.value.code().name)

            asked = {"rows": ROWS}
            over_http = httpx.post(
                f"{url}/guarded/v1/predict", headers={"Authorization": f"Bearer {right}"}, json=asked
            )
            assert grpc_calls.call(channel, asked, right, "guarded") == over_http.json()
            assert refusal("hmu_x", asked) == "UNAUTHENTICATED"
            assert refusal(wrong, asked) == "PERMISSION_DENIED"
            assert refusal(right, asked, APPLICATION) == "UNAUTHENTICATED", "no tokens are asked for there"
            part = [{**ROWS[0], "whole": 0.3}]
            with pytest.raises(grpc.RpcError, match="'whole' has a number that is not whole"):
                grpc_calls.call(channel, {"rows": part}, right, "guarded")
            for body in (
                {"rows": []},
                {"rows": part},
                {},
                {"rows": [{"x0": "much"}]},
                {**asked, "version": 1},
                {"rows": ROWS * 2},
            ):
                assert refusal(right, body) == "INVALID_ARGUMENT"
            assert refusal(right, {"rows": [{**ROWS[0], "x": "y" * 30_000}]}) == "RESOURCE_EXHAUSTED"
            assert refusal("hmu_x", {"rows": [{**ROWS[0], "x": "y" * 30_000}]}) == "UNAUTHENTICATED"
        tokens.revoke(mine.token_id)
        assert code(right) == 401
    finally:
        serve.delete("guarded")


@pytest.mark.parametrize(
    ("row", "word"),
    [
        ({**ROWS[0], "x3": "much"}, "x3"),
        ({name: value for name, value in ROWS[0].items() if name != "x5"}, "x5"),
        ({**ROWS[0], "x3": None}, "x3"),
        ({**ROWS[0], "x3": [1.0]}, "x3"),
        ({**ROWS[0], "x3": {"a": 1}}, "x3"),
        ({**ROWS[0], "x3": "1.5"}, "x3"),
        ({**ROWS[0], "x3": 2**64}, "x3"),
        ({**ROWS[0], "x3": math.nan}, "x3"),
        ({**ROWS[0], "x3": "\ud800"}, "x3"),
        ({**ROWS[0], "whole": 0.3}, "whole"),
    ],
    ids=["word", "missing", "null", "list", "mapping", "number as text", "2**64", "NaN", "surrogate", "part"],
)
def test_a_bad_row_is_refused_with_a_remedy(url: str, row: dict[str, Any], word: str) -> None:
    refused = httpx.post(f"{url}/v1/predict", content=json.dumps({"rows": [ROWS[0], row]}))
    assert refused.status_code == 422, refused.text
    detail = refused.json()["detail"]
    assert word in detail["what"]
    assert detail["expected"]
    assert detail.keys() == {"what", "expected", "got", "remedy"}


@pytest.mark.parametrize("body", [{"rows": []}, {}, {"rows": ROWS, "version": 1}], ids=["empty", "none", "unknown"])
def test_a_bad_body_is_refused(url: str, body: dict[str, Any]) -> None:
    assert httpx.post(f"{url}/v1/predict", json=body).status_code == 422


@pytest.mark.parametrize("page", ["docs", "redoc", "docs/oauth2-redirect"])
def test_there_is_no_page_with_scripts_from_elsewhere(url: str, page: str) -> None:
    assert httpx.get(f"{url}/{page}").status_code == 404


def test_what_one_caller_sends_concerns_no_other(url: str) -> None:
    """All are in flight at once, so that they share batches."""
    right = json.dumps({"rows": ROWS})
    wrong = [{**ROWS[0], "x3": cell} for cell in (2**63, 2**64, "\ud800", [[]] * 9, math.inf, None)]
    sent = [right, *(json.dumps({"rows": [row]}) for row in wrong), "[" * 100_000, right] * 3

    async def ask() -> list[httpx.Response]:
        async with httpx.AsyncClient(timeout=60) as http:
            return await asyncio.gather(*(http.post(f"{url}/v1/predict", content=each) for each in sent))

    answers = asyncio.run(ask())
    codes = [answer.status_code for answer in answers]
    assert codes == [200, 200, *([422] * 6), 200] * 3, "2**63 is a number that an unsigned column holds"
    alone = httpx.post(f"{url}/v1/predict", content=right).json()["predictions"]
    for answer, code, each in zip(answers, codes, sent, strict=True):
        if code == 200 and each is right:
            for ours, theirs in zip(answer.json()["predictions"], alone, strict=True):
                assert ours["probabilities"] == pytest.approx(theirs["probabilities"], abs=1e-6)


class Client(threading.Thread):
    """Asks without a pause, and keeps when each answer began and which version gave it."""

    def __init__(self, url: str, stop: threading.Event) -> None:
        super().__init__()
        self.url, self.stop = url, stop
        self.answers: list[tuple[float, int]] = []
        self.failures: list[str] = []

    def run(self) -> None:
        with httpx.Client(timeout=30) as http:
            while not self.stop.is_set():
                began = time.monotonic()
                try:
                    answer = http.post(f"{self.url}/v1/predict", json={"rows": ROWS})
                    if answer.status_code != 200 or len(answer.json()["predictions"]) != len(ROWS):
                        self.failures.append(answer.text)
                    else:
                        self.answers.append((began, answer.json()["version"]))
                except Exception as error:
                    self.failures.append(repr(error))


@pytest.mark.slow
def test_a_swap_under_load_fails_nobody_and_served_means_served(system: hybridmu.System, url: str) -> None:
    stop = threading.Event()
    clients = [Client(url, stop) for _ in range(CLIENTS)]
    served: list[tuple[float, int]] = []
    for client in clients:
        client.start()
    try:
        for shard in range(FORGETS):
            number = support.ids_in(system, shard % 3, 2)[shard // 3]
            report = system.forget(ids=[number], strategy="retrain", wait=True)
            served.append((time.monotonic(), report["version_after"]))
            assert report["state"] == "SERVED"
            time.sleep(0.3)
    finally:
        stop.set()
        for client in clients:
            client.join(HANG_SECONDS)
    assert [version for _, version in served] == [2, 3, 4, 5]
    for client in clients:
        assert not client.failures
        versions = [version for _, version in client.answers]
        assert versions == sorted(versions), "went back"
        assert len(versions) > 20
        for began, version in client.answers:
            for at, after in served:
                assert version >= after or began <= at, f"version {version} answered after {after} was served"
    seen = {version for client in clients for _, version in client.answers}
    assert seen == {1, 2, 3, 4, 5}
    assert all(request.served_at for request in system.ledger.requests())


@pytest.mark.parametrize("replicas", ["0", "many", "3-1", "-2", "1-x"])
def test_a_number_of_replicas_that_is_none_is_refused(replicas: str) -> None:
    with pytest.raises(ConfigError, match="replicas is no number"):
        build({"config": "examples/digits.yaml", "replicas": replicas})


@pytest.mark.slow
def test_replicas_that_load_brings_start_on_the_current_version(system: hybridmu.System, url: str) -> None:
    folder = Path(system.settings.storage_url).parent
    raw = yaml.safe_load((folder / "config.yaml").read_text())
    # So few at a time that few requests are a load.
    raw["serving"] |= {
        "max_batch_size": 2,
        "poll_seconds": 0.2,
        "lease_seconds": 10.0,
    }  # so that few requests are a load
    (folder / "auto.yaml").write_text(yaml.safe_dump(raw))
    serve.run(build({"config": str(folder / "auto.yaml"), "replicas": "1-2"}), name="auto", route_prefix="/auto")
    stop = threading.Event()
    clients = [Client(f"{url}/auto", stop) for _ in range(2 * CLIENTS)]
    try:
        before = set(system.status()["replicas"])
        assert len(before) == 2  # the module's own, and this one
        # By a coordinator of its own: the one of the tests before was stopped after them.
        with hybridmu.connect(system.settings) as ours:
            report = ours.forget(ids=[support.ids_in(system, 1, 1)[0]], strategy="retrain", wait=True)
        for client in clients:
            client.start()
        new = support.until(lambda: set(system.status()["replicas"]) - before, step=0.2)
        support.until(lambda: all(system.status()["replicas"][name] == system.registry.served() for name in new))
    finally:
        stop.set()
        for client in clients:
            if client.is_alive():
                client.join(HANG_SECONDS)
        serve.delete("auto")
    for client in clients:
        assert not client.failures
        assert {version for _, version in client.answers} == {report["version_after"]}


@pytest.mark.slow
def test_sub_models_spread_over_processes_answer_alike_and_swap_unnoticed(system: hybridmu.System, url: str) -> None:
    folder = Path(system.settings.storage_url).parent
    raw = yaml.safe_load((folder / "config.yaml").read_text())
    raw["serving"] |= {"groups": 2, "poll_seconds": 0.2, "lease_seconds": 10.0}
    (folder / "spread.yaml").write_text(yaml.safe_dump(raw))
    serve.run(build({"config": str(folder / "spread.yaml")}), name="spread", route_prefix="/spread")
    stop = threading.Event()
    clients = [Client(f"{url}/spread", stop) for _ in range(2)]
    try:
        found = httpx.get(f"{url}/spread/v1/version").raise_for_status().json()
        assert (found["voters"], found["forward"]) == (3, "spread")
        for client in clients:
            client.start()
        served = []
        with hybridmu.connect(system.settings) as ours:  # a coordinator of its own, as above
            for number in support.ids_in(system, 1)[-2:]:
                report = ours.forget(ids=[number], strategy="retrain", wait=True)
                served.append((time.monotonic(), report["version_after"]))
        answer = httpx.post(f"{url}/spread/v1/predict", json={"rows": ROWS}).raise_for_status().json()
        offline = system.predict(ROWS)
        assert answer["version"] == offline["version"] == served[-1][1]
        for ours, theirs in zip(answer["predictions"], offline["predictions"], strict=True):
            assert ours["probabilities"] == pytest.approx(theirs["probabilities"], abs=1e-6)
    finally:
        stop.set()
        for client in clients:
            client.join(HANG_SECONDS)
        serve.delete("spread")
    for client in clients:
        assert not client.failures
        assert len(client.answers) > 10
        for began, version in client.answers:
            for at, after in served:
                assert version >= after or began <= at, f"version {version} answered after {after} was served"
