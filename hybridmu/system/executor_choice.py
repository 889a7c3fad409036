"""Choice of where jobs run: on a Ray cluster where there is one, otherwise in this process."""

from __future__ import annotations

import sys
from typing import Literal

from hybridmu.config import Settings, in_ray_job, running_cluster

Where = Literal["ray", "local"]


def choose(settings: Settings, executor: str) -> tuple[Settings, Where]:
    """Return the settings to work with, and where jobs run.

    Starting a cluster takes longer than most deletions. So `auto` works on Ray only where a cluster is there already:
    this process has joined one or is a Ray job, `cluster.address` names one, or one runs on this machine; or where
    GPUs are asked for, which workers hold.

    Args:
        settings: The configuration.
        executor: `auto`, `ray`, or `local`.

    Returns:
        The settings, with the address of the cluster that was found, and `ray` or `local`.
    """
    if executor != "auto":
        return settings, "ray" if executor == "ray" else "local"
    joined = "ray" in sys.modules and sys.modules["ray"].is_initialized()
    if joined or in_ray_job() or settings.cluster.address or settings.cluster.gpus_per_shard:
        return settings, "ray"
    if (address := running_cluster()) is None:
        return settings, "local"
    cluster = settings.cluster.model_copy(update={"address": address})
    return settings.model_copy(update={"cluster": cluster}), "ray"
