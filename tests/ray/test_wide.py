"""A shard that two processes train: the bits of one process, also when one of the two dies."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import ray

import hybridmu
from hybridmu.cluster.resources import pools
from hybridmu.config import Settings
from hybridmu.errors import ResourceError
from hybridmu.planning.planner import Pools
from hybridmu.types import RequestState
from tests.ray import support

SISA = {"shards": 2, "slices": 2, "epochs": 4}


def wide(folder: Path, storage: str, pause: Path | None = None, way: str = "ddp") -> dict[str, Any]:
    task = {"name": "tests.ray.tasks:Pausable", "hidden": [8], "pause": str(pause or folder / "never"), "seconds": 0.05}
    # No update is asked for, so no updater takes a CPU from the two processes.
    policy = {"calibrate": False, "strategy": "retrain"}
    found = support.config(folder, storage, sisa=SISA, task=task, compute={"parts": 2}, policy=policy)
    return found | {"cluster": {**found.get("cluster", {}), "wide": way}}


def test_parts_need_room_at_once(tmp_path: Path) -> None:
    settings = Settings.parse(wide(tmp_path, "storage"))
    assert pools(settings, {"a": {"CPU": 2.0}, "b": {"CPU": 3.0}}) == Pools(2, 1)
    assert pools(settings, {"a": {"CPU": 1.0}, "b": {"CPU": 1.0}}) == Pools(1, 1)
    with pytest.raises(ResourceError, match="trained by 2 processes") as refused:
        pools(settings, {"a": {"CPU": 1.0}})
    assert "compute.parts" in refused.value.remedy


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize("way", ["ddp", "fsdp2"])
def test_a_wide_shard_has_the_bits_of_one_process_and_outlives_a_worker(tmp_path: Path, way: str) -> None:
    pause = tmp_path / "pause"
    with hybridmu.connect(wide(tmp_path, "alone", pause), executor="local") as alone:
        alone.train()
        ids = support.ids_in(alone, 0)[:2]
        with hybridmu.connect(wide(tmp_path, "wide", pause, way), "ray") as system:
            system.train()
            assert support.blobs(system) == support.blobs(alone)

            alone.forget(ids=ids[:1], strategy="retrain", wait=True)
            report = system.forget(ids=ids[:1], strategy="retrain", wait=True)
            (shard,) = report["shards"]
            assert (shard["first_slice"], shard["sample_visits"]) == (1, shard["planned_visits"])
            assert support.blobs(system) == support.blobs(alone)

            alone.forget(ids=ids[1:], strategy="retrain", wait=True)
            pause.touch()
            request_id = str(system.forget(ids=ids[1:], strategy="retrain")["request_id"])
            follower = Thread(target=system.wait, args=(request_id,))
            follower.start()
            victim = support.until(workers, step=0.2)[0]
            os.kill(victim, signal.SIGKILL)
            pause.unlink()
            follower.join(180)
            assert not follower.is_alive()
            assert system.ledger.request(request_id).state is RequestState.SERVED
            assert support.blobs(system) == support.blobs(alone)
        assert alone.verify()["exact_claims_hold"]


def workers() -> list[int]:
    """Return the process ids of Ray Train's workers that live, once both are there."""
    from ray._private.state import actors  # the public list needs the dashboard

    alive = [
        one for one in actors().values() if one["State"] == "ALIVE" and "RayTrainWorker" in str(one["ActorClassName"])
    ]
    return [int(one["Pid"]) for one in alive] if len(alive) == 2 and ray.is_initialized() else []
