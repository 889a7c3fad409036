"""Placement on two pretended GPUs, in a cluster of its own. Nothing is trained: there is no CUDA here.

The plain classes that the actors wrap are replaced by one that says which devices it was given.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

import ray

from hybridmu.cluster import actors, ray_executor
from hybridmu.config import Settings
from hybridmu.planning.planner import Pools
from hybridmu.runtime.workers.shard_worker import ShardWorker
from hybridmu.types import ModelJob, RetrainJob, ShardOutcome, UpdateJob
from tests.ray import support


class Probe:
    """Stands in for ShardWorker and Updater: its outcome tells where it ran."""

    def __init__(self, settings: Settings, shard: int = -1) -> None:
        self.shard = shard

    def ready(self) -> int:
        return self.shard

    def run(self, job: ModelJob) -> ShardOutcome:
        time.sleep(0.3)
        devices = f"{os.environ.get('CUDA_VISIBLE_DEVICES')}/{ray.get_gpu_ids()}"
        return ShardOutcome(job.job_id, job.shard, "retrain", devices, True, 0, 1, 1, 0, 0.0)


def finish(runner: ray_executor.RayExecutor, jobs: list[ModelJob]) -> tuple[dict[str, str], int]:
    """Return job → devices it ran with, and the most GPUs held at any look."""
    for job in jobs:
        runner.submit(job)
    found: dict[str, str] = {}
    held = 0.0
    end = time.monotonic() + 60
    while len(found) < len(jobs):
        assert time.monotonic() < end, f"hangs after {found}"
        for result in runner.poll(0.1):
            assert isinstance(result, ShardOutcome), result
            found[result.job_id] = str(result.blob)
        held = max(held, 2 - ray.available_resources().get("GPU", 0))
        alive = [*support.actors("shard-"), *support.actors("updater-")]
        assert len(alive) <= 2, "more actors than devices"
    return found, int(held)


def main(folder: Path, temporary: str) -> None:
    """Print a word after each thing that was right."""
    ray.init(num_cpus=4, num_gpus=2, include_dashboard=False, namespace="hybridmu", _temp_dir=temporary)
    for name in ("ShardWorker", "ClusterUpdater"):
        setattr(actors, name, Probe)
    parsed = Settings.parse(support.config(folder, cluster={"gpus_per_shard": 1, "updaters": 1}))
    runner = ray_executor.RayExecutor(parsed)
    assert runner.pools() == Pools(1, 1)
    print("fleet")

    # Four shards on two devices: idle actors make room, and each that runs holds one device of its own.
    found, held = finish(runner, [RetrainJob(job_id=f"r{shard}", shard=shard) for shard in range(4)])
    assert set(found.values()) <= {"0/[0]", "1/[1]"}, found
    assert held == 2
    print("shards")

    # Both devices are held by idle shard actors now; the updater gets one, and the shards get it back.
    found, _ = finish(runner, [UpdateJob(job_id="u", shard=0, strategy="dpus")])
    assert set(found.values()) <= {"0/[0]", "1/[1]"}, found
    found, _ = finish(runner, [RetrainJob(job_id=f"again{shard}", shard=shard) for shard in range(2)])
    assert len(found) == 2
    runner.close()
    support.until(lambda: ray.available_resources().get("GPU") == 2)
    print("updater")

    # A shard that trains on CPUs holds no GPU and uses none, whatever Ray lets it see.
    setattr(actors, "ShardWorker", ShardWorker)  # noqa: B010 - the module does not export it
    plain = Settings.parse(support.config(folder))
    (node,) = ray.nodes()
    worker: Any = actors.start_shard(plain, 0, node["NodeID"])
    assert support.ask(worker, lambda plain: (plain.site.device, ray.get_gpu_ids())) == ("cpu", [])
    assert ray.available_resources().get("GPU") == 2
    print("cpu")
    ray.shutdown()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
