"""Groups of processes on Ray Serve for an ensemble too large for one: a deployment shell around `SubModelGroup`."""

import asyncio
import logging
import threading
from collections.abc import Sequence
from typing import Any

import torch
from ray import serve
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

from hybridmu.config import Settings
from hybridmu.errors import DataError, HybridMUError, StateError
from hybridmu.serving.submodel_group import SubModelGroup

_log = logging.getLogger("ray.serve")
# How long one group may take.
_VOTES_SECONDS = 30.0


@serve.deployment(num_replicas=1, ray_actor_options={"num_cpus": 0}, health_check_period_s=2)
class SubModelGroupDeployment:
    """One process of a group that holds some of the sub-models.

    Args:
        settings: The configuration as plain data.
        group: Which one.
    """

    def __init__(self, settings: dict[str, Any], group: int) -> None:
        torch.set_num_threads(1)
        name = serve.get_replica_context().replica_id.unique_id
        self._voters = SubModelGroup(Settings.model_validate(settings), group, name)
        self._stop = threading.Event()
        threading.Thread(target=self._voters.follow, args=(self._stop,), daemon=True, name="follow").start()
        _log.info("group %d holds shards %s", group, list(self._voters.shards))

    async def logits(self, version: int, x: Any) -> Any:
        """Return shards and what their sub-models say, or None where the version is not to be had any more."""
        return await asyncio.to_thread(self._voters.logits, version, x)

    def check_health(self) -> None:
        """Fail past the lease, so that Serve replaces these voters.

        Raises:
            HybridMUError: The lease is over.
        """
        if not self._voters.healthy:
            raise HybridMUError("the lease is over", remedy="check that the ledger can be reached")

    def __del__(self) -> None:
        """Unregister; when that fails the lease runs out by itself."""
        if hasattr(self, "_stop"):
            self._stop.set()
            self._voters.close()


def ask(groups: Sequence[DeploymentHandle], version: int, x: Any) -> list[Any]:
    """Return what every group says, asked at once.

    Args:
        groups: Handles, one per group.
        version: Which version.
        x: float32 [n, features].

    Raises:
        DataError: A sub-model can't answer these rows.
        StateError: A group can't be reached.
    """
    asked = [group.logits.remote(version, x) for group in groups]
    try:
        return [each.result(timeout_s=_VOTES_SECONDS) for each in asked]
    except DataError as error:  # as Ray brings it: with a traceback of the other process in its text
        raise DataError(error.what, expected=error.expected, got=error.got, remedy=error.remedy) from None
    except (RayError, RayServeException, TimeoutError) as error:
        raise StateError("sub-models can't be reached", got=type(error).__name__, remedy="try again") from error
