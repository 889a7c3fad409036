"""Canaries of one system that can be measured now: their curves, and the shards that are ready; changes nothing."""

from __future__ import annotations

from collections.abc import Collection

from hybridmu.runtime.coordinator.canary_curves import CanaryCurves
from hybridmu.runtime.workers.context import Site
from hybridmu.store.ledger.ledger import Ledger
from hybridmu.store.ledger.measurements import Measurements
from hybridmu.store.ledger.registry import Registry
from hybridmu.types import CalibrationCell, SubModelRecord


class Canaries(CanaryCurves):
    """Looks at curves, tombstones and the served version.

    Args:
        site: Lake, blobs and policy.
        ledger: Tombstones.
        measurements: Curves.
        registry: The served version.
    """

    def __init__(self, site: Site, ledger: Ledger, measurements: Measurements, registry: Registry) -> None:
        super().__init__(site.settings, site.lake, ledger, measurements, registry)
        self.site = site

    def lacking(self, busy: Collection[int] = ()) -> tuple[tuple[int, CalibrationCell], ...]:
        """Return (shard, cell) pairs that are to be measured and can be now, most urgent first.

        Args:
            busy: Shards on which nothing may start.
        """
        ready = {sub.shard for sub in self.voters() if sub.shard not in busy and self._has_run(sub)}
        return self.unmeasured(self.curves(), ready)

    def _has_run(self, sub: SubModelRecord) -> bool:
        """Return whether a shard is exact, and every checkpoint of its run is there and would be made again."""
        there = (self.site.blobs.find(sub.shard, record.lineage_key) for record in sub.checkpoints)
        made = sub.exact and bool(sub.trajectory(self.slices(sub))) and self.site.made_alike(sub.shard, sub.head)
        return made and all(there)
