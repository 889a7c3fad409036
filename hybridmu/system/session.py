"""An opened system: what it is made of, and how it follows a coordinator or becomes one."""

from __future__ import annotations

import contextlib
import os
import socket
import time
import uuid
from functools import cached_property
from typing import Protocol, Self

from hybridmu.datasets import catalog
from hybridmu.errors import (
    HybridMUError,
    LeaseLostError,
    StateError,
)
from hybridmu.runtime.coordinator import coordinator
from hybridmu.runtime.coordinator.coordinator import Coordinator, Snapshot
from hybridmu.runtime.coordinator.row_intake import Intake
from hybridmu.runtime.linked.linked_models import Models
from hybridmu.runtime.workers.context import Site
from hybridmu.runtime.workers.executor import LocalExecutor
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
from hybridmu.system.arguments import Configuration, Executor, Watcher, checked


class Driver(Protocol):
    """A coordinator, in this process or in a Ray actor."""

    def acquire(self) -> bool:
        """Take the lease."""
        ...

    def begin_training(self) -> Snapshot:
        """Queue the training."""
        ...

    def step(self, wait_seconds: float) -> Snapshot:
        """Make one step."""
        ...

    def close(self) -> None:
        """Release everything."""
        ...


class Opened:
    """The parts of one system, opened when they are first asked for.

    Args:
        settings: The configuration.
        executor: `ray`, or `local` to run everything in this process.
    """

    @checked
    def __init__(self, settings: Configuration, executor: Executor = "ray") -> None:
        self.settings = settings.model_copy(update={"data": catalog.resolve(settings.data)})
        self.executor = executor
        self.site = Site(self.settings)
        self._driver: Driver | None = None
        self._bound = False

    @checked
    def close(self) -> None:
        """Release the lease and stop what this object started."""
        driver, self._driver = self._driver, None
        if driver is not None:
            driver.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

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

    def _check_bound(self) -> None:
        """Check once that storage is of this configuration, and not newer than the ledger.

        Neither can change under a system that found it so.
        """
        if not self._bound:
            bind(self.site.storage, self.database.identity, self.settings, create=False)
            self.database.journal(self.site.storage).check(whole=False)
            self.site.lake.compare_with(self.database.seals.known)
            self._bound = True

    def _look(self) -> None:
        """See what is in storage now; another process may have brought rows in."""
        self._check_bound()
        self.site.lake.refresh()

    def _acquire(self, patient: bool = True) -> Driver:
        """Return the coordinator, becoming it first if need be.

        Args:
            patient: Wait for the lease of a coordinator that may be dead.

        Raises:
            StateError: Another one is at work.
            LeaseLostError: The same, for who did not want to wait.
            HybridMUError: The storage can't be worked on.
        """
        if self._driver is None:
            holder = self._holder()
            if self.executor == "local":
                driver: Driver = Coordinator(self.settings, LocalExecutor(self.settings), holder)
            else:
                from hybridmu.cluster.driver import RayDriver

                driver = RayDriver(self.settings, holder)
            # A killed coordinator's lease runs out; a live one renews it for longer than we wait.
            patience = time.monotonic() + (coordinator.LEASE_SECONDS + 1 if patient else 0)
            try:
                while not (acquired := driver.acquire()) and time.monotonic() < patience:
                    time.sleep(0.3)
            except HybridMUError:
                driver.close()
                raise
            if not acquired:
                driver.close()
                if not patient:
                    raise LeaseLostError("another coordinator was quicker")
                raise StateError(
                    "another coordinator is at work on this storage",
                    got=str(self.lease.holder()),
                    remedy="use `forget` (it follows that one), or stop it first",
                )
            self._driver = driver
        return self._driver

    @staticmethod
    def _holder() -> str:
        return f"{socket.gethostname()}/{os.getpid()}/{uuid.uuid4().hex[:6]}"

    def _step(self, wait_seconds: float, patient: bool = True) -> Snapshot:
        driver = self._acquire(patient)
        try:
            return driver.step(wait_seconds)
        except Exception:
            # Broken off in the middle of a step, what it has in memory may be half-done. All of it can be lost: the
            # next one starts from what is durable.
            with contextlib.suppress(HybridMUError):  # a lease that can't be given back runs out
                self.close()
            raise

    def _follow(self, watch: Watcher | None) -> None:
        """Let the running coordinator work for a moment, or make a step of our own."""
        if self._driver is None and self.lease.holder(coordinator.LEASE_SECONDS) is not None:
            time.sleep(0.1)
            return
        try:
            snapshot = self._step(0.1, patient=False)
        except LeaseLostError:
            time.sleep(0.1)  # another coordinator took over: follow that one
            return
        if watch:
            watch(snapshot)
