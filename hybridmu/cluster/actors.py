"""Thin actor shells around the plain runtime classes: options, names, and on which node they run."""

from __future__ import annotations

import uuid
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from hybridmu.cluster.update_actor import ClusterUpdater
from hybridmu.config import Settings
from hybridmu.runtime.workers.shard_worker import ShardWorker

NAMESPACE = "hybridmu"


def start_shard(settings: Settings, shard: int, node: str) -> Any:
    """Return a new shard actor on a node."""
    if settings.compute.parts > 1:
        from hybridmu.cluster.data_parallel import WideShard  # late: Ray Train takes seconds to import

        return _start(WideShard, settings, node, f"shard-{shard}", holds=False).remote(settings, shard)
    return _start(ShardWorker, settings, node, f"shard-{shard}").remote(settings, shard)


def start_updater(settings: Settings, node: str) -> Any:
    """Return a new updater actor on a node."""
    return _start(ClusterUpdater, settings, node, "updater").remote(settings)


def _start(plain: type, settings: Settings, node: str, name: str, *, holds: bool = True) -> Any:
    """Return the actor class with its options.

    With GPUs an actor holds them and its CPUs for life, since Ray has no per-call GPU. Without, it holds nothing but
    its rows, and the executor reserves CPUs around each job. The node is chosen by the caller: Ray would put actors
    that ask for nothing anywhere, a head without work included. The shell of a wide shard holds nothing: the processes
    that train it do.
    """
    gpu = settings.cluster.gpus_per_shard if holds else 0
    return ray.remote(
        num_cpus=settings.cluster.cpus_per_shard if gpu else 0,
        num_gpus=gpu,
        max_restarts=0,  # the fleet starts another one, maybe on another node
        max_task_retries=0,  # the coordinator retries, under a new job id
        scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False),
        name=f"{name}-{uuid.uuid4().hex[:8]}",
        namespace=NAMESPACE,
    )(plain)
