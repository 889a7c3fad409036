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
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from hybridmu.config import Settings
from hybridmu.core.gradients import Gradients
from hybridmu.core.parts import following, summed, weighed
from hybridmu.core.training import Recipe, loss_of, trained_epochs
from hybridmu.runtime.shard import ShardWorker
from hybridmu.task import Task
from hybridmu.types import ShardJob, ShardOutcome

_FAILURES = 3


class WideShard(ShardWorker):
    """A shard worker whose retrains run on several processes; everything else it does by itself."""

    def retrain(self, job: ShardJob) -> ShardOutcome:
        """Return what `ShardWorker.retrain` gives, bit for bit, from `compute.parts` processes."""
        started = time.perf_counter()
        live, recipe = self._live(job), self.site.recipe_for(self.shard, job.generations)
        keys = self._lineage(live, recipe).keys
        if job.mend:
            self.site.blobs.mend(self.shard, keys)
            job = replace(job, mend=False)
        have = [n for n, key in enumerate(keys, start=1) if self.site.blobs.find(self.shard, key) is not None]
        first = max(have, default=0) + 1
        epochs = trained_epochs(recipe, live.counts(len(keys)))
        visits = sum(epochs[n - 1] * live.upto(n) for n in range(first, len(keys) + 1))
        if len(live) and visits:
            self._fit(job)
        # Every slice is there now: this only looks.
        return replace(super().retrain(job), first_slice=first, visits=visits, seconds=time.perf_counter() - started)

    def _fit(self, job: ShardJob) -> None:
        settings, cluster = self.site.settings, self.site.settings.cluster
        resources: dict[str, float] = {"CPU": cluster.cpus_per_shard}
        if cluster.gpus_per_shard:
            resources["GPU"] = cluster.gpus_per_shard
        with tempfile.TemporaryDirectory(prefix="hybridmu-wide-") as folder:
            TorchTrainer(
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


class _Part(ShardWorker):
    """One of the processes that share a shard."""

    def __init__(self, settings: Settings, shard: int) -> None:
        super().__init__(settings, shard)
        self._across, self._saves = _across, dist.get_rank() == 0


def _train(config: dict[str, Any]) -> None:
    """Train the shard with the other processes; the first one writes what was made."""
    part = _Part(Settings.model_validate(config["settings"]), config["shard"])
    part.retrain(config["job"])


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
