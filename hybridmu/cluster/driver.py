"""RayDriver: the coordinator in its actor, driven from this process."""

from __future__ import annotations

import contextlib
import logging
import uuid
from typing import Any

import ray
from ray.exceptions import RayActorError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from hybridmu.cluster.actors import NAMESPACE
from hybridmu.cluster.announcements import announce
from hybridmu.cluster.ray_executor import RayExecutor
from hybridmu.cluster.ray_metrics import LedgerMetrics
from hybridmu.cluster.resources import ensure_ray, local_storage_warning, nodes, pools, refuse_ledger_in_a_file
from hybridmu.config import Settings
from hybridmu.errors import HybridMUError, StateError
from hybridmu.runtime.coordinator.coordinator import Coordinator
from hybridmu.runtime.coordinator.snapshot import Snapshot

_log = logging.getLogger(__name__)
_START_SECONDS = 180.0
_STEP_SECONDS = 600.0


class CoordinatorActor(Coordinator):
    """The coordinator with its Ray executor."""

    def __init__(self, settings: Settings, holder: str) -> None:
        self._ray = RayExecutor(settings)
        super().__init__(settings, self._ray, holder)
        self._announced: int | None = None
        self._metrics = LedgerMetrics(self.database)

    def acquire(self) -> bool:
        """Return whether the lease was taken; CPUs that a dead holder left reserved are then free again."""
        taken = super().acquire()
        if taken:
            self._ray.reclaim()
        return taken

    def step(self, wait_seconds: float = 0.0) -> Snapshot:
        """Return the state after one step; tell replicas of a new version at once instead of at their next poll."""
        snapshot = super().step(wait_seconds)
        self._metrics.show()
        if snapshot.version != self._announced and self.database.replicas.live():
            announce(snapshot.version or 0)
            confirmed = self.database.replicas.confirmed()
            self.database.progress.mark_served(self.leadership.token(), confirmed)
            snapshot = self.snapshot()
        self._announced = snapshot.version
        return snapshot


class RayDriver:
    """Owner of the coordinator's actor: it starts or joins Ray, and checks that the plan fits.

    Args:
        settings: The configuration.
        holder: Name under which the lease is taken.

    Raises:
        ResourceError: The cluster is too small, can't be reached, or has several nodes and the ledger is a file.
    """

    def __init__(self, settings: Settings, holder: str) -> None:
        self._ours = ensure_ray(settings)
        found = nodes()
        refuse_ledger_in_a_file(settings, found)
        pools(settings, nodes(settings.cluster.labels))
        if warning := local_storage_warning(settings, found):
            _log.warning(warning)
        # Owned by this process and fenced by the ledger's lease: a restart is a new actor under a new token. It lives
        # on this process's node, where a ledger in a local file is.
        self.actor = ray.remote(
            num_cpus=0,
            max_restarts=0,
            scheduling_strategy=NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False),
            name=f"coordinator-{uuid.uuid4().hex[:8]}",
            namespace=NAMESPACE,
        )(CoordinatorActor).remote(settings, holder)

    def acquire(self) -> bool:
        """Return whether the lease was taken; false when another coordinator holds it."""
        return bool(self._call("acquire", _START_SECONDS))

    def begin_training(self, calibrate: bool = False) -> Snapshot:
        """Return the state after queueing the training of every shard; `calibrate` as for `Coordinator`."""
        snapshot: Snapshot = self._call("begin_training", _STEP_SECONDS, calibrate)
        return snapshot

    def step(self, wait_seconds: float) -> Snapshot:
        """Return the state after one step of the coordinator."""
        snapshot: Snapshot = self._call("step", _STEP_SECONDS, wait_seconds)
        return snapshot

    def close(self) -> None:
        """Release the lease, stop the actors, and leave Ray if this object joined it."""
        # It is going down anyway, and the lease expires by itself.
        with contextlib.suppress(HybridMUError, ray.exceptions.RayError):
            self._call("close", 60.0)
        ray.kill(self.actor)
        if self._ours:
            ray.shutdown()

    def _call(self, method: str, timeout: float, *args: object) -> Any:
        try:
            return ray.get(getattr(self.actor, method).remote(*args), timeout=timeout)
        except RayTaskError as error:
            if isinstance(error.cause, HybridMUError):
                raise error.cause from None
            raise
        except RayActorError as error:
            lines = str(error).strip().splitlines()
            why = " … ".join(dict.fromkeys((lines[0], lines[-1])))  # between them is a traceback
            raise StateError("the coordinator died", got=why, remedy="run the command again; nothing is lost") from None
