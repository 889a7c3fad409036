"""Counting of integer sums: for models that are functions of sums over rows (`core/closed_form/`).

A sub-model depends on its live rows alone: on no order, seed, slice, number of threads, processor or library version.
"""

from __future__ import annotations

from hybridmu.core.closed_form.closed_form_model import closed_form_of
from hybridmu.core.closed_form.exact_solver import IllConditionedError
from hybridmu.core.kernel.model import SubModel, initial_model, state_of
from hybridmu.core.learners.learner import Fit, Fitted, Learner
from hybridmu.core.tasks.base import Task
from hybridmu.errors import ConfigError
from hybridmu.types import ShardStats, Workload


class Additive(Learner):
    """Sums over all live rows, and the weights that they define; one checkpoint, after the last slice."""

    name = "additive"
    portable = True

    def initial(self, task: Task, *, features: int, classes: int, standardize: bool, seed: int, shard: int) -> SubModel:
        """Return the model of no row; columns are standardised by sums, and by no scaler.

        Raises:
            ConfigError: The task's model is no function of sums.
        """
        model = initial_model(task, features=features, classes=classes, standardize=False, seed=seed, shard=shard)
        try:
            closed_form_of(model)
        except TypeError:
            raise ConfigError(
                "learner additive needs a closed-form task", expected="task: {name: lda}", got=type(task).__name__
            ) from None
        return model

    def fit(self, job: Fit) -> Fitted:
        """Return the model of all live rows.

        Raises:
            ConfigError: The sums leave 62 bits, with the penalty or without it, or it is too small for them.
        """
        slices = len(job.recipe.epochs)
        if (state := job.checkpoint(slices)) is not None:
            return Fitted(state, slices + 1, 0)
        found = closed_form_of(job.model)
        try:
            found.hold(found.sums(job.rows.x, job.rows.y))
        except OverflowError as error:
            raise ConfigError(
                "the sums of a shard, or their weights, are too large",
                got=str(error),
                remedy="lower task.penalty or task.levels, or have more shards",
            ) from None
        except IllConditionedError as error:
            raise ConfigError(
                "task.penalty is too small for these features", got=str(error), remedy="raise task.penalty"
            ) from None
        made = state_of(job.model)
        job.save(slices, made, len(job.rows))
        return Fitted(made, 1, len(job.rows))

    def workload(self, stats: ShardStats) -> Workload:
        """Return a count of all live rows, unless the sums exist; slices are nothing to this learner."""
        slices = len(stats.epochs)
        revoked = sum(stats.revoked)
        there = stats.clean[-1] and not revoked
        live = sum(stats.rows) - revoked
        first = next((at for at, count in enumerate(stats.revoked, start=1) if count), slices + 1)
        new = next((at for at, count in enumerate(stats.newly_revoked, start=1) if count), slices + 1)
        return Workload(
            first_touched=first,
            first_trained=slices + 1 if there else 1,
            retrain_visits=0 if there else live,
            full_visits=live,
            first_new=new,
            gradient_visits=sum(stats.newly_revoked),
        )
