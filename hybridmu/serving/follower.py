"""Follower of the serving pointer under a lease: the part that replicas and groups of sub-models share."""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod

from hybridmu.config import Settings
from hybridmu.runtime.workers.context import Site
from hybridmu.store.ledger.database import Database


class Follower(ABC):
    """A process that is on the ledger's list for as long as it renews its lease.

    Args:
        settings: The configuration.
        replica_id: Unique name of this process.
    """

    def __init__(self, settings: Settings, replica_id: str) -> None:
        self._database = Database.open(settings.database)
        settings = self._database.identity.complete(settings)
        self.settings, self.replica_id = settings, replica_id
        self.site = Site(settings)
        self._database.identity.bind(settings.identity(), create=False)
        self._database.journal(self.site.storage).check(whole=False)
        self.site.lake.compare_with(self._database.seals.known)
        self._registry, self._replicas = self._database.registry, self._database.replicas
        self._lease = settings.serving.lease_seconds
        self._renewed = time.monotonic()
        self._nudged = threading.Event()  # there is something to look at before the next poll

    @abstractmethod
    def refresh(self) -> int:
        """Renew the lease and follow the pointer; return the version that is ready."""

    @property
    def poll_seconds(self) -> float:
        """Return how long to wait before the next look."""
        return self.settings.serving.poll_seconds

    def follow(self, stop: threading.Event) -> None:
        """Refresh until stopped; a failing ledger is retried, and the lease runs out meanwhile."""
        while not stop.is_set():
            self._nudged.wait(self.poll_seconds)
            self._nudged.clear()
            if stop.is_set():
                return
            try:
                self.refresh()
            except Exception:
                continue  # whatever it was, an expired lease takes this process out of rotation

    @property
    def healthy(self) -> bool:
        """Return whether the lease is running."""
        return time.monotonic() - self._renewed < self._lease

    def close(self) -> None:
        """Take this process off the list."""
        self._replicas.unregister(self.replica_id)
