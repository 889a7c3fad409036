"""CPUs held on a node while a job runs there, as placement groups, which other work on the cluster respects."""

from __future__ import annotations

import hashlib
import time
import uuid
from typing import Any

from ray.util import placement_group_table
from ray.util.placement_group import PlacementGroup, PlacementGroupID, placement_group, remove_placement_group

from hybridmu.config import Settings

# Reservations outlive a job by this much: Ray takes a second to grant one right after another was given back.
_LINGER_SECONDS = 2.0


class Reservations:
    """Placement groups of one shard's CPUs; used ones are kept for a moment.

    Args:
        settings: How many CPUs, and which ledger they are for.
        purpose: Names those that a coordinator of the same ledger leaves alone; empty for the coordinator itself.
    """

    def __init__(self, settings: Settings, purpose: str = "") -> None:
        self._cpus = settings.cluster.cpus_per_shard
        ledger = hashlib.blake2b(settings.database.encode(), digest_size=8).hexdigest()
        self._prefix = f"hybridmu-{purpose or ledger}-"
        self._idle: dict[str, list[tuple[PlacementGroup, float]]] = {}

    def take(self, node: str) -> tuple[PlacementGroup, Any]:
        """Return a reservation on a node, and a reference that is ready when it is granted; None: it is already."""
        if idle := self._idle.get(node):
            return idle.pop()[0], None
        asked = placement_group(
            [{"CPU": self._cpus}],
            bundle_label_selector=[{"ray.io/node-id": node}],
            name=f"{self._prefix}{uuid.uuid4().hex}",
        )
        return asked, asked.ready()

    def give(self, node: str, group: PlacementGroup, *, granted: bool) -> None:
        """Take a reservation back; the next job on that node gets it, or it is freed soon. One never granted is."""
        if granted:
            self._idle.setdefault(node, []).append((group, time.monotonic()))
        else:
            remove_placement_group(group)

    def free_unused(self, linger_seconds: float = _LINGER_SECONDS) -> None:
        """Free the CPUs that no job used for a while."""
        older_than = time.monotonic() - linger_seconds
        for node, groups in self._idle.items():
            for group, since in groups:
                if since <= older_than:
                    remove_placement_group(group)
            self._idle[node] = [(group, since) for group, since in groups if since > older_than]

    def reclaim(self) -> None:
        """Free what an earlier coordinator of this ledger left; call only while holding the lease.

        A placement group made by an actor outlives it until the whole Ray job ends.
        """
        for name, entry in placement_group_table().items():
            if entry["name"].startswith(self._prefix) and entry["state"] != "REMOVED":
                remove_placement_group(PlacementGroup(PlacementGroupID(bytes.fromhex(name))))
