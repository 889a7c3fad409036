"""Thin actor shells around the plain runtime classes: options, names, and where they run."""

from __future__ import annotations

import uuid
from typing import Any

import ray

from hybridmu.config import Settings
from hybridmu.runtime.shard import ShardWorker
from hybridmu.runtime.updater import Updater

NAMESPACE = "hybridmu"


class ShardActor(ShardWorker):
    """A ShardWorker that can say on which node it lives."""

    def where(self) -> str:
        """Return the node id."""
        return str(ray.get_runtime_context().get_node_id())


class UpdaterActor(Updater):
    """An Updater that can say on which node it lives."""

    def where(self) -> str:
        """Return the node id."""
        return str(ray.get_runtime_context().get_node_id())


def start_shard(settings: Settings, shard: int) -> Any:
    """Return a new shard actor.

    With GPUs it holds them and its CPUs for life, since Ray has no per-call GPU. Without, it holds nothing but its
    rows, and the executor reserves CPUs around each training.
    """
    cluster = settings.cluster
    gpu = cluster.gpus_per_shard
    return ray.remote(
        num_cpus=cluster.cpus_per_shard if gpu else 0,
        num_gpus=gpu,
        max_restarts=-1,
        max_task_retries=0,  # the coordinator retries, under a new job id
        name=f"shard-{shard}-{uuid.uuid4().hex[:8]}",
        namespace=NAMESPACE,
    )(ShardActor).remote(settings, shard)


def start_updater(settings: Settings) -> Any:
    """Return a new updater actor; it holds a GPU for life when shards train on GPUs."""
    gpu = settings.cluster.gpus_per_shard
    return ray.remote(
        num_cpus=settings.cluster.cpus_per_shard if gpu else 0,
        num_gpus=gpu,
        max_restarts=-1,
        max_task_retries=0,
        name=f"updater-{uuid.uuid4().hex[:8]}",
        namespace=NAMESPACE,
    )(UpdaterActor).remote(settings)
