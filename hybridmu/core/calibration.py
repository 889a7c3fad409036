"""Fitting α by canary deletions: delete some rows exactly, and see which step of the update comes nearest.

Each calibrating shard deletes canaries for every (first touched slice, share of rows) and measures the forget-loss gap
of the update along a grid of steps (`measure`). The curves of several shards are then merged (`fit`): α is where the
mean gap crosses zero, and the error is the spread of the shards' gaps there. Canaries are live rows; the model that
serves is not changed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import torch

from hybridmu.core import audit
from hybridmu.core.model import State, SubModel
from hybridmu.core.partition import epoch_order
from hybridmu.core.rows import Rows
from hybridmu.core.strategies import dpus, newton, retrain
from hybridmu.core.strategies.base import Context
from hybridmu.types import Calibration, CalibrationBucket, CalibrationCurve, StrategyName

# Steps that are tried. 0 is not among them: an update that does nothing is never offered as unlearning.
ALPHAS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.65, 0.8, 1.0)


def pick_canaries(rows: Rows, first_slice: int, share: float, seed: int, shard: int) -> npt.NDArray[np.bool_]:
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


def measure(
    context: Context, strategies: Sequence[StrategyName], shares: Sequence[float], unseen: Rows
) -> tuple[CalibrationCurve, ...]:
    """Measure one shard.

    Args:
        context: `live` holds all live rows, `checkpoint` answers for them (a finished exact run), `current` is its
            result.
        strategies: Updates to calibrate.
        shares: Canary shares.
        unseen: Rows never trained on, whose accuracy is compared.

    Returns:
        One curve per strategy, first slice (1 and the middle) and share.
    """
    slices = len(context.recipe.epochs)
    curves: list[CalibrationCurve] = []
    for first in sorted({1, (slices + 2) // 2}):
        for share in shares:
            mask = pick_canaries(context.live, first, share, context.recipe.seed, context.shard)
            if not mask.any() or mask.all():
                continue
            trial = replace(context, live=context.live.where(~mask), revoked=context.live.where(mask))
            oracle = _oracle(trial, first)
            curves += [_curve(trial, oracle, strategy, first, share, unseen) for strategy in strategies]
    return tuple(curves)


def fit(curves: Sequence[CalibrationCurve]) -> Calibration:
    """Merge the curves of several shards.

    Args:
        curves: Of any shards.

    Returns:
        One bucket per (strategy, first slice, share): α where the mean gap, weighted by canaries, crosses zero (the
        step of the smallest mean gap if it does not); error: root mean square of the shards' gaps there, plus what
        accuracy is lost.
    """
    grouped: dict[tuple[StrategyName, int, float], list[CalibrationCurve]] = {}
    for curve in curves:
        grouped.setdefault((curve.strategy, curve.first_slice, curve.share), []).append(curve)
    buckets = []
    for (strategy, first, share), group in sorted(grouped.items()):
        weights = [curve.canaries for curve in group]
        # The damped update takes its step from the curvature: only its error is learned.
        mean = np.average([curve.gaps for curve in group], axis=0, weights=weights)
        alpha = 1.0 if strategy == "dpus-newton" else _zero(mean)
        gaps = [float(np.interp(alpha, ALPHAS, curve.gaps)) for curve in group]
        change = float(np.mean([np.interp(alpha, ALPHAS, curve.accuracy_changes) for curve in group]))
        error = float(np.sqrt(np.mean(np.square(gaps)))) + max(0.0, -change)
        keys = tuple(sorted({key for curve in group for key in curve.keys}))
        buckets.append(CalibrationBucket(strategy, first, share, alpha, error, change, sum(weights), keys))
    return Calibration(tuple(buckets))


def lookup(calibration: Calibration, strategy: str, first_slice: int, share: float) -> CalibrationBucket | None:
    """Return the bucket nearest to a deletion: by first slice, then by the logarithm of the share."""
    known = [bucket for bucket in calibration.buckets if bucket.strategy == strategy]
    if not known:
        return None
    near = min(abs(bucket.first_slice - first_slice) for bucket in known)
    same = [bucket for bucket in known if abs(bucket.first_slice - first_slice) == near]
    return min(same, key=lambda bucket: abs(math.log(bucket.share / max(share, 1e-9))))


def _zero(gaps: npt.NDArray[np.float64]) -> float:
    for (low, a), (high, b) in pairwise(zip(ALPHAS, gaps, strict=True)):
        if a <= 0 < b:
            return float(low + (high - low) * -a / (b - a))
    return ALPHAS[int(np.argmin(np.abs(gaps)))]


def _oracle(trial: Context, first: int) -> SubModel:
    """Return what an exact retrain without the canaries gives; nothing is saved."""

    def clean(slice_: int) -> State | None:
        return trial.checkpoint(slice_) if slice_ < first else None

    result = retrain.run(replace(trial, checkpoint=clean, save=lambda *_: None))
    model = trial.fresh_model()
    model.load_state_dict(result.state)
    return model


def _curve(
    trial: Context, oracle: SubModel, strategy: StrategyName, first: int, share: float, unseen: Rows
) -> CalibrationCurve:
    target = audit.mean_loss(oracle, trial.revoked, trial.task)
    accuracy = _accuracy(oracle, unseen)
    gaps, accuracies = [], []
    for model in _updated(trial, strategy):
        gaps.append(audit.mean_loss(model, trial.revoked, trial.task) - target)
        accuracies.append(_accuracy(model, unseen) - accuracy)
    if strategy == "dpus-newton":
        gaps, accuracies = gaps * len(ALPHAS), accuracies * len(ALPHAS)
    carriers = {row.tobytes() for column in (trial.revoked.ids, trial.revoked.groups) for row in column if row.any()}
    keys = tuple(sorted(carriers))
    return CalibrationCurve(strategy, first, share, tuple(gaps), tuple(accuracies), len(trial.revoked), keys)


def _updated(trial: Context, strategy: StrategyName) -> Iterator[SubModel]:
    """Yield what the update gives, per step that is tried."""
    if strategy == "dpus-newton":
        model = trial.fresh_model()
        model.load_state_dict(newton.run(trial).state)
        yield model
        return
    change, _, _ = dpus.contribution(trial)
    for alpha in ALPHAS:
        model = trial.fresh_model()
        model.load_state_dict(dpus.subtract(trial.current or {}, change, alpha))
        if strategy == "dpus-optimised":
            dpus.fine_tune(model, trial)
        yield model


@torch.no_grad()
def _accuracy(model: SubModel, rows: Rows) -> float:
    model.eval()
    return float((model(rows.x).argmax(dim=1) == rows.y).float().mean()) if len(rows) else 0.0
