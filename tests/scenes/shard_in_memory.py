"""One shard in memory, trained by the product's own loop: rows, checkpoints, oracle. For tests of strategies."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from hybridmu.core.kernel.model import State, SubModel, initial_model
from hybridmu.core.kernel.rows import Rows
from hybridmu.core.kernel.training import Recipe
from hybridmu.core.strategies import Context, get
from hybridmu.task import CrossEntropyTask, Mlp

FEATURES, CLASSES = 6, 3


def make_rows(count: int, *, slices: int = 3, seed: int = 0, noise: float = 1.0) -> Rows:
    """Return learnable rows in canonical order; those of another seed are other rows of the same distribution."""
    random = np.random.default_rng(seed)
    y = random.integers(0, CLASSES, count)
    centres = np.random.default_rng(99).normal(size=(CLASSES, FEATURES))
    x = (centres[y] + noise * random.normal(size=(count, FEATURES))).astype(np.float32)
    ids = random.integers(0, 256, (count, 16)).astype(np.uint8)
    slice_ = np.sort(random.integers(1, slices + 1, count)).astype(np.int32)
    none = np.zeros((count, 16), np.uint8)
    return Rows(torch.from_numpy(x), torch.from_numpy(y.astype(np.int64)), slice_, ids, none, ids)


@dataclass(frozen=True, eq=False)
class Trained:
    """A shard, and the checkpoints of its exact run."""

    rows: Rows
    task: CrossEntropyTask
    recipe: Recipe
    states: dict[int, State]

    def fresh_model(self) -> SubModel:
        """Return the untrained sub-model."""
        return initial_model(
            self.task, features=FEATURES, classes=CLASSES, standardize=True, seed=self.recipe.seed, shard=0
        )

    def model(self, state: State | None = None) -> SubModel:
        """Return the trained sub-model, or one of another state."""
        model = self.fresh_model()
        model.load_state_dict(self.states[len(self.recipe.epochs)] if state is None else state)
        return model

    def context(self, revoked: np.ndarray, **changes: object) -> Context:
        """Return the context of removing the rows of a mask by changing the trained sub-model."""
        context = Context(
            shard=0,
            task=self.task,
            recipe=self.recipe,
            live=self.rows.where(~revoked),
            revoked=self.rows.where(revoked),
            fresh_model=self.fresh_model,
            checkpoint=self.states.get,
            save=lambda *_: None,
            current=self.states[len(self.recipe.epochs)],
            alpha=0.5,
            finetune_epochs=1.0,
            finetune_rate=0.3 * self.recipe.lr,
        )
        return replace(context, **changes)

    def oracle(self, revoked: np.ndarray) -> SubModel:
        """Return the sub-model trained from scratch without the rows of a mask."""
        context = self.context(revoked, checkpoint=lambda _: None)
        return self.model(get("retrain").run(context).state)


def trained(
    *,
    rows: int = 150,
    slices: int = 3,
    seed: int = 0,
    epochs: int = 6,
    task: CrossEntropyTask | None = None,
    **recipe: object,
) -> Trained:
    """Return a trained shard; keywords that are not named here change the recipe."""
    torch.set_num_threads(1)
    given = Recipe((epochs,) * slices, **{"batch_size": 8, "seed": 3, "lr": 0.1, **recipe})
    shard = Trained(make_rows(rows, slices=slices, seed=seed), task or Mlp([16]), given, {})
    none = np.zeros(rows, np.bool_)
    get("retrain").run(
        Context(
            shard=0,
            task=shard.task,
            recipe=shard.recipe,
            live=shard.rows,
            revoked=shard.rows.where(none),
            fresh_model=shard.fresh_model,
            checkpoint=lambda _: None,
            save=lambda slice_, state, _: shard.states.update({slice_: state}),
        )
    )
    return shard
