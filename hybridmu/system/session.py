"""Session of one system: its storage, ledger, keys and coordinator, opened when they are first asked for."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from hybridmu.config import Settings
from hybridmu.datasets import catalog
from hybridmu.errors import StateError
from hybridmu.runtime.coordinator.canary_jobs import Canaries
from hybridmu.runtime.coordinator.checkpoint_keeper import CheckpointKeeper
from hybridmu.runtime.coordinator.removal_planner import RemovalPlanner
from hybridmu.runtime.coordinator.row_intake import Intake
from hybridmu.runtime.linked.linked_models import Models
from hybridmu.runtime.workers.context import Site
from hybridmu.store.keyring import Keyring
from hybridmu.store.ledger.database import Database
from hybridmu.store.ledger.engine.opening import has_tables
from hybridmu.store.ledger.ingestions import Ingestions
from hybridmu.store.ledger.lease import Lease
from hybridmu.store.ledger.ledger import Ledger
from hybridmu.store.ledger.measurements import Measurements
from hybridmu.store.ledger.operator_controls import Controls
from hybridmu.store.ledger.registry import Registry
from hybridmu.store.ledger.replicas import Replicas
from hybridmu.store.ledger.request_pages import RequestPages
from hybridmu.store.ledger.suppression_list import Guard
from hybridmu.store.ownership import bind, is_claimed, lost_ledger
from hybridmu.system.arguments import Executor
from hybridmu.system.coordination import Coordination
from hybridmu.system.executor_choice import choose


class Session:
    """Storage, ledger, keys and coordinator of one system, which all its parts share.

    Args:
        settings: The configuration.
        executor: `ray`, `local` to run everything in this process, or `auto`: on a cluster where one is there.
    """

    def __init__(self, settings: Settings, executor: Executor = "auto") -> None:
        settings, self.executor = choose(settings, executor)
        self.settings = settings.model_copy(update={"data": catalog.resolve(settings.data)})
        self.site = Site(self.settings)
        self.coordination = Coordination(self.settings, self.executor, lambda: self.lease)
        self._bound = False

    def close(self) -> None:
        """Release the lease and stop what this session started."""
        self.coordination.close()

    @cached_property
    def ledger(self) -> Ledger:
        """Return the ledger."""
        return self.database.ledger

    @cached_property
    def pages(self) -> RequestPages:
        """Return the requests as lists show them."""
        return self.database.pages

    @cached_property
    def registry(self) -> Registry:
        """Return the registry of versions."""
        return self.database.registry

    @cached_property
    def replicas(self) -> Replicas:
        """Who serves them."""
        return self.database.replicas

    @cached_property
    def lease(self) -> Lease:
        """Return the coordinator's lease."""
        return self.database.lease

    @cached_property
    def measurements(self) -> Measurements:
        """Return costs, calibration, and plan against actual."""
        return self.database.measurements

    @cached_property
    def controls(self) -> Controls:
        """Return pause and legal holds."""
        return self.database.controls

    @cached_property
    def keyring(self) -> Keyring:
        """Return the signing and the guard key."""
        return Keyring(self.settings)

    @cached_property
    def guard(self) -> Guard:
        """Return what must not come in again."""
        return self.database.guard(self.keyring)

    @cached_property
    def linked(self) -> Models:
        """Return the models over the same people."""
        return Models(self.settings, self.database)

    @cached_property
    def ingestions(self) -> Ingestions:
        """Return new data that came in or waits."""
        return self.database.ingestions

    @cached_property
    def intake(self) -> Intake:
        """Return what accepts new and corrected rows."""
        return Intake(self.site, self.ledger, self.registry, self.ingestions, self.guard, self.keyring)

    @cached_property
    def database(self) -> Database:
        """Return every store of the ledger.

        Raises:
            StateError: Nothing was trained here.
            StorageMismatchError: Storage belongs to a ledger that is not there.
        """  # noqa: DOC501 - a function makes the second
        try:
            return Database.open(self.settings.database)
        except StateError:
            if is_claimed(self.site.storage) and not has_tables(self.settings.database):
                raise lost_ledger(self.site.storage) from None
            raise

    def calibration_state(self) -> dict[str, Any]:
        """Return where the calibration stands: `off`, `needless` and why, `waiting`, or `done`; and the sets left."""
        canaries = self.canaries()
        lacking = len(canaries.lacking())
        why = canaries.needless()
        state = "off" if not canaries.wanted else "needless" if why else "waiting" if lacking else "done"
        return {"state": state, "why": why, "sets_lacking": lacking}

    def check_bound(self) -> None:
        """Check once that storage is of this configuration, and not newer than the ledger.

        Neither can change under a system that found it so.
        """
        if not self._bound:
            bind(self.site.storage, self.database.identity, self.settings, create=False)
            self.database.journal(self.site.storage).check(whole=False)
            self.site.lake.compare_with(self.database.seals.known)
            self._bound = True

    def refresh(self) -> None:
        """See what is in storage now; another process may have brought rows in."""
        self.check_bound()
        self.site.lake.refresh()

    def removal_planner(self) -> RemovalPlanner:
        """Return the planner of removals, by what the ledger says now."""
        return RemovalPlanner(self.site, self.ledger, self.measurements, self.registry)

    def canaries(self) -> Canaries:
        """Return the canaries that calibrate updates."""
        return Canaries(self.site, self.ledger, self.measurements, self.registry)

    def checkpoint_keeper(self) -> CheckpointKeeper:
        """Return the keeper of the checkpoints' budget."""
        return CheckpointKeeper(self.site, self.ledger, self.registry)
