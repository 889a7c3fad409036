"""Training and forgetting on Ray give the bits that one process gives, however many actors there are."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from threading import Thread

import pytest
import ray

import hybridmu
from hybridmu.cluster.ray_executor import RayExecutor
from hybridmu.config import Settings
from hybridmu.runtime.coordinator.coordinator import Coordinator
from hybridmu.types import StrategyChoice
from tests.ray import support
from tests.ray.tasks import waiting
from tests.support import HANG_SECONDS

SISA = {"shards": 8, "slices": 2, "epochs": 4}  # four times the cores
pytestmark = pytest.mark.usefixtures("cluster")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("training")


@pytest.fixture(scope="module")
def alone(folder: Path) -> Iterator[hybridmu.System]:
    """The same system in one process, with the same requests."""
    with hybridmu.connect(support.config(folder, "alone", sisa=SISA), executor="local") as system:
        system.train()
        yield system


def forget(system: hybridmu.System, strategy: StrategyChoice, shards: tuple[int, ...]) -> dict[str, object]:
    ids = [support.ids_in(system, shard)[0 if strategy == "retrain" else 1] for shard in shards]
    report = system.forget(ids=ids, strategy=strategy, wait=True)
    assert report["state"] == "SERVED"
    return report


def lineage_blobs(system: hybridmu.System) -> set[str]:
    return {
        file.read_text().split()[0] for file in Path(system.site.storage.path("lineage")).rglob("*") if file.is_file()
    }


@pytest.mark.slow
def test_eight_shards_on_two_cores_train_forget_and_update_like_one_process(
    folder: Path, alone: hybridmu.System
) -> None:
    with hybridmu.connect(support.config(folder, "two", sisa=SISA, cluster={"max_parallel": 2})) as system:
        system.train()
        trained = support.blobs(system)
        assert trained == support.blobs(alone)
        assert all(trained.values())

        forget(alone, "retrain", (0, 1))
        forget(system, "retrain", (0, 1))
        exact = support.blobs(system)
        assert exact == support.blobs(alone)
        assert [exact[shard] != trained[shard] for shard in range(3)] == [True, True, False]
        assert system.verify()["bitwise_equal"] is True

        report = forget(system, "dpus", (2,))
        updated = support.blobs(system)[2]
        sub = system.registry.version().shards[2]
        assert report["shards"][0]["strategy"] == "dpus"  # type: ignore[index]
        assert not sub.exact
        assert sub.exact_upto < sub.removed_upto
        assert updated not in {exact[2], None}
        assert updated not in lineage_blobs(system)
        assert exact[2] in lineage_blobs(system)
        (shard,) = support.actors("shard-2-")
        assert support.ask(shard, lambda worker: worker.blob) == updated
        found = system.verify()
        assert found["bitwise_equal"] is False
        assert found["exact_claims_hold"] is True

        # Exact never starts from approximate: a retrain afterwards is bitwise right again.
        forget(system, "retrain", (2,))
        assert system.verify()["bitwise_equal"] is True
        assert support.actors("updater-")
    support.until(lambda: not support.actors("shard-") + support.actors("updater-") + support.actors("coordinator-"))


def test_one_at_a_time_and_with_few_live_actors_gives_the_same_bits(folder: Path) -> None:
    sisa = {"shards": 3, "slices": 2, "epochs": 2}
    raw = support.config(folder, "one", sisa=sisa, cluster={"max_parallel": 1, "live_actors": 2})
    settings = Settings.parse(raw)
    # The coordinator is a plain class; here it runs in this process, its shards in actors.
    coordinator = Coordinator(settings, RayExecutor(settings), "test")
    assert coordinator.acquire()
    assert coordinator.executor.pools().workers == 1
    coordinator.begin_training()
    most = 0
    while coordinator.registry.served() is None:
        coordinator.step(0.1)
        most = max(most, len(support.actors("shard-")))
    started = time.monotonic()
    assert coordinator.executor.poll(0.3) == []
    assert time.monotonic() - started >= 0.3
    assert coordinator.executor.poll(1e9, lambda: True) == [], "who is called does not wait to the end"
    coordinator.close()
    assert most == 2, "live_actors bounds the actors, not the shards"
    with (
        hybridmu.connect(raw, executor="local") as on_ray,
        hybridmu.connect(support.config(folder, "one-alone", sisa=sisa), executor="local") as system,
    ):
        system.train()
        assert support.blobs(system) == support.blobs(on_ray)


@pytest.mark.slow
def test_cpus_are_held_while_a_shard_trains_and_given_back(folder: Path, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    gate.write_text("1")  # the task is tried here first; the shard stands still after its first slice
    lineage = folder / "held" / "lineage"
    task = {"name": "tests.ray.tasks:Gated", "hidden": [8], "gate": str(gate), "lineage": str(lineage)}
    raw = support.config(folder, "held", sisa={**SISA, "shards": 1}, task=task)
    with hybridmu.connect(raw) as system:
        support.until(lambda: ray.available_resources().get("CPU", 0) == 2)
        training = Thread(target=system.train)
        training.start()
        support.until(lambda: waiting(gate))
        support.until(lambda: ray.available_resources().get("CPU", 0) == 1)
        assert training.is_alive()
        gate.unlink()
        training.join(HANG_SECONDS)
        assert not training.is_alive()
        assert system.registry.served() == 1
    support.until(lambda: ray.available_resources().get("CPU", 0) == 2)


@pytest.mark.slow
def test_two_updates_run_at_the_same_time_on_the_updater_pool(folder: Path, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    common = {
        "sisa": {"shards": 2, "slices": 2, "epochs": 2},
        "task": {"name": "tests.ray.tasks:Gated", "hidden": [8], "gate": str(gate), "lineage": str(tmp_path)},
        "policy": {"strategy": "auto", "calibrate": False, "repair": "deadline"},
        "cluster": {"updaters": 2},
    }
    raw = support.config(folder, "parallel", **common)
    with hybridmu.connect(support.config(folder, "one-by-one", **common), executor="local") as system:
        system.train()
        ids = [support.ids_in(system, shard)[0] for shard in (0, 1)]
        system.forget(ids=ids, strategy="dpus", wait=True)
        expected = support.blobs(system)
    with hybridmu.connect(raw, executor="local") as system:
        system.train()
        request_id = system.forget(ids=ids, strategy="dpus")["request_id"]
    settings = Settings.parse(raw)
    executor = RayExecutor(settings)
    coordinator = Coordinator(settings, executor, "test")
    assert coordinator.acquire()
    assert "dpus" not in coordinator._planner.unfit, "found out here, before the gate is shut"
    gate.touch()
    try:

        def running() -> bool:
            coordinator.step(0.02)
            return sum(flight.result is not None for flight in executor._flights) == 2

        support.until(running, step=0)
        assert all(flight.job.strategy == "dpus" for flight in executor._flights)
        assert len({id(flight.member) for flight in executor._flights}) == len(support.actors("updater-")) == 2
        assert ray.available_resources().get("CPU", 0) == 0, "each holds its own"
        support.until(lambda: len(waiting(gate)) == 2)  # each is in the middle of its work, in a process of its own
        gate.unlink()
        support.until(lambda: coordinator.step(0.02).version == 2, step=0)
    finally:
        coordinator.close()
    with hybridmu.connect(raw, executor="local") as system:
        measured = [row["measured_seconds"] for row in system.report(request_id)["shards"]]
        assert len(measured) == 2
        assert support.blobs(system) == expected
