"""The scale of targets: fitted on the first slice with rows, when it is trained, from whichever checkpoint."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from hybridmu.core.kernel.model import SubModel, initial_model
from hybridmu.core.kernel.training import Recipe
from hybridmu.core.strategies import get
from hybridmu.core.tasks.task_making import make_task
from tests.scenes.shard_in_memory import FEATURES, Trained, make_rows

SLICES = 4


@dataclass(frozen=True, eq=False)
class Numbers(Trained):
    """A shard that learns numbers far from 1."""

    def fresh_model(self) -> SubModel:
        seed = self.recipe.seed
        return initial_model(self.task, features=FEATURES, classes=1, standardize=False, seed=seed, shard=0)


def trained(empty: int, loss: str = "mse") -> Numbers:
    """Return a shard whose first `empty` slices hold no row."""
    rows = make_rows(80, slices=SLICES - empty)
    prices = 1e5 + 3e4 * rows.x[:, 0] + 1e3 * rows.x[:, 1]
    rows = replace(rows, y=prices, slice=rows.slice + np.int32(empty))
    recipe = Recipe((3,) * SLICES, batch_size=8, seed=3, lr=0.05)
    shard = Numbers(rows, make_task("mlp", {"hidden": [6], "loss": loss}, targets=("y",)), recipe, {SLICES: {}})
    none = shard.context(np.zeros(80, np.bool_), checkpoint=lambda _: None)
    get("retrain").run(replace(none, save=lambda slice_, state, _: shard.states.update({slice_: state})))
    return shard


def scale(state) -> tuple[float, float]:
    return float(state["0.1.mean"]), float(state["0.1.deviation"])


def equal(one, two) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize("empty", [0, 1, 2])
def test_every_checkpoint_has_the_scale_of_the_rows_up_to_its_slice(empty):
    shard = trained(empty)
    first = shard.rows.y[: shard.rows.upto(empty + 1)].double()
    fitted = float(first.mean().float()), float(first.std(correction=0).float())
    found = {slice_: scale(state) for slice_, state in shard.states.items()}
    assert found == {slice_: (0.0, 1.0) if slice_ <= empty else fitted for slice_ in range(1, SLICES + 1)}


@pytest.mark.parametrize("empty", [0, 1, 2])
@pytest.mark.parametrize("have", range(SLICES + 1))
def test_training_goes_on_from_any_checkpoint_with_the_same_bits(empty, have):
    shard, made = trained(empty), {}
    context = shard.context(
        np.zeros(80, np.bool_),
        checkpoint=lambda slice_: shard.states[slice_] if slice_ <= have else None,
        save=lambda slice_, state, _: made.update({slice_: state}),
    )
    assert equal(get("retrain").run(context).state, shard.states[SLICES])
    assert set(made) == set(range(have + 1, SLICES + 1))
    assert all(equal(state, shard.states[slice_]) for slice_, state in made.items())


@pytest.mark.parametrize("empty", [0, 1])
@pytest.mark.parametrize("strategy", ["dpus", "dpus-newton", "dpus-optimised", "rewind"])
def test_rows_of_the_first_slice_are_removed_in_its_scale(empty, strategy):
    shard = trained(empty)
    gone = np.zeros(80, np.bool_)
    gone[:3] = True
    before, after = shard.states[SLICES], get(strategy).run(shard.context(gone)).state
    oracle = shard.oracle(gone).state_dict()
    far = max(float((oracle[name] - before[name]).abs().max()) for name in before if "weight" in name)
    change = max(float((after[name] - before[name]).abs().max()) for name in before if "weight" in name)
    assert 0 < change < 20 * far + 0.5, "residuals that are not scaled would be 1e5 times as large"
    if strategy == "rewind":
        first = shard.rows.where(~gone)
        assert scale(after)[0] == pytest.approx(float(first.y[: first.upto(empty + 1)].mean()))
