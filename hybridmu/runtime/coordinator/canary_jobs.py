"""Canaries of one system: what is known from them, and what is to be measured; changes nothing."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import replace

from hybridmu.core.calibration.fit import fit
from hybridmu.core.strategies import asks_exact
from hybridmu.kinds import AUTO
from hybridmu.planning import cost
from hybridmu.planning.calibration_worth import needless
from hybridmu.planning.canary_schedule import Candidate, grid, lacking, without
from hybridmu.runtime.coordinator.planner_policy import policy_of
from hybridmu.runtime.workers.context import Site
from hybridmu.store.ledger.ledger import Ledger
from hybridmu.store.ledger.measurements import Measurements
from hybridmu.store.ledger.registry import Registry
from hybridmu.types import Calibration, CalibrationCell, CalibrationCurve, SubModelRecord


class Canaries:
    """Looks at curves, tombstones and the served version.

    Args:
        site: Lake, blobs and policy.
        ledger: Tombstones.
        measurements: Curves.
        registry: The served version.
    """

    def __init__(self, site: Site, ledger: Ledger, measurements: Measurements, registry: Registry) -> None:
        self.site, self.ledger, self.measurements, self.registry = site, ledger, measurements, registry

    @property
    def wanted(self) -> bool:
        """Return whether this system is calibrated at all: an update may be used, and the policy says so."""
        policy = self.site.settings.policy
        return policy.calibrate and not asks_exact(policy.strategy)

    def curves(self) -> list[CalibrationCurve]:
        """Return what can be used: none of its canaries is revoked."""
        curves = self.measurements.curves()
        return without(curves, self.ledger.revoked({key for curve in curves for key in curve.keys}))

    def calibration(self) -> Calibration:
        """Return what is fitted, and which cells nothing is known of."""
        curves = self.curves()
        known = {curve.cell for curve in curves}
        waiting = dict.fromkeys(cell for _, cell in self._lacking(curves) if cell not in known)
        return replace(fit(curves), waiting=tuple(waiting), needless=self.needless())

    def needless(self) -> str:
        """Return why no canary needs to be deleted, where no update could ever be chosen; empty otherwise."""
        reasons = self._needless().values() if self.wanted else ()
        return next(iter(reasons)) or "" if reasons and all(reasons) else ""

    def lacking(self, busy: Collection[int] = ()) -> tuple[tuple[int, CalibrationCell], ...]:
        """Return (shard, cell) pairs that are to be measured and can be now, most urgent first.

        Args:
            busy: Shards on which nothing may start.
        """
        ready = {sub.shard for sub in self._voters() if sub.shard not in busy and self._has_run(sub)}
        return self._lacking(self.curves(), ready)

    def _lacking(
        self, curves: Iterable[CalibrationCurve], ready: Collection[int] | None = None
    ) -> tuple[tuple[int, CalibrationCell], ...]:
        if not self.wanted:
            return ()
        candidates = self._candidates(ready)
        policy = self.site.settings.policy
        if policy.quality_noises:  # what was measured without controls says too little
            curves = [curve for curve in curves if curve.controls]
        found = lacking(candidates, curves, policy.calibration_shares, policy.calibration_shards)
        idle = self._needless() if found else {}
        return tuple((shard, cell) for shard, cell in found if idle.get(cell) is None)

    def _candidates(self, ready: Collection[int] | None = None) -> list[Candidate]:
        rows = self.site.lake.manifest.rows["train"]
        return [
            Candidate(sub.shard, rows[sub.shard][: self._slices(sub)], ready is None or sub.shard in ready)
            for sub in self._voters()
        ]

    def _needless(self) -> dict[CalibrationCell, str | None]:
        """Return cell → why its canaries could change no decision; the largest shard's retrain is the dearest."""
        settings, candidates = self.site.settings, self._candidates()
        if not candidates:
            return {}
        largest = max(candidates, key=lambda candidate: candidate.rows)
        epochs = self.site.recipe_for(largest.shard).epochs
        if settings.policy.strategy != AUTO:  # every request is an update, whatever a retrain would take
            return {}
        fitted, policy = cost.fit(self.measurements.costs()), policy_of(settings)
        cells = grid(len(epochs), settings.policy.calibration_shares)
        return {cell: needless(largest.counts, epochs, cell, fitted, policy) for cell in cells}

    def _voters(self) -> list[SubModelRecord]:
        return [sub for sub in self.registry.version().shards if sub.blob is not None]

    def _has_run(self, sub: SubModelRecord) -> bool:
        """Return whether a shard is exact, and every checkpoint of its run is there and would be made again."""
        there = (self.site.blobs.find(sub.shard, record.lineage_key) for record in sub.checkpoints)
        made = sub.exact and bool(sub.trajectory(self._slices(sub))) and self.site.made_alike(sub.shard, sub.head)
        return made and all(there)

    def _slices(self, sub: SubModelRecord) -> int:
        return len(self.site.recipe_for(sub.shard).epochs)
