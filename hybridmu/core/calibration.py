"""Fitting α by canary deletions: delete some rows exactly, and see which step of the update comes nearest.

One α per (first touched slice, share of rows). Canaries are live rows; they are trained on as before.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from hybridmu.core import audit
from hybridmu.core.model import State, SubModel
from hybridmu.core.partition import epoch_order
from hybridmu.core.rows import Rows
from hybridmu.core.strategies import dpus, retrain
from hybridmu.core.strategies.base import Context
from hybridmu.types import Calibration, CalibrationBucket, StrategyName

# Steps that are tried; 1.0 overshoots on every task measured so far but stays as a control.
ALPHAS = (0.0, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0)


def pick_canaries(rows: Rows, first_slice: int, share: float, seed: int, shard: int) -> np.ndarray:
    """Return a mask of canary rows, bool [n].

    Args:
        rows: Live rows of the shard.
        first_slice: Canaries come from slices ≥ this; at least one lies in it.
        share: Canaries over rows of the shard.
        seed: Decides which, with the shard.
        shard: Shard number.

    Returns:
        The mask; all false when the slice is empty.
    """
    mask = np.zeros(len(rows), dtype=np.bool_)
    order = epoch_order(rows.words, seed, shard, -first_slice, round(share * 1e6))
    candidates = order[rows.slice[order] >= first_slice]
    inside = candidates[rows.slice[candidates] == first_slice]
    if len(inside):
        mask[inside[:1]] = True
        mask[candidates[candidates != inside[0]][: max(0, round(share * len(rows)) - 1)]] = True
    return mask


def calibrate(context: Context, strategies: Sequence[StrategyName], shares: Sequence[float]) -> Calibration:
    """Fit α on one shard.

    Args:
        context: `live` holds all live rows, `checkpoint` answers for them (a finished exact run), `current` is its
            result; `held_out` gives the accuracy that is compared (live rows stand in when it is empty).
        strategies: Updates to calibrate.
        shares: Canary shares.

    Returns:
        One bucket per strategy, first slice (1 and the middle) and share, with |gap| at the chosen step.
    """
    slices = len(context.recipe.epochs)
    buckets: list[CalibrationBucket] = []
    canaries: set[bytes] = set()
    for first in sorted({1, (slices + 2) // 2}):
        for share in shares:
            mask = pick_canaries(context.live, first, share, context.recipe.seed, context.shard)
            if not mask.any() or mask.all():
                continue
            canaries |= {row.tobytes() for row in context.live.ids[mask]}
            trial = replace(context, live=context.live.where(~mask), revoked=context.live.where(mask))
            oracle = _oracle(trial, first)
            share_reached = float(mask.mean())
            buckets += [_fit(trial, oracle, strategy, first, share_reached) for strategy in strategies]
    return Calibration(tuple(buckets), tuple(sorted(canaries)))


def lookup(calibration: Calibration, strategy: str, first_slice: int, share: float) -> CalibrationBucket | None:
    """Return the bucket nearest to a deletion: by first slice, then by the logarithm of the share."""
    known = [bucket for bucket in calibration.buckets if bucket.strategy == strategy]
    if not known:
        return None
    near = min(abs(bucket.first_slice - first_slice) for bucket in known)
    same = [bucket for bucket in known if abs(bucket.first_slice - first_slice) == near]
    return min(same, key=lambda bucket: abs(math.log(bucket.share / max(share, 1e-9))))


def _oracle(trial: Context, first: int) -> SubModel:
    """Return what an exact retrain without the canaries gives; nothing is saved."""

    def clean(slice_: int) -> State | None:
        return trial.checkpoint(slice_) if slice_ < first else None

    result = retrain.run(replace(trial, checkpoint=clean, save=lambda *_: None))
    model = trial.fresh_model()
    model.load_state_dict(result.state)
    return model


def _fit(trial: Context, oracle: SubModel, strategy: StrategyName, first: int, share: float) -> CalibrationBucket:
    held_out = trial.held_out if trial.held_out is not None and len(trial.held_out) else trial.live
    target = audit.mean_loss(oracle, trial.revoked, trial.task)
    accuracy = _accuracy(oracle, held_out)
    change, _, _ = dpus.contribution(trial)
    tried: list[CalibrationBucket] = []
    for alpha in ALPHAS:
        model = trial.fresh_model()
        model.load_state_dict(dpus.subtract(trial.current or {}, change, alpha))
        if strategy == "dpus-optimised":
            dpus.fine_tune(model, trial)
        gap = audit.mean_loss(model, trial.revoked, trial.task) - target
        tried.append(CalibrationBucket(strategy, first, share, alpha, abs(gap), _accuracy(model, held_out) - accuracy))
    # A lost accuracy point weighs as much as 0.01 of forget loss; gains do not count.
    return min(tried, key=lambda bucket: bucket.error + max(0.0, -bucket.accuracy_change))


@torch.no_grad()
def _accuracy(model: SubModel, rows: Rows) -> float:
    model.eval()
    return float((model(rows.x).argmax(dim=1) == rows.y).float().mean()) if len(rows) else float("nan")
