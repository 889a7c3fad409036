"""PRS: restore the checkpoint before the first touched slice and train the rest without the revoked rows.

Partial retraining as in arXiv 2412.14505, over SISA checkpoints (arXiv 1912.03817). Exact: the checkpoint is found
by the lineage of the *live* rows, so one that saw a revoked row can't be picked.
"""

from __future__ import annotations

from hybridmu.core.learners import Fit
from hybridmu.core.strategies.removal import Context, Extent, Removal, Result, Work


class Retrain(Removal):
    """Exact retraining from the last clean checkpoint on."""

    name = "retrain"
    exact = True
    place = "shard"
    rank = 100
    colour = "#20639b"

    def run(self, context: Context) -> Result:
        """Let the learner go on from the last clean checkpoint, saving every new one.

        Args:
            context: `checkpoint(i)` must answer by the lineage of `context.live`.

        Returns:
            The final state; bitwise what training from scratch on `context.live` gives.
        """
        job = Fit(
            context.fresh_model(),
            context.live,
            context.recipe,
            context.task,
            context.shard,
            context.checkpoint,
            context.save,
            context.across,
        )
        made = context.learner.fit(job)
        return Result(made.state, made.first_slice, made.visits)

    def work(self, extent: Extent) -> Work:
        """Return the visits of all slices from the first that is trained on; the worker has its rows in memory."""
        first, slices = extent.workload.first_trained, len(extent.stats.epochs)
        return Work(extent.workload.retrain_visits, slices - first + 1 + (first > 1), 0)
