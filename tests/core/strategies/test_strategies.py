"""Rewind and the curvature-damped update: what they must never do, and what they are good for."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hybridmu.core import evaluation
from hybridmu.core.audit import measures
from hybridmu.core.kernel.model import state_of
from hybridmu.core.kernel.partition import derive, epoch_order
from hybridmu.core.kernel.rows import Rows
from hybridmu.core.kernel.training import batch_bounds, fit, make_step
from hybridmu.core.strategies import dpus, dpus_optimised, get, newton, unavailable
from hybridmu.core.strategies.curvature import gauss_newton
from hybridmu.errors import StrategyUnavailableError
from hybridmu.task import Cnn
from tests.scenes.shard_in_memory import trained


def mask_of(shard, *, first: int = 1, share: float = 0.1, seed: int = 0):
    random = np.random.default_rng(seed)
    candidates = np.flatnonzero(shard.rows.slice >= first)
    inside = np.flatnonzero(shard.rows.slice == first)
    mask = np.zeros(len(shard.rows), np.bool_)
    mask[random.choice(candidates, max(1, round(share * len(candidates))), replace=False)] = True
    mask[random.choice(inside)] = True
    return mask


def equal(a, b):
    return not measures.differing_tensors(a, b)


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
        evaluation.mean_loss(
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
                gaps[name].append(measures.forget_loss_gap(model, oracle, context.revoked, shard.task))
                distances[name].append(distance(state, oracle.state_dict()))
    return {name: (np.sqrt(np.mean(np.square(gaps[name]))), np.mean(distances[name])) for name in runs}


def test_damping_beats_no_damping_and_doing_nothing():
    found = gaps_of({
        "newton": lambda c: get("dpus-newton").run(c).state,
        "raw": lambda c: get("dpus").run(replace(c, alpha=1.0)).state,
        "nothing": lambda c: c.current,
    })
    assert found["newton"][0] < 0.5 * found["nothing"][0]
    assert found["newton"][0] < 0.5 * found["raw"][0]
    assert found["newton"][1] < min(found["nothing"][1], found["raw"][1])


def test_without_learning_time_the_update_is_plain_subtraction(monkeypatch):
    shard = trained()
    context = shard.context(mask_of(shard))
    monkeypatch.setattr(newton, "_mean_time", lambda _: 0.0)
    plain = get("dpus").run(replace(context, alpha=1.0)).state
    damped = get("dpus-newton").run(context).state
    assert all(torch.allclose(plain[name], damped[name], atol=1e-6) for name in plain)


def test_nothing_revoked_changes_nothing():
    shard = trained(rows=40)
    context = shard.context(np.zeros(40, np.bool_))
    assert equal(get("dpus-newton").run(context).state, context.current)


def test_the_update_repeats_its_bits_and_counts_its_visits():
    shard = trained()
    context = shard.context(mask_of(shard, first=2))
    first, second = get("dpus-newton").run(context), get("dpus-newton").run(context)
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
    constant = replace(context, recipe=replace(context.recipe, schedule="constant"))
    assert dpus.learning_time(constant) == pytest.approx([0.1 * count for count in steps])


@pytest.mark.parametrize("schedule", ["linear", "constant"])
@pytest.mark.parametrize("momentum", [0.5, 0.9, 0.99])
def test_with_momentum_it_is_how_far_a_constant_gradient_moves_a_weight(momentum, schedule):
    """Velocities begin at 0 in every slice: a short one gets nowhere near 1/(1 − μ) times the rate."""
    shard = trained(rows=96, slices=2, epochs=3, momentum=momentum, schedule=schedule, lr=0.01)
    context = shard.context(mask_of(shard))
    found = dpus.learning_time(context)
    for slice_, time in enumerate(found, start=1):
        weight = torch.zeros(1, requires_grad=True)
        count = shard.rows.upto(slice_)
        total = 3 * len(batch_bounds(count, 8))
        step = make_step([weight], context.recipe)
        for done in range(total):
            step([torch.ones(1)], 0.01 * (1 - done / total) if schedule == "linear" else 0.01)
        per_row = float(-weight.detach()) / total * 3 * count / 8  # a batch may be one row larger or smaller
        half = (total + 1) / total if schedule == "linear" else 1.0  # the mean rate over a slice is taken as one half
        assert time == pytest.approx(per_row / half, rel=1e-4)
        naive = 3 * count / 8 * 0.01 / (1 - momentum) * (0.5 if schedule == "linear" else 1.0)
        assert time < naive * (0.99 if momentum == 0.5 else 0.9)


def test_the_update_is_unavailable_without_its_checkpoints():
    shard = trained(rows=40)
    with pytest.raises(StrategyUnavailableError, match="missing"):
        get("dpus-newton").run(shard.context(mask_of(shard), checkpoint=lambda _: None))
    with pytest.raises(StrategyUnavailableError, match="no live sub-model"):
        get("dpus-newton").run(shard.context(mask_of(shard), current=None))


def test_other_networks_are_updated_too():
    shard = trained(rows=40, epochs=1, task=Cnn(shape=[1, 2, 3], width=8, stages=1))
    context = shard.context(mask_of(shard))
    state = get("dpus-newton").run(context).state
    assert all(torch.isfinite(tensor).all() for tensor in state.values())
    assert not equal(state, context.current)


# ---------------------------------------------------------------------- bits


def plainly_summed(context):
    """The formula of `dpus`, written down step by step: every checkpoint anew, every gradient by autograd."""
    recipe, revoked, total = context.recipe, context.revoked, {}
    slices, first = len(recipe.epochs), int(revoked.slice[0])
    rate = recipe.lr / 2
    half = [0.5 * e * rate / recipe.batch_size if i >= first else 0.0 for i, e in enumerate(recipe.epochs, 1)]
    half = [0.0, *half, 0.0]
    for point in range(first - 1, slices + 1):
        model = context.fresh_model().eval()
        state = context.checkpoint(max(1, point))
        scaler = {name: state[name] for name, _ in model.named_buffers()}
        model.load_state_dict(state if point else scaler, strict=point > 0)
        bounds = (0, revoked.upto(point), revoked.upto(point + 1))
        for low, high, weight in zip(
            bounds, bounds[1:], (half[point] + half[point + 1], half[point + 1]), strict=False
        ):
            if weight and high > low:
                loss = context.task.loss(model(revoked.x[low:high]), revoked.y[low:high])
                named = dict(model.named_parameters())
                for name, mean in zip(named, torch.autograd.grad(loss, list(named.values())), strict=True):
                    part = mean * (high - low)
                    total[name] = torch.add(total[name], part, alpha=weight) if name in total else weight * part
    return total


def plainly_solved(product, right, shift, steps):
    """Conjugate gradients without reusing a tensor."""

    def dot(a, b):
        return sum(float(torch.dot(x.reshape(-1), y.reshape(-1))) for x, y in zip(a, b, strict=True))

    found, rest, direction = [torch.zeros_like(part) for part in right], list(right), list(right)
    size = dot(rest, rest)
    for _ in range(steps):
        image = [part + shift * bent for part, bent in zip(direction, product(direction), strict=True)]
        length = size / dot(direction, image)
        found = [y.add(d, alpha=length) for y, d in zip(found, direction, strict=True)]
        rest = [r.sub(a, alpha=length) for r, a in zip(rest, image, strict=True)]
        left = dot(rest, rest)
        direction = [r.add(d, alpha=left / size) for r, d in zip(rest, direction, strict=True)]
        size = left
    return found


@settings(max_examples=12)
@given(first=st.integers(1, 3), share=st.sampled_from([0.02, 0.3]), seed=st.integers(0, 100))
def test_updates_have_the_bits_of_their_formulas(first, share, seed):
    shard = trained(rows=300, seed=seed, epochs=2)
    context = shard.context(mask_of(shard, first=first, share=share, seed=seed))
    summed = plainly_summed(context)
    change, _, _ = dpus.contribution(context)
    assert equal(change, summed)
    assert equal(get("dpus").run(context).state, dpus.subtract(context.current, summed, 0.5))

    order = epoch_order(context.live.words, 3 ^ (derive("curvature") >> 1), 0, 0, 0)[
        : newton.cost(len(context.live)) // 7
    ]
    model = shard.model(shard.states[(min(first, 3) + 3) // 2])
    damped = plainly_solved(
        gauss_newton(model, context.live.x[order]), list(summed.values()), mean_time(context) / 2, 6
    )
    expected = dpus.subtract(context.current, dict(zip(summed, damped, strict=True)), 1.0)
    assert equal(get("dpus-newton").run(context).state, expected)

    for budget in (0.4, 1.7):
        short = replace(context, finetune_epochs=budget)
        model = shard.model(dpus.subtract(context.current, summed, 0.5))
        chosen = dpus_optimised.subset(short)
        recipe = replace(shard.recipe, lr=short.finetune_rate)
        fit(model, short.live, [chosen], batch_bounds(len(chosen), recipe.batch_size), recipe, shard.task)
        assert equal(get("dpus-optimised").run(short).state, state_of(model))


def mean_time(context):
    times = dpus.learning_time(context)
    since = [sum(times[i:]) for i in range(len(times))]
    counts = context.revoked.counts(len(times))
    weights = [count * time for count, time in zip(counts, since, strict=True)]
    return sum(weight * time for weight, time in zip(weights, since, strict=True)) / sum(weights)


@pytest.mark.parametrize("name", ["rewind", "dpus", "dpus-optimised", "dpus-newton"])
@pytest.mark.parametrize("budget", [0.4, 2.0])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.sampled
def test_a_strategy_needs_the_rows_that_it_names_and_no_others(name, budget, optimizer):
    if unavailable(name, optimizer):
        return
    shard = trained(rows=400, optimizer=optimizer, lr=0.1 if optimizer == "sgd" else 0.01)
    context = shard.context(mask_of(shard), finetune_epochs=budget)
    nothing = torch.empty(0)
    live = replace(context.live, x=nothing, y=nothing)
    revoked = replace(context.revoked, x=nothing, y=nothing)
    positions = get(name).reads(replace(context, live=live, revoked=revoked))
    assert positions.tolist() == sorted(set(positions.tolist()))
    part = context.live.take(positions)
    assert equal(get(name).run(replace(context, live=live, part=part)).state, get(name).run(context).state)
    if len(positions):
        other = replace(part, x=part.x.flip(0))
        assert not equal(get(name).run(replace(context, live=live, part=other)).state, get(name).run(context).state)
