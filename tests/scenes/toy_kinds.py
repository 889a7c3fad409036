"""A strategy, a learner, a partitioner and a feature source of an operator's own, as a plugin registers them."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from hybridmu.plugins import (
    Columns,
    Context,
    Extent,
    FeatureSource,
    Fit,
    Fitted,
    Learner,
    Partitioner,
    Removal,
    Result,
    SubModel,
    Work,
    place,
    register_feature_source,
    register_learner,
    register_partitioner,
    register_strategy,
    sliced_workload,
    state_of,
)


class Fade(Removal):
    """Shrinks all parameters a little: an update that reads no row, and forgets badly."""

    name = "fade"

    def run(self, context: Context) -> Result:
        """Return smaller weights."""
        state = {name: value * 0.9 for name, value in (context.current or {}).items()}
        return Result(state, int(context.revoked.slice[0]), 0)

    def work(self, extent: Extent) -> Work:
        """Return one read and one write."""
        return Work(0, 2, 0)


class ClassMeans(Learner):
    """Nearest mean of a class, as a linear layer; slice after slice."""

    name = "class-means"

    def initial(self, task, *, features, classes, standardize, seed, shard):
        """Return a layer of zeros."""
        model = SubModel(nn.Linear(features, classes))
        model.load_state_dict({name: torch.zeros_like(value) for name, value in model.state_dict().items()})
        return model

    def fit(self, job: Fit) -> Fitted:
        """Return the means of all rows, and save those of the rows up to every slice."""
        slices = len(job.recipe.epochs)
        done = next((slice_ for slice_ in range(slices, 0, -1) if job.checkpoint(slice_) is not None), 0)
        if done:
            job.model.load_state_dict(job.checkpoint(done))
        visits = 0
        for slice_ in range(done + 1, slices + 1):
            rows = job.rows.upto(slice_)
            x, y = job.rows.x[:rows].double(), job.rows.y[:rows]
            for label in range(job.model[0].out_features):
                mine = x[y == label]
                mean = mine.mean(dim=0) if len(mine) else torch.zeros(x.shape[1], dtype=torch.float64)
                job.model[0].weight.data[label] = mean.float()
                job.model[0].bias.data[label] = float(-mean.square().sum() / 2)
            job.save(slice_, state_of(job.model), rows)
            visits += rows
        return Fitted(state_of(job.model), done + 1, visits)

    def workload(self, stats):
        """Return one visit per row and slice."""
        return sliced_workload(stats)


class Mirrored(Partitioner):
    """Places by the digest read backwards."""

    name = "mirrored"

    def place(self, owners, shards, slices):
        """Return other places than the usual ones."""
        return place(owners[:, ::-1].copy(), shards, slices)


class Squares(FeatureSource):
    """The encoded columns, and their squares."""

    name = "squares"

    def width(self, schema):
        """Return two numbers per encoded one."""
        return 2 * schema.features

    def of_tables(self, schema):
        """Return the passage of tables; it leaves the place that it is offered alone."""
        encode = Columns().of_tables(schema)
        return lambda table, out=None: _with_squares(encode(table))

    def of_rows(self, schema, whole):
        """Return the passage of rows."""
        encode = Columns().of_rows(schema, whole)
        return lambda rows: _with_squares(encode(rows))


def _with_squares(x):
    return np.concatenate([x, x * x], axis=1)


register_strategy(Fade)
register_learner(ClassMeans)
register_partitioner(Mirrored)
register_feature_source(Squares)
