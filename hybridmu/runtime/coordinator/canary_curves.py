"""Curves of canaries: what may be used of them, what is fitted to it, and which cells nothing is known of.

No model and no checkpoint is looked at: `canary_jobs.py` says what can be measured next.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import replace

from hybridmu.config import Settings
from hybridmu.core.calibration.fit import fit
from hybridmu.core.strategies import asks_exact
from hybridmu.kinds import AUTO
from hybridmu.planning import cost
from hybridmu.planning.calibration_worth import needless
from hybridmu.planning.canary_schedule import Candidate, grid, lacking, without
from hybridmu.runtime.coordinator.planner_policy import policy_of
from hybridmu.store.dataset.lake import Lake
from hybridmu.store.ledger.ledger import Ledger
from hybridmu.store.ledger.measurements import Measurements
from hybridmu.store.ledger.registry import Registry
from hybridmu.types import Calibration, CalibrationCell, CalibrationCurve, SubModelRecord


class CanaryCurves:
    """What is known from canaries.

    Args:
        settings: The policy.
        lake: Rows per shard and slice.
        ledger: Tombstones.
        measurements: Curves.
        registry: The served version.
    """

    def __init__(
        self, settings: Settings, lake: Lake, ledger: Ledger, measurements: Measurements, registry: Registry
    ) -> None:
        self._settings, self._lake = settings, lake
        self.ledger, self.measurements, self.registry = ledger, measurements, registry

    @property
    def wanted(self) -> bool:
        """Return whether this system is calibrated at all: an update may be used, and the policy says so."""
        policy = self._settings.policy
        return policy.calibrate and not asks_exact(policy.strategy)

    def curves(self) -> list[CalibrationCurve]:
        """Return what can be used: none of its canaries is revoked."""
        curves = self.measurements.curves()
        return without(curves, self.ledger.revoked({key for curve in curves for key in curve.keys}))

    def calibration(self) -> Calibration:
        """Return what is fitted, and which cells nothing is known of."""
        curves = self.curves()
        known = {curve.cell for curve in curves}
        waiting = dict.fromkeys(cell for _, cell in self.unmeasured(curves) if cell not in known)
        return replace(fit(curves), waiting=tuple(waiting), needless=self.needless())

    def needless(self) -> str:
        """Return why no canary needs to be deleted, where no update could ever be chosen; empty otherwise."""
        reasons = self._needless().values() if self.wanted else ()
        return next(iter(reasons)) or "" if reasons and all(reasons) else ""

    def unmeasured(
        self, curves: Iterable[CalibrationCurve], ready: Collection[int] | None = None
    ) -> tuple[tuple[int, CalibrationCell], ...]:
        """Return (shard, cell) pairs that are to be measured, most urgent first.

        Args:
            curves: What was measured.
            ready: Shards on which it can be done now; None: any.
        """
        if not self.wanted:
            return ()
        policy = self._settings.policy
        if policy.quality_noises:  # what was measured without controls says too little
            curves = [curve for curve in curves if curve.controls]
        found = lacking(self._candidates(ready), curves, policy.calibration_shares, policy.calibration_shards)
        idle = self._needless() if found else {}
        return tuple((shard, cell) for shard, cell in found if idle.get(cell) is None)

    def _candidates(self, ready: Collection[int] | None = None) -> list[Candidate]:
        rows = self._lake.manifest.rows["train"]
        return [
            Candidate(sub.shard, rows[sub.shard][: self.slices(sub)], ready is None or sub.shard in ready)
            for sub in self.voters()
        ]

    def _needless(self) -> dict[CalibrationCell, str | None]:
        """Return cell → why its canaries could change no decision; the largest shard's retrain is the dearest."""
        settings, candidates = self._settings, self._candidates()
        if not candidates or settings.policy.strategy != AUTO:  # then every request is an update
            return {}
        largest = max(candidates, key=lambda candidate: candidate.rows)
        epochs = self._lake.manifest.epochs_of(largest.shard)
        fitted, policy = cost.fit(self.measurements.costs()), policy_of(settings)
        cells = grid(len(epochs), settings.policy.calibration_shares)
        return {cell: needless(largest.counts, epochs, cell, fitted, policy) for cell in cells}

    def voters(self) -> list[SubModelRecord]:
        """Return the sub-models that vote in the served version."""
        return [sub for sub in self.registry.version().shards if sub.blob is not None]

    def slices(self, sub: SubModelRecord) -> int:
        """Return how many slices a sub-model's shard has."""
        return len(self._lake.manifest.epochs_of(sub.shard))
