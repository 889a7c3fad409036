"""Coordination of a system's work: it follows a running coordinator, or becomes one."""

from __future__ import annotations

import contextlib
import os
import socket
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from hybridmu.config import Settings
from hybridmu.errors import (
    HybridMUError,
    LeaseLostError,
    StateError,
)
from hybridmu.runtime.coordinator import leadership
from hybridmu.runtime.coordinator.snapshot import Snapshot
from hybridmu.store.ledger.lease import Lease
from hybridmu.system.arguments import Watcher


class Driver(Protocol):
    """A coordinator, in this process or in a Ray actor."""

    def acquire(self) -> bool:
        """Take the lease."""
        ...

    def begin_training(self, calibrate: bool = False) -> Snapshot:
        """Queue the training."""
        ...

    def step(self, wait_seconds: float) -> Snapshot:
        """Make one step."""
        ...

    def close(self) -> None:
        """Release everything."""
        ...


class Coordination:
    """The coordinator of one system, here or elsewhere.

    Args:
        settings: The configuration.
        executor: `ray`, or `local` to run everything in this process.
        lease: Returns the coordinator's lease; asked for late, since a system that is not trained has none.
        prepare: Makes what jobs need; a task that can't be made is told before a cluster is started.
    """

    def __init__(
        self, settings: Settings, executor: str, lease: Callable[[], Lease], prepare: Callable[[], object]
    ) -> None:
        self._settings, self._executor, self._lease, self._prepare = settings, executor, lease, prepare
        self.driver: Driver | None = None

    def close(self) -> None:
        """Release the lease and stop what was started here."""
        driver, self.driver = self.driver, None
        if driver is not None:
            driver.close()

    def acquire(self, patient: bool = True) -> Driver:
        """Return the coordinator, becoming it first if need be.

        Args:
            patient: Wait for the lease of a coordinator that may be dead.

        Raises:
            StateError: Another one is at work.
            LeaseLostError: The same, for who did not want to wait.
            HybridMUError: The storage can't be worked on.
        """
        if self.driver is None:
            self._prepare()
            holder = self.holder()
            # Late: a command that asks or follows needs no coordinator, and pays for neither PyTorch nor Ray.
            if self._executor == "local":
                from hybridmu.runtime.coordinator.coordinator import Coordinator
                from hybridmu.runtime.workers.executor import LocalExecutor

                driver: Driver = Coordinator(self._settings, LocalExecutor(self._settings), holder)
            else:
                from hybridmu.cluster.driver import RayDriver

                driver = RayDriver(self._settings, holder)
            # A killed coordinator's lease runs out; a live one renews it for longer than we wait.
            patience = time.monotonic() + (leadership.LEASE_SECONDS + 1 if patient else 0)
            try:
                while not (acquired := driver.acquire()) and time.monotonic() < patience:
                    time.sleep(0.3)
            except HybridMUError:
                driver.close()
                raise
            if not acquired:
                driver.close()
                if not patient:
                    raise LeaseLostError("another coordinator took the lease first")
                raise StateError(
                    "another coordinator is running on this storage",
                    got=str(self._lease().holder()),
                    remedy="use `forget`, which follows that coordinator, or stop it first",
                )
            self.driver = driver
        return self.driver

    @staticmethod
    def holder() -> str:
        """Return a new name for a holder of the lease."""
        return f"{socket.gethostname()}/{os.getpid()}/{uuid.uuid4().hex[:6]}"

    def step(self, wait_seconds: float, patient: bool = True) -> Snapshot:
        """Make one step of the coordinator, becoming it first if need be.

        Args:
            wait_seconds: How long to wait for a job to end.
            patient: As in `acquire`.

        Returns:
            Where the coordinator stands.
        """
        driver = self.acquire(patient)
        try:
            return driver.step(wait_seconds)
        except Exception:
            # Broken off in the middle of a step, what it has in memory may be half-done. All of it can be lost: the
            # next one starts from what is durable.
            with contextlib.suppress(HybridMUError):  # a lease that can't be given back runs out
                self.close()
            raise

    def follow(self, watch: Watcher | None) -> None:
        """Let the running coordinator work for a moment, or make a step of our own.

        Args:
            watch: Called with a snapshot after a step made here.
        """
        if self.driver is None and self._lease().holder(leadership.LEASE_SECONDS) is not None:
            time.sleep(0.1)
            return
        try:
            snapshot = self.step(0.1, patient=False)
        except LeaseLostError:
            time.sleep(0.1)  # another coordinator took over: follow that one
            return
        if watch:
            watch(snapshot)

    @contextmanager
    def leased(self, remedy: str) -> Iterator[Callable[[], None]]:
        """Hold the coordinator's lease, and yield what renews it.

        Args:
            remedy: What to do where another coordinator holds it.

        Yields:
            To be called again and again.

        Raises:
            StateError: Another coordinator is at work.
        """
        self.close()  # a coordinator of our own has no job at work now
        token = self._lease().acquire(self.holder(), leadership.LEASE_SECONDS)
        if token is None:
            raise StateError(
                "another coordinator is running on this storage", got=str(self._lease().holder()), remedy=remedy
            )
        renewed = time.monotonic()

        def beat() -> None:
            nonlocal renewed
            if time.monotonic() - renewed > leadership.LEASE_SECONDS / 5:
                self._lease().heartbeat(token, leadership.LEASE_SECONDS)
                renewed = time.monotonic()

        try:
            yield beat
        finally:
            self._lease().release(token)
