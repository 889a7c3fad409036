"""Replica: follows the serving pointer, swaps versions without a gap, and stops answering when its lease is over.

It registers before it reads the pointer. It confirms a version only after every answer of an older one is finished,
so once a request reports SERVED no older version answers.
"""

from __future__ import annotations

import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from hybridmu.config import Settings
from hybridmu.errors import StateError
from hybridmu.runtime.coordinator.integrity import reporting
from hybridmu.runtime.workers.context import Site
from hybridmu.serving.ensemble import Ensemble
from hybridmu.serving.follower import Follower
from hybridmu.serving.quarantine import Quarantine, quarantine
from hybridmu.types import ModelVersion

_DRAIN_POLL_SECONDS = 0.002


class Replica(Follower):
    """One server process's view of the model.

    Args:
        settings: The configuration.
        replica_id: Unique name of this replica.
        swapped: Told of every swap: seconds it took, version that answers, sub-models that are withheld.
        load: Makes a version ready to answer, given the ensemble that answers now.
    """

    def __init__(
        self,
        settings: Settings,
        replica_id: str,
        swapped: Callable[[float, int, int], None] | None = None,
        load: Callable[[Site, ModelVersion, Ensemble | None], Ensemble] = Ensemble.load,
    ) -> None:
        super().__init__(settings, replica_id)
        self._load = load
        policy = settings.policy
        self._min_voters = policy.min_voters or math.ceil(settings.sisa.shards / 2)
        self._quarantined, self._swapped = Quarantine(), swapped
        self._lock = threading.Lock()  # guards the generation and its counts
        self._refreshing = threading.Lock()  # one refresh at a time
        self._generation = self._given_up = 0  # answers of generations before `_given_up` are not waited for any more
        self._active: Counter[int] = Counter()
        # The lease is counted from before it was written, so it ends here no later than in the ledger.
        self._renewed = time.monotonic()
        self._replicas.register(replica_id, 0, self._lease)
        with reporting(self.site, self._database):
            self.ensemble = load(self.site, self._registry.version(), None)
        self._tell(time.monotonic() - self._renewed)
        self.refresh()

    def refresh(self) -> int:
        """Return the version that answers now, after renewing the lease and, if the pointer moved, swapping.

        Only changed sub-models are read. Answers go on with the old version while the new one loads. Every reading
        of the pointer comes after a registration: a version published later waits for this replica, an earlier one
        is seen. Were the pointer read first, a lease that ran out in between would let a request be served behind
        this replica's back.

        Raises:
            StateError: The system was decommissioned.
        """
        with self._refreshing:
            while True:
                before = time.monotonic()
                self._replicas.register(self.replica_id, self.ensemble.version, self._lease, self._quarantined.upto)
                if self.healthy:  # there was no moment without a registration, so nothing newer is served yet
                    self._renewed = before
                pointer = self._registry.served()
                if pointer is None:  # decommissioned: nothing may answer any more
                    self._renewed = -math.inf
                    self._replicas.unregister(self.replica_id)
                    raise StateError("this system was decommissioned", remedy="stop its Serve application")
                if pointer <= self.ensemble.version:
                    self._renewed = before
                    if not self._withhold():
                        return self.ensemble.version
                    continue
                began = time.monotonic()
                with reporting(self.site, self._database):
                    fresh = self._load(self.site, self._registry.version(pointer), self.ensemble)
                self._swap(fresh, self._due(fresh), began)

    def _due(self, ensemble: Ensemble) -> Quarantine:
        """Return what the policy wants to be withheld from an ensemble now."""
        if not self.settings.policy.quarantine:
            return Quarantine()
        return quarantine(self._replicas.touched(), ensemble.removed, self._min_voters)

    def _withhold(self) -> bool:
        """Return whether there is something new to confirm, after withholding what open deletions touch."""
        due, confirmed = self._due(self.ensemble), self._quarantined.upto
        if due.withheld == self.ensemble.withheld:
            self._quarantined = due
        else:
            self._swap(self.ensemble, due, time.monotonic())
        return due.upto > confirmed

    def _swap(self, ensemble: Ensemble, due: Quarantine, began: float) -> None:
        """Answer with another ensemble or vote, and wait until nothing answers with the one before."""
        made = ensemble.withholding(due.withheld)  # of merged sub-models, another model is made: no answer waits for it
        with self._lock:
            self.ensemble = made
            self._generation += 1
        self._drain()
        self._quarantined = due
        self._tell(time.monotonic() - began)

    def _tell(self, seconds: float) -> None:
        if self._swapped:
            self._swapped(seconds, self.ensemble.version, len(self.ensemble.withheld))

    @contextmanager
    def answering(self) -> Iterator[None]:
        """Mark an answer as being made, from reading the ensemble to its last byte.

        Raises:
            StateError: The lease is over, or was while the answer was made: this replica may be behind, and the
                answer must not be given.
        """
        self._refuse_unless(self.healthy)
        with self._lock:
            generation = self._generation
            self._active[generation] += 1
        try:
            yield
        finally:
            with self._lock:
                self._active[generation] -= 1
                awaited = generation >= self._given_up
        self._refuse_unless(awaited and self.healthy)

    @staticmethod
    def _refuse_unless(current: bool) -> None:
        if not current:
            raise StateError("this replica lost touch with the ledger and may be behind", remedy="try again")

    def _drain(self) -> None:
        """Wait for answers that began before the swap, as long as the lease allows; later ones are not given."""
        until = time.monotonic() + self._lease
        while time.monotonic() < until:
            with self._lock:
                if not any(count for generation, count in self._active.items() if generation < self._generation):
                    return
            time.sleep(_DRAIN_POLL_SECONDS)
        with self._lock:
            self._given_up = self._generation
