"""Gradient descent slice after slice, with a checkpoint after each (SISA, arXiv 1912.03817).

The arithmetic is the kernel's; equal lineages mean equal bits on the same kind of machine.
"""

from __future__ import annotations

from hybridmu.core.kernel.model import SubModel, initial_model
from hybridmu.core.kernel.retraining import train_from
from hybridmu.core.learners.augmented_rows import augmented
from hybridmu.core.learners.learner import Fit, Fitted, Learner
from hybridmu.core.learners.target_scale import scaled
from hybridmu.core.learners.workload import count
from hybridmu.core.tasks.base import Task
from hybridmu.types import ShardStats, Workload


class SlicedSgd(Learner):
    """Training of a task's network on slices 1, 1..2, …, 1..R, for the epochs that each slice has."""

    name = "sliced_sgd"

    def initial(self, task: Task, *, features: int, classes: int, standardize: bool, seed: int, shard: int) -> SubModel:
        """Return the task's network, its weights drawn by (seed, shard)."""
        return initial_model(task, features=features, classes=classes, standardize=standardize, seed=seed, shard=shard)

    def fit(self, job: Fit) -> Fitted:
        """Return the state after training the slices behind the newest checkpoint, each of which is saved."""
        job = augmented(scaled(job))
        state, first, visits = train_from(
            job.model, job.rows, job.recipe, job.task, job.shard, job.checkpoint, job.save, job.across
        )
        return Fitted(state, first, visits)

    def workload(self, stats: ShardStats) -> Workload:
        """Return the exact count of sample visits."""
        return count(stats)
