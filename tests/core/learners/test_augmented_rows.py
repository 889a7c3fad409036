"""Augmented training: what a visit looks like depends on the row and the epoch alone, from whichever checkpoint."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from hybridmu.core.kernel.partition import epoch_order
from hybridmu.core.kernel.training import Recipe
from hybridmu.core.learners.augmented_rows import AugmentedFeatures, augmented_rows
from hybridmu.core.strategies import get
from hybridmu.task import Augmented, Mlp
from tests.scenes.shard_in_memory import FEATURES, Trained, make_rows

SLICES, EPOCHS = 3, 2


class Shaken(Mlp, Augmented):
    """A task that adds noise to every visit, and keeps what it was given and gave."""

    def __init__(self, noise: float = 0.5) -> None:
        super().__init__([5])
        self.noise = noise
        self.seen: list[tuple[torch.Tensor, torch.Tensor]] = []

    def augment(self, x, draws):
        made = x + self.noise * torch.stack([draws.uniform() for _ in range(FEATURES)], dim=1)
        self.seen.append((x, made))
        return made


def shard(count: int = 60, noise: float = 0.5) -> Trained:
    recipe = Recipe((EPOCHS,) * SLICES, batch_size=8, seed=3, lr=0.05)
    found = Trained(make_rows(count, slices=SLICES), Shaken(noise), recipe, {SLICES: {}})
    none = found.context(np.zeros(count, np.bool_), checkpoint=lambda _: None)
    get("retrain").run(replace(none, save=lambda slice_, state, _: found.states.update({slice_: state})))
    return found


def equal(one, two) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def visits(task: Shaken) -> dict[bytes, list[bytes]]:
    """Return row → what each of its visits looked like, in order."""
    found: dict[bytes, list[bytes]] = {}
    for given, made in task.seen:
        for row, change in zip(given, made, strict=True):
            found.setdefault(row.numpy().tobytes(), []).append(change.numpy().tobytes())
    return found


@pytest.mark.parametrize("have", range(SLICES + 1))
def test_training_goes_on_from_any_checkpoint_with_the_same_bits(have):
    trained, made = shard(), {}
    context = trained.context(
        np.zeros(60, np.bool_),
        checkpoint=lambda slice_: trained.states[slice_] if slice_ <= have else None,
        save=lambda slice_, state, _: made.update({slice_: state}),
    )
    assert equal(get("retrain").run(context).state, trained.states[SLICES])
    assert set(made) == set(range(have + 1, SLICES + 1))


@pytest.mark.parametrize("first", [1, 2, 3])
def test_a_deletion_changes_no_visit_of_the_rows_that_stay(first):
    """Retraining from the clean checkpoint, and a training that never saw the rows, see the others alike."""
    trained = shard()
    gone = np.zeros(60, np.bool_)
    gone[np.flatnonzero(trained.rows.slice == first)[:2]] = True
    before = visits(trained.task)
    trained.task.seen.clear()
    clean = get("retrain").run(trained.context(gone, checkpoint=lambda s: trained.states[s] if s < first else None))
    assert clean.first_slice == first
    short = visits(trained.task)
    trained.task.seen.clear()
    oracle = trained.oracle(gone).state_dict()
    whole = visits(trained.task)
    assert equal(clean.state, oracle)
    assert len(whole) == 58
    for row, seen in whole.items():
        assert seen == before[row]
        assert row not in short or seen[-len(short[row]) :] == short[row]
        assert len(set(seen)) == len(seen), "two visits alike"


def test_augmentation_shapes_weights_and_none_shapes_none():
    plain = Trained(make_rows(60, slices=SLICES), Mlp([5]), shard().recipe, {SLICES: {}})
    states = {}
    none = plain.context(np.zeros(60, np.bool_), checkpoint=lambda _: None)
    get("retrain").run(replace(none, save=lambda slice_, state, _: states.update({slice_: state})))
    assert equal(states[SLICES], shard(noise=0.0).states[SLICES])
    assert not equal(states[SLICES], shard().states[SLICES])


def test_visits_depend_on_seed_shard_slice_and_epoch():
    rows, task = make_rows(10), Shaken()
    asked = torch.arange(10)

    def seen(seed=1, shard=0, slice_=1, epoch=0):
        features = AugmentedFeatures(rows, task, seed, shard)
        features.begin(slice_)
        return [features[asked] for _ in range(epoch + 1)][-1]

    first = seen()
    assert torch.equal(first, seen())
    for other in ({"seed": 2}, {"shard": 1}, {"slice_": 2}, {"epoch": 1}):
        assert not torch.equal(first, seen(**other)), other


def test_how_rows_are_gathered_changes_nothing():
    rows, task = make_rows(40), Shaken()
    once, apart = AugmentedFeatures(rows, task, 1, 0), AugmentedFeatures(rows, task, 1, 0)
    for epoch in range(2):
        order = torch.from_numpy(epoch_order(rows.words, 1, 0, 1, epoch))
        pieces = [apart[part] for part in order.split([1, 7, 32])]
        assert torch.equal(once[order], torch.cat(pieces))


def test_a_scaler_sees_rows_as_they_are():
    rows = make_rows(10)
    assert torch.equal(augmented_rows(rows, Shaken(), 1, 0).x[:4], rows.x[:4])
    assert augmented_rows(rows, Mlp([5]), 1, 0) is rows


@pytest.mark.parametrize("strategy", ["rewind", "dpus-optimised", "dpus", "dpus-newton"])
def test_updates_repeat_bit_for_bit(strategy):
    trained = shard()
    gone = np.zeros(60, np.bool_)
    gone[:3] = True
    one, two = (get(strategy).run(trained.context(gone)).state for _ in range(2))
    assert equal(one, two)
    still = get(strategy).run(replace(trained.context(gone), task=Mlp([5]))).state
    assert equal(one, still) == (strategy in {"dpus", "dpus-newton"}), "what fine-tunes sees rows as training does"
