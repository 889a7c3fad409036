"""Starting or joining Ray, and asking whether the cluster can do what the settings want."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping

import ray

from hybridmu.cluster.actors import NAMESPACE
from hybridmu.config import Settings, in_ray_job
from hybridmu.errors import ResourceError
from hybridmu.planning.planner import Pools


def ensure_ray(settings: Settings) -> bool:
    """Join the configured cluster, or start a local one that ends with this process.

    Args:
        settings: `cluster.address`.

    Returns:
        Whether this call started or joined Ray (false: it was there already).

    Raises:
        ResourceError: The cluster can't be reached.
    """
    if ray.is_initialized():
        return False
    address = settings.cluster.address or ("auto" if in_ray_job() else None)
    common = {"namespace": NAMESPACE, "log_to_driver": False, "logging_level": "warning"}
    try:
        if address is None:
            ray.init(num_cpus=os.cpu_count(), include_dashboard=False, **common)
        else:
            ray.init(address=address, **common)
    except ConnectionError as error:
        raise ResourceError(
            f"no Ray cluster answers at {address}",
            got=str(error).split("\n")[0],
            remedy="start one with `ray start --head`, or set cluster.address: null",
        ) from None
    return True


def pools(settings: Settings, total: Mapping[str, float]) -> Pools:
    """Return how many retrains and updates fit the cluster at once.

    Args:
        settings: What one shard holds.
        total: `ray.cluster_resources()`.

    Returns:
        At least one of each.

    Raises:
        ResourceError: Not even one shard fits; the missing resource is named.
    """
    cluster = settings.cluster
    fits = math.inf
    for name, each in (("CPU", cluster.cpus_per_shard), ("GPU", cluster.gpus_per_shard)):
        have = float(total.get(name, 0.0))
        if not each:
            continue
        if have < each:
            raise ResourceError(
                f"the cluster is too small: one shard needs {each:g} {name}, the whole cluster has {have:g}",
                expected=f"a node with {each:g} {name}",
                got=f"{have:g} {name}",
                remedy=f"lower cluster.{name.lower()}s_per_shard, or add nodes",
            )
        fits = min(fits, have // each)
    if cluster.gpus_per_shard:
        fits = max(1, fits - cluster.updaters)  # updaters hold a GPU each
    return Pools(int(min(fits, cluster.max_parallel or math.inf)), cluster.updaters)
