"""Start of a Ray of this process's own, which Ray itself gives up after 30 seconds on a busy machine."""

from __future__ import annotations

import logging
from typing import Any

import ray

from hybridmu.errors import ResourceError

_ATTEMPTS = 3
_LATE = "timed out during startup"  # the words of an error that has no class of its own

_log = logging.getLogger(__name__)


def start_local(**options: Any) -> None:
    """Start Ray in this process, again where it was not ready in time.

    Args:
        options: Of `ray.init`.

    Raises:
        ResourceError: It was late each time.
    """
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            # By its name: without, Ray looks for a cluster that was here once, and waits minutes for a dead one.
            ray.init(address="local", **options)
        except Exception as error:
            if _LATE not in str(error):
                raise
            _log.warning("Ray did not start in 30 s on this machine (attempt %d of %d)", attempt, _ATTEMPTS)
        else:
            return
    raise ResourceError(
        "Ray did not start on this machine",
        expected="processes that answer within 30 s",
        got=f"none, {_ATTEMPTS} times",
        remedy="try again when the machine is less busy, set cluster.address to a running cluster, or do without Ray: "
        "--local, or executor='local'",
    )
