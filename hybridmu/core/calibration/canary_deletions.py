"""Canary deletions: remove some live rows exactly and by an update, and measure how far the two are apart.

A row is a canary of one cell at most, and people are not divided between cells, so that a revocation costs as little
as possible of what was measured. The model that serves is not changed.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch

from hybridmu.core import evaluation
from hybridmu.core.kernel.model import State, SubModel
from hybridmu.core.kernel.partition import Digests, epoch_order, order_words
from hybridmu.core.kernel.revoked_keys import carries
from hybridmu.core.kernel.rows import Rows
from hybridmu.core.kernel.training import Recipe
from hybridmu.core.strategies import Context, get
from hybridmu.core.tasks.base import Task
from hybridmu.core.tasks.classification import judgement_of
from hybridmu.errors import StrategyUnavailableError
from hybridmu.kinds import FALLBACK
from hybridmu.types import ALPHAS, CalibrationCell, CalibrationCurve, CanaryControls, KeySet


def pick(
    rows: Rows, cell: CalibrationCell, seed: int, shard: int, avoid: Collection[bytes] = ()
) -> npt.NDArray[np.bool_]:
    """Return a mask of canary rows, bool [n].

    Args:
        rows: Live rows of the shard.
        cell: Canaries come from slices ≥ its first one, and at least one lies in it; whose turn it is depends on the
            hash of the group, or of the id where there is none.
        seed: Decides which, with the shard and the cell.
        shard: Shard number.
        avoid: Digests of ids and groups that are taken last.

    Returns:
        The mask; all false when the slice is empty.
    """
    mask = np.zeros(len(rows), dtype=np.bool_)
    owners = _owners(rows)
    order = epoch_order(order_words(owners), seed, shard, -cell.first_slice, round(cell.share * 1e6))
    order = order[rows.slice[order] >= cell.first_slice]
    others = KeySet([*(("id", key) for key in avoid), *(("group", key) for key in avoid)])
    taken = carries(rows.ids, rows.groups, others)[order]
    order = np.concatenate([order[~taken], order[taken]])
    inside = order[rows.slice[order] == cell.first_slice]
    if len(inside):
        same = np.all(owners[order] == owners[inside[0]], axis=1)  # what else belongs to the first one comes next
        order = np.concatenate([inside[:1], order[same & (order != inside[0])], order[~same]])
        mask[order[: max(1, round(cell.share * len(rows)))]] = True
    return mask


def measure(
    context: Context,
    cell: CalibrationCell,
    strategies: Sequence[str],
    unseen: Rows,
    avoid: Collection[bytes] = (),
    controlled: bool = False,
) -> tuple[CalibrationCurve, ...]:
    """Delete one cell's canaries of a shard, exactly and by every update.

    Args:
        context: `live` holds all live rows, `checkpoint` answers for them (a finished exact run), `current` is its
            result.
        cell: What the canaries stand for.
        strategies: Updates to measure.
        unseen: Rows never trained on, whose accuracy is compared.
        avoid: Digests of ids and groups that are canaries of other cells.
        controlled: Also measure doing nothing, and a training from scratch in another order of the rows.

    Returns:
        One curve per update; none where the shard has no row for it, or no other.
    """
    mask = pick(context.live, cell, context.recipe.seed, context.shard, avoid)
    if not mask.any() or mask.all() or not strategies:
        return ()
    trial = replace(context, live=context.live.where(~mask), revoked=context.live.where(mask))
    oracle = _oracle(trial, cell.first_slice)
    target, accuracy = evaluation.losses(oracle, trial.revoked, trial.task), _metric(oracle, unseen, trial.task)
    columns = (trial.revoked.ids, trial.revoked.groups)
    keys = tuple(sorted({row.tobytes() for column in columns for row in column if row.any()}))
    controls = _controls(trial, target) if controlled else None
    curves = []
    for strategy in strategies:
        steps, gaps, deviations, changes = [], [], [], []
        try:
            for step, model in get(strategy).trials(trial):
                steps.append(step)
                each = evaluation.losses(model, trial.revoked, trial.task) - target
                gaps.append(float(each.mean()))
                deviations.append(_deviation(each))
                changes.append(_metric(model, unseen, trial.task) - accuracy)
        except StrategyUnavailableError:  # on this device; others may be available
            continue
        along = [tuple(np.interp(ALPHAS, steps, found).tolist()) for found in (gaps, deviations, changes)]
        curves.append(
            CalibrationCurve(
                strategy=strategy,
                shard=context.shard,
                cell=cell,
                slices=len(context.recipe.epochs),
                gaps=along[0],
                deviations=along[1],
                accuracy_changes=along[2],
                canaries=len(trial.revoked),
                keys=keys,
                controls=controls,
            )
        )
    return tuple(curves)


def _controls(trial: Context, target: npt.NDArray[np.float64]) -> CanaryControls:
    """Return what updates are held against; `target` holds the oracle's losses on the canaries."""
    model = trial.fresh_model()
    model.load_state_dict(trial.current or {})
    nothing = evaluation.losses(model, trial.revoked, trial.task) - target
    other = _oracle(replace(trial, recipe=other_order(trial.recipe)), 1)  # no slice as it was
    again = evaluation.losses(other, trial.revoked, trial.task) - target
    return CanaryControls(float(nothing.mean()), float(again.mean()), _deviation(again))


def other_order(recipe: Recipe) -> Recipe:
    """Return the recipe with another order of the rows; the initial weights are not its own and stay the same."""
    return replace(recipe, seed=recipe.seed + 1_000_003)


def _deviation(gaps: npt.NDArray[np.float64]) -> float:
    """Return the standard deviation of a single row's gap; of one row nothing but its own is known."""
    return float(gaps.std(ddof=1)) if len(gaps) > 1 else abs(float(gaps[0]))


def _owners(rows: Rows) -> Digests:
    """Return whom each row belongs to, uint8 [n, 16]: its group, or itself."""
    grouped = np.any(rows.groups, axis=1)
    return np.where(grouped[:, None], rows.groups, rows.ids)


def _oracle(trial: Context, first: int) -> SubModel:
    """Return what an exact retrain without the canaries, from slice `first` on, gives; nothing is saved."""

    def clean(slice_: int) -> State | None:
        return trial.checkpoint(slice_) if slice_ < first else None

    result = get(FALLBACK).run(replace(trial, checkpoint=clean, save=lambda *_: None))
    model = trial.fresh_model()
    model.load_state_dict(result.state)
    return model


@torch.no_grad()
def _metric(model: SubModel, rows: Rows, task: Task) -> float:
    model.eval()
    return judgement_of(task).metric(model(rows.x), rows.y) if len(rows) else 0.0
