"""Session of one system: its storage, ledger, keys and coordinator, opened when they are first asked for.

What works with models, or reads tables in, is imported inside the properties too: PyTorch alone takes longer than a
look into the ledger, and most verbs do without.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

from hybridmu.config import Settings, left_out
from hybridmu.errors import ConfigError, DatabaseError, StateError
from hybridmu.kinds import import_plugins
from hybridmu.store.dataset.lake import Lake
from hybridmu.store.dataset.layout import MANIFEST
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
from hybridmu.store.ownership import bind, is_claimed, lost_ledger
from hybridmu.store.storage.file_modes import modes_of
from hybridmu.store.storage.storage import Storage
from hybridmu.system.arguments import Executor
from hybridmu.system.coordination import Coordination
from hybridmu.system.executor_choice import choose

if TYPE_CHECKING:
    from hybridmu.runtime.coordinator.canary_curves import CanaryCurves
    from hybridmu.runtime.coordinator.canary_jobs import Canaries
    from hybridmu.runtime.coordinator.checkpoint_keeper import CheckpointKeeper
    from hybridmu.runtime.coordinator.removal_planner import RemovalPlanner
    from hybridmu.runtime.coordinator.row_intake import Intake
    from hybridmu.runtime.linked.linked_models import Models
    from hybridmu.runtime.workers.context import Site
    from hybridmu.store.keyring import Keyring
    from hybridmu.store.ledger.suppression_list import Guard


class Session:
    """Storage, ledger, keys and coordinator of one system, which all its parts share.

    Args:
        settings: The configuration.
        executor: `ray`, `local` to run everything in this process, or `auto`: on a cluster where one is there.

    Attributes:
        given: The configuration as it was given; `settings` says what it leaves out.
    """

    def __init__(self, settings: Settings, executor: Executor = "auto") -> None:
        settings, self.executor = choose(settings, executor)
        self.given = self._settings = settings if settings.data.name is None else _filled(settings)
        self._complete = not left_out(self.given)
        import_plugins(settings.plugins)  # settings that were made in Python name kinds too
        self.storage = Storage(settings.storage_url, modes_of(settings.storage_mode))
        self._bound = False

    def close(self) -> None:
        """Release the lease and stop what this session started."""
        if "coordination" in self.__dict__:
            self.coordination.close()

    @property
    def settings(self) -> Settings:
        """Return the configuration; what it leaves out is as the system was trained, once it is.

        Raises:
            ConfigError: It contradicts what was trained.
            DatabaseError: The ledger can't be reached.
        """
        if not self._complete:
            self.complete_settings()
        return self._settings

    def complete_settings(self) -> None:
        """Take what the ledger knows of what the configuration leaves out; see `settings`.

        Raises:
            ConfigError: As there.
            DatabaseError: As there.
        """
        try:
            if has_tables(self.given.database) and self.database.identity.claimed():
                self._use(self.database.identity.complete(self.given))
                # Until there are rows another attempt may choose otherwise.
                self._complete = self.storage.exists(MANIFEST)
        except DatabaseError:
            raise
        except StateError:
            pass  # tables of another release: the verbs tell it, and `train` brings them up to date

    def _use(self, settings: Settings) -> None:
        """Take settings, and forget what was made with other values."""
        same, self._settings = settings == self._settings, settings
        if same:
            return
        self.close()
        for name in ("lake", "site", "coordination"):
            self.__dict__.pop(name, None)

    @cached_property
    def lake(self) -> Lake:
        """Return the tables."""
        return Lake(self.settings, self.storage)

    @cached_property
    def coordination(self) -> Coordination:
        """Return the coordinator's work, here or followed elsewhere."""
        return Coordination(self.settings, self.executor, lambda: self.lease, lambda: self.site)

    @cached_property
    def site(self) -> Site:
        """Return task, recipe and blobs over the same tables.

        Raises:
            ConfigError: The task can't be made.
        """
        from hybridmu.runtime.workers.context import Site

        return Site(self.settings, self.lake)

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
        from hybridmu.store.keyring import Keyring

        return Keyring(self.settings)

    @cached_property
    def guard(self) -> Guard:
        """Return what must not come in again."""
        return self.database.guard(self.keyring)

    @cached_property
    def linked(self) -> Models:
        """Return the models over the same people."""
        from hybridmu.runtime.linked.linked_models import Models

        return Models(self.settings, self.database)

    @cached_property
    def ingestions(self) -> Ingestions:
        """Return new data that came in or waits."""
        return self.database.ingestions

    @cached_property
    def intake(self) -> Intake:
        """Return what accepts new and corrected rows."""
        from hybridmu.runtime.coordinator.row_intake import Intake

        return Intake(self.lake, self.ledger, self.registry, self.ingestions, self.guard, self.keyring)

    @cached_property
    def database(self) -> Database:
        """Return every store of the ledger.

        Raises:
            StateError: Nothing was trained here.
            StorageMismatchError: Storage belongs to a ledger that is not there.
        """  # noqa: DOC501 - a function makes the second
        try:
            return Database.open(self.given.database)
        except StateError:
            if is_claimed(self.storage) and not has_tables(self.given.database):
                raise lost_ledger(self.storage) from None
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
            bind(self.storage, self.database.identity, self.settings, create=False)
            self.database.journal(self.storage).check(whole=False)
            self.lake.compare_with(self.database.seals.known)
            self._bound = self.lake.exists  # until then another attempt may claim it for other settings

    def refresh(self) -> None:
        """See what is in storage now; another process may have brought rows in."""
        self.check_bound()
        self.lake.refresh()

    def removal_planner(self) -> RemovalPlanner:
        """Return the planner of removals, by what the ledger says now."""
        from hybridmu.runtime.coordinator.removal_planner import RemovalPlanner

        return RemovalPlanner(self.site, self.ledger, self.measurements, self.registry)

    def canary_curves(self) -> CanaryCurves:
        """Return what is known from canaries."""
        from hybridmu.runtime.coordinator.canary_curves import CanaryCurves

        return CanaryCurves(self.settings, self.lake, self.ledger, self.measurements, self.registry)

    def canaries(self) -> Canaries:
        """Return the canaries that calibrate updates, and what can be measured now."""
        from hybridmu.runtime.coordinator.canary_jobs import Canaries

        return Canaries(self.site, self.ledger, self.measurements, self.registry)

    def checkpoint_keeper(self) -> CheckpointKeeper:
        """Return the keeper of the checkpoints' budget."""
        from hybridmu.runtime.coordinator.checkpoint_keeper import CheckpointKeeper

        return CheckpointKeeper(self.site, self.ledger, self.registry)


def _filled(settings: Settings) -> Settings:
    """Return settings whose data section is filled from the built-in dataset that it names.

    Raises:
        ConfigError: Another setting does not fit what the dataset learns.
    """
    from hybridmu.datasets import catalog  # as above

    filled = catalog.resolved(settings)
    if reason := filled.unfit_rule():
        raise ConfigError("the configuration is not valid", got=reason)
    return filled
