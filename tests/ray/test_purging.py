"""Purging under Ray: jobs on actors, and a look at what Ray itself wrote on the nodes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import ray
from ray.exceptions import GetTimeoutError

import hybridmu
from hybridmu.cluster import ray_log_scan
from hybridmu.cluster.driver import CoordinatorActor
from hybridmu.errors import PurgeError
from hybridmu.store.certificates import Certificates
from hybridmu.verifier.checks import check
from tests import support as tables
from tests.ray import support

pytestmark = pytest.mark.usefixtures("cluster")


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("purging")
    policy = {"strategy": "retrain", "verify_share": 0.0, "retention_seconds": 0.0}
    return support.config(folder, "purged", sisa={"shards": 2, "slices": 2, "epochs": 2}, policy=policy)


@pytest.fixture
def coordinator(settings: dict[str, Any]) -> Iterator[CoordinatorActor]:
    """The coordinator as its actor runs it, in this process, so that its pauses need not be waited for."""
    with hybridmu.connect(settings, executor="local") as system:
        system.train()
    made = CoordinatorActor(hybridmu.Settings.parse(settings), "test")
    assert made.acquire()
    yield made
    made.close()


def session() -> Path:
    return Path(ray._private.worker._global_node.get_session_dir_path())


def test_a_trace_in_rays_folder_blocks_until_it_is_gone(
    settings: dict[str, Any], coordinator: CoordinatorActor
) -> None:
    with hybridmu.connect(settings, executor="local") as system:
        row = support.ids_in(system, 0)
        request = system.forget(ids=row[:3])["request_id"]
        spilled = session() / "spilled-object"
        key = [stone.key for stone in system.ledger.tombstones()[0]][1]
        spilled.write_bytes(b"pickled " + key + b" bytes")
        try:

            def reason() -> str:
                coordinator.step(0.05)
                return system.ledger.request(request).reason or ""

            support.until(lambda: "still names" in reason())
            assert f"{spilled} of node " in reason()
        finally:
            spilled.unlink()
        coordinator._purger._schedule._retry_at.clear()

        def purged() -> bool:
            coordinator.step(0.05)
            return system.ledger.request(request).state == "PURGED"

        support.until(purged)
        document = Certificates(system.site.storage).last()
        assert check(document).ok
        assert document is not None
        assert document["purge"]["looked"]["storage"]["nodes"] == 1


def test_a_digest_in_a_log_is_found_as_text() -> None:
    needle = bytes(range(100, 116))
    log = session() / "logs" / "worker-test.out"
    log.write_text(f"forgot {needle.hex()}\n")
    try:
        searched, found = ray_log_scan.Searchers().find([needle, bytes(range(16))])
    finally:
        log.unlink()
    assert searched == 1
    [(file, held)] = found
    assert file.startswith(f"{log} of node ")
    assert held == (needle,)


def test_a_word_that_ray_logs_anyway_is_no_trace() -> None:
    """A person may be called like a package, a folder of the session, or something of the configuration."""
    words = [b"requests", session().name.encode(), b"a-setting-of-ours"]
    log = session() / "logs" / "worker-test.out"
    log.write_bytes(b" ".join([*words, b"a-person-of-77"]))
    try:
        _, found = ray_log_scan.Searchers().find([*words, b"a-person-of-77"], b'{"folder": "a-setting-of-ours"}')
    finally:
        log.unlink()
    assert [held for _, held in found] == [(b"a-person-of-77",)]


WORDS = ["CoreWorkerProcess", "Constructing", "gcs_server", "listening", "ShardWorker", "127.0.0.1"]


@pytest.mark.slow
def test_a_person_whose_name_is_a_word_of_rays_messages_is_purged(tmp_path: Path) -> None:
    rows = tables.table(300, features=8, ids="str")
    names = [*WORDS, *rows["id"].to_pylist()[len(WORDS) :]]
    tables.write(tmp_path, tables.replaced(rows, "id", pa.array(names)))
    policy = {"strategy": "retrain", "verify_share": 0.0, "retention_seconds": 0.0}
    raw = support.config(tmp_path, sisa={"shards": 2, "slices": 2, "epochs": 2}, policy=policy)
    with hybridmu.connect(raw, executor="local") as system:
        system.train()
    made = CoordinatorActor(hybridmu.Settings.parse(raw), "test")
    assert made.acquire()
    try:
        with hybridmu.connect(raw, executor="local") as system:
            request = system.forget(ids=WORDS)["request_id"]

            def ended() -> bool:
                made.step(0.05)
                assert "still names" not in (system.ledger.request(request).reason or "")
                return system.ledger.request(request).state == "PURGED"

            support.until(ended)
    finally:
        made.close()
    logs = b"".join(file.read_bytes() for file in (session() / "logs").rglob("*.*") if file.is_file())
    assert all(word.encode() in logs for word in WORDS)


def test_what_a_task_prints_or_raises_is_found_even_if_it_is_a_word_of_rays() -> None:
    @ray.remote
    def tell(text: str) -> None:
        print(text, flush=True)
        raise KeyError("a-person-of-99")

    told = [b"Constructing", b"a-person-of-88", b"a-person-of-99"]
    with pytest.raises(KeyError):
        ray.get(tell.remote("no row for Constructing nor a-person-of-88"))

    def found() -> dict[str, tuple[bytes, ...]]:
        return dict(ray_log_scan.Searchers().find([*told, b"a-person-of-66"])[1])

    files = support.until(lambda: [held for held in found().items() if len(held[1]) > 1])
    assert [held for file, held in files if "/logs/worker-" in file] == [(b"Constructing", b"a-person-of-88")]
    for log in (session() / "logs").glob("worker-*.out"):
        log.write_bytes(log.read_bytes().replace(b"Constructing", b"-").replace(b"a-person-of-88", b"-"))


def test_nodes_that_do_not_answer_are_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def late(*_: object, **__: object) -> None:
        raise GetTimeoutError("no answer in 300 s")

    monkeypatch.setattr(ray_log_scan.ray, "get", late)
    with pytest.raises(PurgeError, match="could not be searched"):
        ray_log_scan.Searchers().find([bytes(range(16))])
