"""Measuring forgetting, two-sided, against an oracle trained without the rows."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from hybridmu.core.evaluation import F64, mean_loss
from hybridmu.core.kernel.model import SubModel
from hybridmu.core.kernel.partition import epoch_order
from hybridmu.core.kernel.rows import Rows
from hybridmu.core.kernel.training import Recipe, batch_bounds, fit
from hybridmu.core.tasks.base import Task

# KLoM as published (arXiv 2410.23232): histograms of 20 bins over margins clipped to ±100, smoothed by 1e-5.
_BINS, _CLIP, _SMOOTH = 20, 100.0, 1e-5
# Spread that a Gaussian of a likelihood-ratio attack has at least, or a few equal models would give infinite scores.
_LEAST_DEVIATION = 1e-3


@dataclass(frozen=True)
class Attack:
    """How well an attacker tells unlearned models from oracles; blind guessing gives 0.5, 0.001 and 0.01.

    Attributes:
        auc: Area under the ROC curve.
        tpr_at_tenth: True-positive rate at 0.1 % false positives.
        tpr_at_one: True-positive rate at 1 % false positives.
    """

    auc: float
    tpr_at_tenth: float
    tpr_at_one: float


def differing_tensors(ours: Mapping[str, Tensor] | None, oracle: Mapping[str, Tensor] | None) -> tuple[str, ...]:
    """Return the names of parameters and buffers that are not bitwise equal; empty means exact.

    Shape, dtype and every byte count: −0.0 differs from 0.0, and a NaN equals the same NaN.

    Args:
        ours: State of a sub-model, or None when its shard is empty.
        oracle: State of the from-scratch run, or None.

    Returns:
        Sorted names; a name missing on one side is included.
    """
    ours, oracle = ours or {}, oracle or {}
    return tuple(sorted(name for name in {*ours, *oracle} if not _same_bits(ours.get(name), oracle.get(name))))


def _same_bits(a: Tensor | None, b: Tensor | None) -> bool:
    if a is None or b is None or a.dtype != b.dtype or a.shape != b.shape:
        return False
    return a.contiguous().numpy().tobytes() == b.contiguous().numpy().tobytes()


def forget_loss_gap(ours: SubModel, oracle: SubModel, revoked: Rows, task: Task) -> float:
    """Return the mean loss on the revoked rows minus the oracle's.

    Zero is ideal; negative: still remembered; positive: over-forgotten. NaN when nothing was revoked.
    """
    return mean_loss(ours, revoked, task) - mean_loss(oracle, revoked, task)


def attack_auc(member_losses: F64, other_losses: F64) -> float:
    """Return the AUC of a loss-threshold membership attack (Yeom et al. 2018).

    A sanity figure: 0.5 means that revoked rows look like rows never seen.

    Args:
        member_losses: Losses of the rows that were members, [n].
        other_losses: Losses of rows never trained on, [m].

    Returns:
        Probability that a member's loss is below another row's, ties counted half; NaN if either is empty.

    Example:
        >>> attack_auc(np.array([0.1, 0.2]), np.array([0.3, 0.4]))
        1.0
    """
    if len(member_losses) == 0 or len(other_losses) == 0:
        return float("nan")
    ordered = np.sort(member_losses)
    above = np.searchsorted(ordered, other_losses, side="left") + np.searchsorted(ordered, other_losses, side="right")
    return float(above.mean() / (2 * len(ordered)))


def klom(ours: F64, oracles: F64) -> F64:
    """Return KLoM per row: how far the margins of many unlearned models are from those of many oracles.

    KL(oracles ‖ ours) between histograms over the range that both samples span (arXiv 2410.23232). With few models it
    is above 0 even between two samples of oracles: report that floor, and "do nothing" as the ceiling.

    Args:
        ours: Margins, float64 [N, n], one line per unlearned model.
        oracles: Margins, float64 [M, n], of models trained without the rows.

    Returns:
        float64 [n], each ≥ 0.

    Raises:
        ValueError: No model on one side, or another number of rows.
    """
    if not len(ours) or not len(oracles) or ours.shape[1:] != oracles.shape[1:]:
        raise ValueError(f"KLoM needs models on both sides over the same rows, got {ours.shape} and {oracles.shape}")
    ours, oracles = np.clip(ours, -_CLIP, _CLIP), np.clip(oracles, -_CLIP, _CLIP)
    low = np.minimum(ours.min(axis=0), oracles.min(axis=0))
    width = np.maximum(np.maximum(ours.max(axis=0), oracles.max(axis=0)) - low, 1e-12)

    def histogram(values: F64) -> F64:
        bins = np.minimum(((values - low) / width * _BINS).astype(np.int64), _BINS - 1)
        counts = np.stack([(bins == number).sum(axis=0) for number in range(_BINS)])
        smooth = counts / len(values) + _SMOOTH
        return np.asarray(smooth / smooth.sum(axis=0))

    p, q = histogram(oracles), histogram(ours)
    return np.asarray((p * np.log(p / q)).sum(axis=0))


def u_lira(ours: F64, oracles: F64) -> Attack:
    """Attack unlearned models with a likelihood ratio per row (U-LiRA, Hayes et al., arXiv 2403.01218).

    Args:
        ours: Margins of N unlearned models on revoked rows, float64 [N, n].
        oracles: Margins of N oracles on the same rows, float64 [N, n].

    Returns:
        Rates over all rows and models together.
    """
    return attack_of(*u_lira_scores(ours, oracles))


def u_lira_scores(ours: F64, oracles: F64) -> tuple[F64, F64]:
    """Score models as U-LiRA does: how much likelier a row's margin is under unlearned models than under oracles.

    For every row two Gaussians are fitted to the margins of all models but one pair, one on either side; the pair left
    out is scored by log p(unlearned) − log p(oracle), so that no model vouches for itself. With few models the mean of
    the others lies on the far side of the one left out, so equal distributions score a little below 0.5: compare with
    what a second set of oracles gets, not with 0.5.

    Args:
        ours: Margins of N unlearned models on revoked rows, float64 [N, n].
        oracles: Margins of N oracles on the same rows, float64 [N, n].

    Returns:
        (scores of the unlearned models, of the oracles), float64 [N, n] each; higher is surer that it was unlearned.

    Raises:
        ValueError: Different shapes, fewer than three models, or no row.
    """
    if ours.shape != oracles.shape or ours.ndim != 2 or len(ours) < 3 or not ours.size:
        raise ValueError(f"U-LiRA needs at least three models on both sides, got {ours.shape} and {oracles.shape}")

    def scores(values: F64) -> F64:
        return _log_density(values, *_left_out(ours)) - _log_density(values, *_left_out(oracles))

    return scores(ours), scores(oracles)


def attack_of(positives: F64, negatives: F64) -> Attack:
    """Return the rates of an attack from its scores, any shape; the higher, the surer that a model is no oracle."""
    ours, others = positives.ravel(), negatives.ravel()
    return Attack(attack_auc(-ours, -others), tpr_at(ours, others, 0.001), tpr_at(ours, others, 0.01))


def roc(positives: F64, negatives: F64) -> tuple[F64, F64]:
    """Return the ROC curve of an attack from its scores.

    Args:
        positives: Scores of what is to be found, any shape.
        negatives: Scores of the others.

    Returns:
        (false-positive rates, true-positive rates), not decreasing, from (0, 0) to (1, 1), one point per threshold.

    Example:
        >>> [rates.tolist() for rates in roc(np.array([0.2, 0.9]), np.array([0.1, 0.3]))]
        [[0.0, 0.0, 0.5, 0.5, 1.0], [0.0, 0.5, 0.5, 1.0, 1.0]]
    """
    ours, others = np.sort(positives.ravel()), np.sort(negatives.ravel())
    thresholds = np.unique(np.concatenate([ours, others]))[::-1]

    def above(values: F64) -> F64:
        counts = len(values) - np.searchsorted(values, thresholds, side="left")
        return np.concatenate([[0.0], counts / len(values)])

    return above(others), above(ours)


def tpr_at(positives: F64, negatives: F64, fpr: float) -> float:
    """Return the share of positives above the lowest threshold that at most `fpr` of the negatives exceed.

    Args:
        positives: Scores, higher is surer, [n].
        negatives: Scores, [m].
        fpr: False positives allowed, as a share.

    Returns:
        A share; NaN if either is empty.

    Example:
        >>> tpr_at(np.array([0.2, 0.9]), np.array([0.1, 0.3]), 0.0)
        0.5
    """
    if not len(positives) or not len(negatives):
        return math.nan
    ordered = np.sort(negatives)[::-1]
    allowed = min(int(fpr * len(ordered)), len(ordered) - 1)
    return float((positives > ordered[allowed]).mean())


def tow(forget: tuple[float, float], retain: tuple[float, float], test: tuple[float, float]) -> float:
    """Return the tug-of-war score: Π (1 − |accuracy − oracle's|) over revoked, retained and test rows; 1 is ideal.

    Args:
        forget: (accuracy, oracle's accuracy) on the revoked rows, in [0, 1].
        retain: On retained rows.
        test: On rows never trained on.

    Returns:
        In [0, 1]; NaN when one of them is. 0 where a skill is more than 1 away from the oracle's.

    Example:
        >>> tow((0.5, 1.0), (1.0, 1.0), (0.9, 0.9))
        0.5
    """
    return math.prod(max(1 - abs(ours - oracle), 0.0) for ours, oracle in (forget, retain, test))


def relearn_epochs(model: SubModel, revoked: Rows, target: float, recipe: Recipe, task: Task, budget: int) -> int:
    """Return how many epochs on the revoked rows alone bring their mean loss down to `target`.

    A model that still knows the rows learns them again faster than an oracle does: compare the two numbers.

    Args:
        model: Trained in place: pass a copy.
        revoked: The rows.
        target: For instance the loss that the model had before the rows were revoked.
        recipe: Batch size, seed and rate, which stays constant here; plain SGD.
        task: Supplies the loss.
        budget: Most epochs.

    Returns:
        0 when the loss is there already; `budget` + 1 when it is not reached.
    """
    plain = Recipe(recipe.epochs, recipe.batch_size, recipe.seed, lr=recipe.lr, schedule="constant")
    bounds = batch_bounds(len(revoked), recipe.batch_size)
    for epoch in range(budget + 1):
        if mean_loss(model, revoked, task) <= target:
            return epoch
        if epoch < budget:
            fit(model, revoked, [epoch_order(revoked.words, recipe.seed, 0, 0, epoch)], bounds, plain, task)
    return budget + 1


def _left_out(values: F64) -> tuple[F64, F64]:
    """Return (mean, deviation) [N, n] over all lines but each one."""
    others = len(values) - 1
    mean = (values.sum(axis=0) - values) / others
    square = ((values**2).sum(axis=0) - values**2) / others
    return mean, np.maximum(np.sqrt(np.maximum(square - mean**2, 0.0)), _LEAST_DEVIATION)


def _log_density(values: F64, mean: F64, deviation: F64) -> F64:
    return np.asarray(-0.5 * ((values - mean) / deviation) ** 2 - np.log(deviation))
