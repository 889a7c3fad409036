"""Rewind and the curvature-damped update: what they must never do, and what they are good for."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hybridmu.core import audit
from hybridmu.core.rows import Rows
from hybridmu.core.strategies import dpus, get, newton
from hybridmu.errors import StrategyUnavailableError
from hybridmu.task import Cnn
from tests.unit.shards import trained


def mask_of(shard, *, first: int = 1, share: float = 0.1, seed: int = 0):
    random = np.random.default_rng(seed)
    candidates = np.flatnonzero(shard.rows.slice >= first)
    inside = np.flatnonzero(shard.rows.slice == first)
    mask = np.zeros(len(shard.rows), np.bool_)
    mask[random.choice(candidates, max(1, round(share * len(candidates))), replace=False)] = True
    mask[random.choice(inside)] = True
    return mask


def equal(a, b):
    return not audit.differing_tensors(a, b)


def distance(state, other):
    names = [name for name in state if not name.endswith(("mean", "deviation"))]
    return float(sum(((state[name] - other[name]) ** 2).sum() for name in names)) ** 0.5


def test_strategies_are_known_by_name():
    assert [get(name).exact for name in ("retrain", "rewind", "dpus", "dpus-optimised", "dpus-newton")] == [
        True,
        *[False] * 4,
    ]
    with pytest.raises(ValueError, match=r"known: .*dpus-newton, dpus-optimised, .*retrain, rewind"):
        get("forget-me")


# ---------------------------------------------------------------------- rewind


@settings(max_examples=15)
@given(st.integers(1, 3), st.integers(0, 1000))
def test_rewind_does_not_depend_on_the_revoked_rows(first, seed):
    shard = trained(rows=60, epochs=2)
    mask = mask_of(shard, first=first, seed=seed)
    context = shard.context(mask)
    gone = context.revoked
    random = torch.Generator().manual_seed(seed)
    x, y = torch.randn(gone.x.shape, generator=random), 1 - gone.y.clamp(max=1)
    other = Rows(x, y, gone.slice, gone.ids, gone.groups, gone.ids)
    dirty = {slice_: state for slice_, state in shard.states.items() if slice_ >= first}
    poisoned = {name: torch.full_like(tensor, torch.nan) for name, tensor in shard.states[1].items()}
    changed = replace(
        context,
        revoked=other,
        current=poisoned,
        checkpoint=lambda slice_: poisoned if slice_ in dirty else shard.states[slice_],
    )
    assert equal(get("rewind").run(context).state, get("rewind").run(changed).state)


def test_rewind_starts_from_the_last_clean_checkpoint_that_exists():
    shard = trained(rows=90)
    context = shard.context(mask_of(shard, first=3), finetune_epochs=0.0)
    assert equal(get("rewind").run(context).state, shard.states[2])
    one_missing = replace(context, checkpoint=lambda slice_: shard.states[1] if slice_ == 1 else None)
    assert equal(get("rewind").run(one_missing).state, shard.states[1])


def test_rewind_of_the_first_slice_starts_fresh_with_a_scaler_of_live_rows():
    shard = trained(rows=90)
    mask = mask_of(shard, first=1)
    result = get("rewind").run(shard.context(mask, finetune_epochs=0.0))
    fresh = shard.fresh_model()
    assert torch.equal(result.state["1.0.weight"], fresh.state_dict()["1.0.weight"])
    live = shard.rows.where(~mask)
    assert torch.allclose(result.state["0.mean"], live.x[: live.upto(1)].mean(dim=0), atol=1e-5)


@pytest.mark.parametrize(("budget", "share"), [(0.5, 0.5), (2.5, 2.5), (0.0, 0.0)])
def test_rewind_spends_its_budget(budget, share):
    shard = trained(rows=80)
    mask = mask_of(shard, first=2)
    result = get("rewind").run(shard.context(mask, finetune_epochs=budget))
    assert result.visits == round(share * int((~mask).sum()))
    assert result.first_slice == 2


def test_a_longer_rewind_fits_the_live_rows_better():
    shard = trained(rows=200)
    context = shard.context(mask_of(shard, first=1))
    losses = [
        audit.mean_loss(
            shard.model(get("rewind").run(replace(context, finetune_epochs=epochs)).state), context.live, shard.task
        )
        for epochs in (0.5, 2.0, 8.0)
    ]
    assert losses == sorted(losses, reverse=True)


def test_rewind_works_with_any_optimizer():
    shard = trained(rows=60, optimizer="adamw", lr=0.01)
    assert get("rewind").run(shard.context(mask_of(shard))).visits > 0


# ---------------------------------------------------------------------- curvature


def gaps_of(runs, shares=(0.02, 0.1), seeds=range(4), **changes):
    """Return (RMS forget-loss gap, mean distance to the oracle's weights) of some updates over several deletions."""
    gaps = {name: [] for name in runs}
    distances = {name: [] for name in runs}
    for seed in seeds:
        shard = trained(rows=400, seed=seed, **changes)
        for share in shares:
            mask = mask_of(shard, share=share, seed=seed)
            oracle = shard.oracle(mask)
            context = shard.context(mask)
            for name, run in runs.items():
                state = run(context)
                model = shard.model(state)
                gaps[name].append(audit.forget_loss_gap(model, oracle, context.revoked, shard.task))
                distances[name].append(distance(state, oracle.state_dict()))
    return {name: (np.sqrt(np.mean(np.square(gaps[name]))), np.mean(distances[name])) for name in runs}


def test_damping_beats_no_damping_and_doing_nothing():
    found = gaps_of({
        "newton": lambda c: newton.run(c).state,
        "raw": lambda c: dpus.run_plain(replace(c, alpha=1.0)).state,
        "nothing": lambda c: c.current,
    })
    assert found["newton"][0] < 0.5 * found["nothing"][0]
    assert found["newton"][0] < 0.5 * found["raw"][0]
    assert found["newton"][1] < min(found["nothing"][1], found["raw"][1])


def test_without_learning_time_the_update_is_plain_subtraction(monkeypatch):
    shard = trained()
    context = shard.context(mask_of(shard))
    monkeypatch.setattr(newton, "_mean_time", lambda _: 0.0)
    plain = dpus.run_plain(replace(context, alpha=1.0)).state
    damped = newton.run(context).state
    assert all(torch.allclose(plain[name], damped[name], atol=1e-6) for name in plain)


def test_nothing_revoked_changes_nothing():
    shard = trained(rows=40)
    context = shard.context(np.zeros(40, np.bool_))
    assert equal(newton.run(context).state, context.current)


def test_the_update_repeats_its_bits_and_counts_its_visits():
    shard = trained()
    context = shard.context(mask_of(shard, first=2))
    first, second = newton.run(context), newton.run(context)
    assert equal(first.state, second.state)
    gradients = dpus.contribution(context)[2]
    assert first.visits == gradients + newton.cost(len(context.live))
    assert first.first_slice == 2


def test_learning_time_is_the_sum_of_the_rates():
    shard = trained(rows=96, slices=2, epochs=3)
    context = shard.context(mask_of(shard))
    counts = shard.rows.counts(2)
    steps = [3 * counts[0] / 8, 3 * sum(counts) / 8]
    assert dpus.learning_time(context) == pytest.approx([0.05 * count for count in steps])
    constant = replace(context, recipe=replace(context.recipe, schedule="constant", momentum=0.5))
    assert dpus.learning_time(constant) == pytest.approx([0.2 * count for count in steps])


def test_the_update_is_unavailable_without_its_checkpoints():
    shard = trained(rows=40)
    with pytest.raises(StrategyUnavailableError, match="missing"):
        newton.run(shard.context(mask_of(shard), checkpoint=lambda _: None))
    with pytest.raises(StrategyUnavailableError, match="no live sub-model"):
        newton.run(shard.context(mask_of(shard), current=None))


def test_other_networks_are_updated_too():
    shard = trained(rows=40, epochs=1, task=Cnn(shape=[1, 2, 3], width=8, stages=1))
    context = shard.context(mask_of(shard))
    state = newton.run(context).state
    assert all(torch.isfinite(tensor).all() for tensor in state.values())
    assert not equal(state, context.current)
