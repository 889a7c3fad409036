"""Workers beside the coordinator's own, for work that changes nothing that is served."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import ray

from hybridmu.cluster.ray_executor import RayExecutor
from hybridmu.cluster.resources import ensure_ray
from hybridmu.config import Settings


@contextmanager
def audit_pool(settings: Settings) -> Iterator[RayExecutor]:
    """Start or join Ray, and run jobs on as many updaters as the cluster has room for.

    They reserve CPUs job by job like everybody else, so a coordinator on the same cluster goes on.

    Args:
        settings: The configuration; `cluster.max_parallel` bounds the updaters.

    Yields:
        The executor; its actors are stopped at the end.
    """
    ours = ensure_ray(settings)
    cluster = settings.cluster.model_copy(update={"updaters": settings.cluster.max_parallel or 1_000_000})
    executor = RayExecutor(settings.model_copy(update={"cluster": cluster}), purpose="crew")
    try:
        yield executor
    finally:
        executor.close()
        if ours:
            ray.shutdown()
