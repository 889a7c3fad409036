"""Data-parallel training of a shard on Ray Train: every part of a batch in a process of its own.

A wide shard has the bits of one process (`cluster/distributed_batches.py`), so it is proven by the same oracle, and
found again by the same lineage. Finished slices are in storage at once: a dead worker costs the slice that it was in.
"""

from __future__ import annotations

import tempfile
import time
import uuid
from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer, get_device

from hybridmu.cluster import distributed_batches
from hybridmu.config import Settings
from hybridmu.core.kernel.training import trained_epochs
from hybridmu.runtime.workers.shard_worker import ShardWorker
from hybridmu.types import RetrainJob, ShardOutcome

_FAILURES = 3


class WideShard(ShardWorker):
    """A shard worker whose retrains run on several processes; everything else it does by itself."""

    def retrain(self, job: RetrainJob) -> ShardOutcome:
        """Return what `ShardWorker.retrain` gives, bit for bit, from `compute.parts` processes."""
        started, already = time.perf_counter(), self._rows.read
        self.site.expect(job)
        recipe = self.site.recipe_for(self.shard, job.generations)
        live = self._rows.without(job.tombstones, job.generations)
        keys = self._rows.lineage(live, recipe).keys
        if job.mend:
            self.site.blobs.mend(self.shard, keys)
            job = replace(job, mend=False)
        have = [n for n, key in enumerate(keys, start=1) if self.site.blobs.find(self.shard, key) is not None]
        first = max(have, default=0) + 1
        epochs = trained_epochs(recipe, live.counts(len(keys)))
        visits = sum(epochs[n - 1] * live.upto(n) for n in range(first, len(keys) + 1))
        if len(live) and visits:
            self._fit(job)
        seen = super().retrain(job)  # every slice is there now: this only looks
        seconds = time.perf_counter() - started
        rows_read = self._rows.read - already
        return replace(seen, first_slice=first, visits=visits, seconds=seconds, rows_read=rows_read)

    def _fit(self, job: RetrainJob) -> None:
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
        self._across, self._saves = getattr(distributed_batches, settings.cluster.wide), dist.get_rank() == 0


def _train(config: dict[str, Any]) -> None:
    """Train the shard with the other processes; the first one writes what was made."""
    if (device := get_device()).type == "cuda":  # processes of one node see all of its GPUs, and "cuda" is the first
        torch.cuda.set_device(device)
    part = _Part(Settings.model_validate(config["settings"]), config["shard"])
    part.retrain(config["job"])
