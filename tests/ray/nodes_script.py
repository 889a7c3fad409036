"""Four nodes on this machine: a head without work, two of one CPU, one for others; one is lost in the middle."""

from __future__ import annotations

import secrets
import sys
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster

import hybridmu
from hybridmu.cluster.ray_executor import RayExecutor
from hybridmu.cluster.ray_log_scan import Searchers
from hybridmu.config import Settings
from hybridmu.errors import PurgeError, ResourceError
from hybridmu.runtime.coordinator.coordinator import Coordinator
from tests.ray import support
from tests.support import HANG_SECONDS


def main(folder: Path, database_url: str) -> None:
    """Print a word after each thing that was right; the nodes share a ledger on PostgreSQL."""
    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "object_store_memory": 100 * 2**20})
    workers = [nodes.add_node(num_cpus=1, object_store_memory=100 * 2**20, labels={"use": "train"}) for _ in range(2)]
    nodes.add_node(num_cpus=4, object_store_memory=100 * 2**20, labels={"use": "serve"})
    nodes.wait_for_nodes()
    ray.init(address=nodes.address, namespace="hybridmu", log_to_driver=False)

    with pytest.raises(ResourceError, match="several nodes") as refused:
        hybridmu.connect(support.config(folder, "file"), "ray").train()
    assert "postgresql://" in refused.value.remedy
    print("refused")

    search()
    print("searched")

    pause = folder / "pause"
    task = {"name": "tests.ray.tasks:Pausable", "hidden": [8], "pause": str(pause), "seconds": 0.1}
    sisa = {"shards": 4, "slices": 2, "epochs": 4}
    raw = support.config(folder, "nodes", sisa=sisa, task=task, database_url=database_url)
    settings = Settings.parse({**raw, "cluster": {**raw.get("cluster", {}), "labels": {"use": "train"}}})
    pause.touch()
    coordinator = Coordinator(settings, RayExecutor(settings), "test")
    assert coordinator.acquire()
    assert coordinator.executor.pools().workers == 2
    coordinator.begin_training()
    training = Thread(target=train, args=(coordinator,))
    training.start()
    support.until(lambda: ray.available_resources().get("CPU", 0) == 4)
    assert set(placed()) == {worker.node_id for worker in workers}, "none on the head, and none where labels differ"
    print("placed")

    nodes.remove_node(workers[0], allow_graceful=False)
    pause.unlink()
    training.join(HANG_SECONDS)
    assert not training.is_alive(), "hangs after the loss of a node"
    assert coordinator.registry.served() == 1
    assert coordinator.executor.pools().workers == 1
    coordinator.close()
    print("lost")

    with (
        hybridmu.connect(settings, executor="local") as on_ray,
        hybridmu.connect(support.config(folder, "alone", sisa=sisa, task=task), executor="local") as alone,
    ):
        alone.train()
        assert support.blobs(alone) == support.blobs(on_ray)
    print("equal")
    ray.shutdown()
    nodes.shutdown()


def search() -> None:
    """Look for a needle on all four nodes, which share a session's folder here; one searcher is lost in between."""
    needle = secrets.token_bytes(16)
    log = Path(ray._private.worker._global_node.get_session_dir_path()) / "logs" / "worker-test.out"
    log.write_text(f"forgot {needle.hex()}\n")
    searchers = Searchers()
    for _ in range(2):
        searched, found = searchers.find([needle])
        assert searched == len(found) == 4
        assert {file for file, _ in found} == {f"{log} of node {node['NodeID']}" for node in ray.nodes()}
    kept = alive("Searcher")
    assert len(kept) == 3, "one process per other node, whatever the number of purges"
    ray.kill(next(iter(searchers._actors.values())))
    with pytest.raises(PurgeError, match="could not be searched"):
        searchers.find([needle])
    log.unlink()
    assert searchers.find([needle]) == (4, ())
    assert not {entry["ActorID"] for entry in alive("Searcher")} & {entry["ActorID"] for entry in kept}


def train(coordinator: Coordinator) -> None:
    """Drive the first training to its end."""
    while coordinator.registry.served() is None:
        coordinator.step(0.1)


def placed() -> list[str]:
    """Return the nodes on which shard actors live."""
    return [entry["Address"]["NodeID"] for entry in alive("ShardWorker")]


def alive(kind: str) -> list[dict[str, Any]]:
    """Return the live actors of a class."""
    from ray._private.state import actors  # the public list needs the dashboard

    return [entry for entry in actors().values() if entry["State"] == "ALIVE" and entry["ActorClassName"] == kind]


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
