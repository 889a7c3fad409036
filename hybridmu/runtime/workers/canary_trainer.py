"""Canary deletions on one shard: what a `CalibrateJob` measures."""

from __future__ import annotations

import time
from dataclasses import replace

from hybridmu.core.calibration.canary_deletions import measure
from hybridmu.core.kernel.rows import Rows, concatenate
from hybridmu.core.strategies import calibrated, unavailable
from hybridmu.errors import DivergedError, StrategyUnavailableError
from hybridmu.runtime.workers.context import Site
from hybridmu.runtime.workers.live_rows import LiveRows
from hybridmu.types import CalibrateJob, CalibrationCurve

# Validation rows that are enough to compare accuracies during calibration.
_UNSEEN_ROWS = 2000


def calibrate(site: Site, rows: LiveRows, job: CalibrateJob) -> tuple[CalibrationCurve, ...]:
    """Delete canaries among a shard's live rows, by all updates; weights and checkpoints stay as they are.

    Args:
        site: The system.
        rows: Of the shard.
        job: Names the rows that must not be read, the cells, and other cells' canaries.

    Returns:
        What was measured.

    Raises:
        StrategyUnavailableError: The exact run on the very rows that are live has no checkpoints here.
    """
    shard, settings, recipe = job.shard, site.settings, site.recipe_for(job.shard, job.generations)
    live = rows.without(job.tombstones, job.generations)
    # By lineage, not by what the version names: rows may have been revoked since.
    trajectory = [site.blobs.find(shard, key) for key in rows.lineage(live, recipe).keys]
    if not all(trajectory):
        raise StrategyUnavailableError(
            f"shard {shard} has no complete run on its live rows", remedy="it is retrained exactly first"
        )
    context = site.strategy_context(
        shard,
        live.to(site.device),
        generations=job.generations,
        checkpoint=lambda slice_: site.blobs.get(trajectory[slice_ - 1] or ""),
        current=site.blobs.get(trajectory[-1] or ""),
        held_out=site.lake.rows("validation", shard, job.tombstones).to(site.device),
    )
    unseen, avoid = _unseen(site, job), set(job.avoid)
    unfit = site.unfit_updates()
    updates = [name for name in calibrated() if name not in unfit and not unavailable(name, recipe.optimizer)]
    controlled = settings.policy.quality_noises > 0
    curves: list[CalibrationCurve] = []
    for cell in job.cells:
        begun = time.perf_counter()
        try:
            found = measure(context, cell, updates, unseen, avoid, controlled)
        except DivergedError:  # on these rows; what is not measured is not known, and is retrained
            continue
        seconds = time.perf_counter() - begun
        curves += [replace(curve, seconds=seconds) for curve in found]
        avoid.update(key for curve in found[:1] for key in curve.keys)
    return tuple(curves)


def _unseen(site: Site, job: CalibrateJob) -> Rows:
    """Return validation rows of as many shards as fill the sample; they are never trained on."""
    parts: list[Rows] = []
    shards = site.settings.sisa.shards
    for shard in range(job.shard, job.shard + shards):
        if sum(map(len, parts)) < _UNSEEN_ROWS:
            parts.append(site.lake.rows("validation", shard % shards, job.tombstones))
    return concatenate(parts).to(site.device)
