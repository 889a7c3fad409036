"""Training of slices without a clean checkpoint (SISA, arXiv 1912.03817; partial retraining, arXiv 2412.14505)."""

from __future__ import annotations

from collections.abc import Callable

from hybridmu.core.kernel.model import State, SubModel, fit_standardize, state_of
from hybridmu.core.kernel.rows import Rows
from hybridmu.core.kernel.training import Across, Recipe, train_slice
from hybridmu.core.tasks.base import Task


def train_from(
    model: SubModel,
    rows: Rows,
    recipe: Recipe,
    task: Task,
    shard: int,
    checkpoint: Callable[[int], State | None],
    save: Callable[[int, State, int], None],
    across: Across | None = None,
) -> tuple[State, int, int]:
    """Train from the newest checkpoint on, saving every new one.

    Args:
        model: Untrained; changed in place.
        rows: Live rows of the shard.
        recipe: Hyper-parameters.
        task: Supplies the loss.
        shard: Shard number.
        checkpoint: Slice → its state by the lineage of `rows`; None when there is none.
        save: Called with (slice, state, visits) after every slice.
        across: As of `train_slice`.

    Returns:
        (final state, first slice that was trained, sample visits); the state is bitwise what training from scratch on
        `rows` gives.
    """
    slices = len(recipe.epochs)
    start = 0
    for slice_ in range(slices, 0, -1):
        state = checkpoint(slice_)
        if state is not None:
            model.load_state_dict(state)
            start = slice_
            break
    else:
        fit_standardize(model, rows)
    visits = 0
    for slice_ in range(start + 1, slices + 1):
        made = train_slice(model, rows, slice_, recipe, task, shard, across)
        visits += made
        save(slice_, state_of(model), made)
    return state_of(model), start + 1, visits
