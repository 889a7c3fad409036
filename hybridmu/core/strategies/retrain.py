"""PRS: restore the checkpoint before the first touched slice and train the rest without the revoked rows.

Partial retraining as in arXiv 2412.14505, over SISA checkpoints (arXiv 1912.03817). Exact: the checkpoint is found
by the lineage of the *live* rows, so one that saw a revoked row can't be picked.
"""

from __future__ import annotations

from hybridmu.core.model import fit_standardize, state_of
from hybridmu.core.strategies.base import Context, Result
from hybridmu.core.training import train_slice


def run(context: Context) -> Result:
    """Train from the last clean checkpoint on, saving every new one.

    Args:
        context: `checkpoint(i)` must answer by the lineage of `context.live`.

    Returns:
        The final state; bitwise what training from scratch on `context.live` gives.
    """
    slices = len(context.recipe.epochs)
    model = context.fresh_model()
    start = 0
    for slice_ in range(slices, 0, -1):
        state = context.checkpoint(slice_)
        if state is not None:
            model.load_state_dict(state)
            start = slice_
            break
    else:
        fit_standardize(model, context.live)
    visits = 0
    for slice_ in range(start + 1, slices + 1):
        across = context.across
        made = train_slice(model, context.live, slice_, context.recipe, context.task, context.shard, across)
        visits += made
        context.save(slice_, state_of(model), made)
    return Result(state_of(model), start + 1, visits)
