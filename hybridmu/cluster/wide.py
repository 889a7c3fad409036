"""A shard that several devices train together, on Ray Train: every part of a batch in a process of its own.

`DistributedDataParallel` moves gradients while it computes them; its reduction is replaced by one that adds the parts
in their order, as one process does (`core/parts.py`). So a wide shard has the same bits on any machine, is proven by
the same oracle, and is found again by the same lineage. Finished slices are in storage at once: a worker that dies
costs the slice that it was in.
"""

from __future__ import annotations

import tempfile
import time
import uuid
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist
from ray import train
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from hybridmu.config import Settings
from hybridmu.core.gradients import Gradients
from hybridmu.core.parts import following, summed, weighed
from hybridmu.core.training import Recipe, loss_of
from hybridmu.runtime.shard import ShardWorker
from hybridmu.task import Task
from hybridmu.types import ShardJob, ShardOutcome

_FAILURES = 3


class WideShard(ShardWorker):
    """A shard worker whose retrains run on several processes; everything else it does by itself."""

    def retrain(self, job: ShardJob) -> ShardOutcome:
        """Return what `ShardWorker.retrain` gives, bit for bit, from `compute.parts` processes."""
        started = time.perf_counter()
        settings, cluster = self.site.settings, self.site.settings.cluster
        resources: dict[str, float] = {"CPU": cluster.cpus_per_shard}
        if cluster.gpus_per_shard:
            resources["GPU"] = cluster.gpus_per_shard
        with tempfile.TemporaryDirectory(prefix="hybridmu-wide-") as folder:
            result = TorchTrainer(
                _train,
                train_loop_config={"settings": settings.model_dump(mode="json"), "shard": self.shard, "job": job},
                torch_config=TorchConfig(backend="nccl" if cluster.gpus_per_shard else "gloo"),
                scaling_config=ScalingConfig(
                    num_workers=settings.compute.parts,
                    use_gpu=bool(cluster.gpus_per_shard),
                    resources_per_worker=resources,
                ),
                run_config=RunConfig(
                    name=f"shard-{self.shard}-{uuid.uuid4().hex[:8]}",
                    storage_path=folder,  # what a crash must not lose is in the system's own storage
                    failure_config=FailureConfig(max_failures=_FAILURES),
                ),
            ).fit()
        made: dict[str, Any] = result.metrics or {}
        found = super().retrain(replace(job, mend=False))  # every slice is there: this only looks
        return replace(
            found,
            first_slice=made["first_slice"],
            visits=made["visits"],
            seconds=time.perf_counter() - started,
        )


class _Part(ShardWorker):
    """One of the processes that share a shard."""

    def __init__(self, settings: Settings, shard: int) -> None:
        super().__init__(settings, shard)
        self._across, self._saves = _across, dist.get_rank() == 0


def _train(config: dict[str, Any]) -> None:
    """Train the shard with the other processes; the first one writes what was made."""
    part = _Part(Settings.model_validate(config["settings"]), config["shard"])
    outcome = part.retrain(config["job"])
    train.report({"first_slice": outcome.first_slice, "visits": outcome.visits})


def _across(model: nn.Module, task: Task, parameters: Sequence[Tensor], recipe: Recipe) -> Gradients:
    """Return a function (x, y) → gradients of the batch, each process computing its own part."""
    device = parameters[0].device
    ddp = DistributedDataParallel(
        model,
        device_ids=[device] if device.type == "cuda" else None,
        broadcast_buffers=False,
        find_unused_parameters=True,
    )
    ddp.register_comm_hook(None, _in_order)
    loss, rank, parts = loss_of(ddp, task, recipe, device.type), dist.get_rank(), dist.get_world_size()

    def gradients(x: Tensor, y: Tensor) -> Sequence[Tensor | None]:
        seed = torch.initial_seed()
        for parameter in parameters:
            parameter.grad = None
        weighed(loss, x, y, rank, parts).backward()  # type: ignore[no-untyped-call]
        torch.manual_seed(following(seed))
        return [parameter.grad for parameter in parameters]

    return gradients


def _in_order(_, bucket):  # type: ignore[no-untyped-def]  # torch compares annotations by identity
    """Return the sum of all processes' gradients, in the order of their parts."""
    mine = bucket.buffer()
    every = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
    done = dist.all_gather(every, mine, async_op=True).get_future()

    def add(_: object) -> Tensor:
        total = summed(every)
        assert total is not None
        return total

    return done.then(add)
