"""Fitting the scale of targets: on the live rows of the first slice that holds any, when its training begins.

A checkpoint is a function of the rows up to its slice. So the checkpoints of slices before that one, which hold no row,
have the scale as it was made; with all others it is that of the first rows.

This file shapes weights, as `core/tasks/regression_tasks.py` does.
"""

from __future__ import annotations

from dataclasses import replace

from hybridmu.core.kernel.model import State, SubModel, state_of
from hybridmu.core.kernel.rows import Rows
from hybridmu.core.learners.learner import Fit
from hybridmu.core.tasks.regression_tasks import fit_targets


def fit_scale(model: SubModel, rows: Rows, after: int = 0) -> None:
    """Fit the scale of a model, unless a row was trained on already.

    Args:
        model: As it was made, or as the checkpoint after a slice has it.
        rows: Live rows of the shard.
        after: That slice.
    """
    if len(rows) and not rows.upto(after):
        fit_targets(model, rows.y[: rows.upto(int(rows.slice[0]))])


def scaled(job: Fit) -> Fit:
    """Return a job whose model has its scale when the first slice with rows is trained, and not before.

    Args:
        job: Of a task that learns numbers; with any other one, nothing is changed by it.
    """
    empty = int(job.rows.slice[0]) - 1 if len(job.rows) else 0
    if not empty:
        fit_scale(job.model, job.rows)  # a checkpoint that is gone on from has the same
        return job

    def checkpoint(slice_: int) -> State | None:
        state = job.checkpoint(slice_)
        if state is None or slice_ != empty:
            return state
        job.model.load_state_dict(state)
        fit_scale(job.model, job.rows)
        return state_of(job.model)

    def save(slice_: int, state: State, visits: int) -> None:
        job.save(slice_, state, visits)
        if slice_ == empty:
            fit_scale(job.model, job.rows)

    return replace(job, checkpoint=checkpoint, save=save)
