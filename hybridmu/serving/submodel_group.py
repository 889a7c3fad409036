"""An ensemble too large for one process: groups of processes hold its sub-models, replicas ask them and count.

The replica decides which version answers, as it does with sub-models of its own, and names it in every question. Voters
load a new version beside the old one, and let the old one go once no replica answers with it. They are on the ledger's
list with the oldest version that they hold, so SERVED means of them that nothing older is left in their memory.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import torch

from hybridmu.config import Settings
from hybridmu.errors import CorruptBlobError, DataError, StateError, StorageError
from hybridmu.runtime.coordinator.integrity import reporting
from hybridmu.runtime.workers.context import Site
from hybridmu.serving.ensemble import Ensemble, removed_of, sample
from hybridmu.serving.follower import Follower
from hybridmu.types import ModelVersion
from hybridmu.user_code import kind

Array = npt.NDArray[np.float32]
# Shards, and what their sub-models say: float32 [shards, n, width]. None: that version is not to be had.
Votes = tuple[tuple[int, ...], Array]
# (version, x) → votes of every group.
Ask = Callable[[int, Array], Sequence[Votes | None]]

# How often to look whether the version before can go, while there is one.
_LETTING_GO_SECONDS = 0.05


class BehindError(StateError):
    """The replica asked for a version that its voters no longer have."""


def members(group: int, groups: int, shards: int) -> range:
    """Return the shards whose sub-models a group holds.

    Example:
        >>> [list(members(group, 3, 8)) for group in range(3)]
        [[0, 3, 6], [1, 4, 7], [2, 5]]
    """
    return range(group, shards, groups)


def spread(site: Site, version: ModelVersion, _: Ensemble | None, ask: Ask) -> Ensemble:
    """Return a version whose sub-models are with voters, once all of them have it.

    Args:
        site: Where the schema is.
        version: Which one.
        ask: Asks every group at once.

    Raises:
        BehindError: A group does not have the version.
    """
    models = {sub.shard: (sub.blob, None) for sub in version.shards if sub.blob is not None}
    number = version.version

    def forward(x: torch.Tensor) -> torch.Tensor:
        said: dict[int, Array] = {}
        for votes in ask(number, x.numpy()):
            if votes is None:
                raise BehindError(f"version {number} is gone from a group of voters", remedy="ask again")
            said.update(zip(*votes, strict=True))
        return torch.from_numpy(np.stack([said[shard] for shard in models]))

    encoder, how = site.lake.manifest.encoder, site.settings.serving.aggregation
    source, whole = site.lake.features, site.feature_types.whole()
    started = time.perf_counter()
    if models:
        forward(sample(source.width(encoder)))
    elsewhere = forward, time.perf_counter() - started
    removed, derivation, encoding = removed_of(version), site.lake.derivation, lambda: site.lake.encoding
    judgement = site.judgement
    return Ensemble(number, models, encoder, how, removed, elsewhere, whole, source, judgement, derivation, encoding)


class SubModelGroup(Follower):
    """One process of a group.

    Args:
        settings: The configuration.
        group: Which one, from 0.
        replica_id: Unique name of this process.
    """

    def __init__(self, settings: Settings, group: int, replica_id: str) -> None:
        super().__init__(settings, replica_id)
        self.shards = members(group, self.settings.serving.groups, self.settings.sisa.shards)
        self.held: dict[int, Ensemble] = {}
        self._loading = threading.RLock()
        self.refresh()

    def refresh(self) -> int:
        """Return the newest version, after renewing the lease, loading what the pointer names, and letting older go.

        Raises:
            StateError: The system was decommissioned.
        """
        with self._loading:
            before = time.monotonic()
            self._register()
            pointer = self._registry.served()
            if pointer is None:
                self.held, self._renewed = {}, -math.inf
                self._replicas.unregister(self.replica_id)
                raise StateError("this system was decommissioned", remedy="stop its Serve application")
            with reporting(self.site, self._database):
                self._load(pointer)
            # A replica that starts is on the list as of version 0, so what it may ask for stays.
            oldest = self._replicas.answering()
            keep = pointer if oldest is None else min(pointer, oldest)
            if any(version < keep for version in self.held):
                self.held = {version: held for version, held in self.held.items() if version >= keep}
                self._register()
            self._renewed = before
            return pointer

    @property
    def poll_seconds(self) -> float:
        """Return how long to wait before the next look: shortly while an older version waits to go."""
        several = len(self.held) > 1
        return min(_LETTING_GO_SECONDS, super().poll_seconds) if several else super().poll_seconds

    def logits(self, version: int, x: Array) -> Votes | None:
        """Return what the sub-models of this group say, or None where the version is not to be had any more.

        Args:
            version: Which one; loaded if it must be.
            x: float32 [n, features].

        Raises:
            DataError: A sub-model can't answer these rows.
            StateError: The lease is over.
        """
        if not self.healthy:
            raise StateError("these voters lost touch with the ledger", remedy="try again")
        try:
            held = self.held.get(version) or self._load(version)
        except (CorruptBlobError, StateError, StorageError):
            return None  # it was replaced, and its weights may be purged
        shards = tuple(held.models)
        none = np.zeros((0, len(x), self.site.width), dtype=np.float32)
        try:
            # What came through Ray can't be written to, which torch warns of.
            return shards, held.logits(np.array(x)).numpy() if shards else none
        except DataError:
            raise
        except Exception as error:  # of the user's model
            raise DataError("a sub-model can't answer these rows", got=kind(error)) from error

    def _load(self, version: int) -> Ensemble:
        with self._loading:
            if version not in self.held:
                nearest = self.held[max(self.held)] if self.held else None
                made = Ensemble.load(self.site, self._registry.version(version), nearest, self.shards)
                if version < min(self.held, default=version):  # SERVED must know before anybody has an answer of it
                    self._register(version)
                self.held = {**self.held, version: made}
                self._nudged.set()
            return self.held[version]

    def _register(self, oldest: int | None = None) -> None:
        held = min(self.held, default=0) if oldest is None else oldest
        self._replicas.register(self.replica_id, held, self._lease, role="votes")
