"""AdamW's second moments from checkpoints, and the updates that are made with them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from hybridmu.core import evaluation
from hybridmu.core.audit import measures
from hybridmu.core.kernel.gradients import gradients_of
from hybridmu.core.kernel.partition import epoch_order
from hybridmu.core.kernel.training import batch_bounds
from hybridmu.core.strategies import dpus, get, second_moments
from hybridmu.errors import StrategyUnavailableError
from hybridmu.task import Cnn
from hybridmu.types import ALPHAS
from tests.scenes.shard_in_memory import trained


def shard_of(**changes):
    return trained(**{"rows": 240, "optimizer": "adamw", "lr": 0.01, "epochs": 6, **changes})


def some(shard, share=0.1, first=1, seed=0):
    random = np.random.default_rng(seed)
    mask = np.zeros(len(shard.rows), np.bool_)
    candidates = np.flatnonzero(shard.rows.slice >= first)
    mask[random.choice(candidates, round(share * len(mask)), replace=False)] = True
    mask[random.choice(np.flatnonzero(shard.rows.slice == first))] = True
    return mask


def moments_of(shard, context, points):
    model = context.fresh_model().eval()
    named = [parameter for parameter in model.parameters() if parameter.requires_grad]
    positions = second_moments.sampled(context)
    gradients_at = gradients_of(model, context.task, named)
    steps = dpus._steps(context.recipe, shard.rows.counts(len(context.recipe.epochs)))
    made = second_moments.Moments(context, gradients_at, named, context.live.take(positions), positions, steps)
    for point in points:
        dpus.restore(model, context, point)
        made.look(point)
    return made


def true_moments(shard, slice_):
    """Return √v of torch's own AdamW at the end of a slice, replayed step by step."""
    model = shard.model(shard.states[slice_ - 1])
    model.train()
    parameters = list(model.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=shard.recipe.lr, weight_decay=shard.recipe.weight_decay)
    count = shard.rows.upto(slice_)
    bounds, epochs = batch_bounds(count, shard.recipe.batch_size), shard.recipe.epochs[slice_ - 1]
    total, done = epochs * len(bounds), 0
    for epoch in range(epochs):
        order = torch.from_numpy(epoch_order(shard.rows.words[:count], shard.recipe.seed, 0, slice_, epoch))
        for low, high in bounds:
            optimizer.param_groups[0]["lr"] = shard.recipe.lr * (1 - done / total)
            optimizer.zero_grad()
            shard.task.loss(model(shard.rows.x[order[low:high]]), shard.rows.y[order[low:high]]).backward()
            optimizer.step()
            done += 1
    for name, value in model.state_dict().items():
        assert torch.allclose(value, shard.states[slice_][name], atol=1e-5), "the replay is the training"
    correct = 1 - 0.999**total
    return [(optimizer.state[parameter]["exp_avg_sq"] / correct).sqrt() for parameter in parameters]


@pytest.mark.parametrize("slice_", [2, 3])
def test_the_moments_at_a_slices_end_are_near_torchs_own(slice_):
    shard = shard_of()
    context = shard.context(some(shard))
    made = moments_of(shard, context, (slice_ - 1, slice_))
    for number, truth in enumerate(true_moments(shard, slice_)):
        ours = 1 / made.scale(number, 1.0, 0.0)
        ratio = (ours / truth).flatten()
        assert 0.5 < ratio.median() < 2.0
        if len(ratio) > 20:
            logs = torch.stack([ours.flatten().log(), truth.flatten().log()])
            assert torch.corrcoef(logs)[0, 1] > 0.7


def test_a_gradient_counts_at_the_end_of_one_slice_and_the_begin_of_the_next():
    shard = shard_of()
    made = moments_of(shard, shard.context(some(shard)), (0, 1))
    both, end, begin = (made.scale(0, *rates) for rates in ((0.2, 0.3), (0.2, 0.0), (0.0, 0.3)))
    assert torch.allclose(both, end + begin)
    assert not torch.allclose(end / 0.2, begin / 0.3), "the end remembers the begin of its slice"


def test_a_feature_that_only_a_revoked_row_has_does_not_blow_up():
    """No live row's gradient reaches its weights: without the revoked ones v is 0 there."""
    shard = shard_of()
    x = shard.rows.x.clone()
    x[:, 0] = 0.0
    x[3, 0] = 5.0
    odd = replace(shard, rows=replace(shard.rows, x=x))
    mask = np.zeros(len(x), np.bool_)
    mask[3] = True
    context = odd.context(mask)
    change, _, _ = dpus.contribution(context)
    steps = sum(dpus._steps(context.recipe, shard.rows.counts(3)))
    largest = max(float(part.abs().max()) for part in change.values())
    # A step of AdamW moves a weight by about the rate; a row is in one batch of each epoch, √(rows/B) larger at most.
    assert 0 < largest < context.recipe.lr * steps * np.sqrt(len(x) / context.recipe.batch_size)


def test_only_named_rows_are_sampled_and_few_of_them():
    shard = shard_of(rows=2000, epochs=1)
    context = shard.context(some(shard))
    positions = second_moments.sampled(context)
    assert len(positions) <= 3 * 8 * context.recipe.batch_size
    assert len(positions) < len(context.live) / 5
    counts = context.live.take(positions).counts(3)
    assert counts[0] >= 8 * context.recipe.batch_size, "the first checkpoint has seen slice 1 alone"
    assert len(second_moments.sampled(replace(context, recipe=replace(context.recipe, optimizer="sgd")))) == 0
    assert second_moments.visits(4, 10_000, 8) == 4 * 64


@pytest.mark.parametrize("name", ["dpus", "dpus-optimised"])
@pytest.mark.sampled
def test_a_calibrated_update_after_adamw_comes_nearer_to_the_oracle(name):
    """Over deletions of several shards, at the step that is best for all of them, at least half of the gap is gone."""
    gaps, nothing = [], []
    for seed in range(4):
        shard = shard_of(seed=seed)
        for share in (0.05, 0.15):
            mask = some(shard, share, seed=seed)
            revoked, oracle = shard.rows.where(mask), shard.oracle(mask)
            target = evaluation.losses(oracle, revoked, shard.task).mean()
            nothing.append(evaluation.losses(shard.model(), revoked, shard.task).mean() - target)
            along = []
            for alpha in ALPHAS[:6]:
                made = get(name).run(shard.context(mask, alpha=alpha)).state
                along.append(evaluation.losses(shard.model(made), revoked, shard.task).mean() - target)
            gaps.append(along)
    best = np.sqrt(np.mean(np.square(gaps), axis=0)).min()
    assert best < 0.5 * np.sqrt(np.mean(np.square(nothing)))


def test_the_update_repeats_its_bits_counts_its_visits_and_leaves_sgd_alone():
    shard = shard_of()
    context = shard.context(some(shard, first=2))
    first, second = (get("dpus").run(context) for _ in range(2))
    assert not measures.differing_tensors(first.state, second.state)
    plain = dpus.contribution(replace(context, recipe=replace(context.recipe, optimizer="sgd")))[2]
    gone = context.revoked.counts(3)
    points = [context.live.upto(2), context.live.upto(3), context.live.upto(3)]  # after slices 1, 2 and 3
    squares = sum(min(rows, 64) for rows in points) + gone[1] + 2 * (gone[1] + gone[2])
    assert first.visits == plain + squares


def test_other_networks_work_and_the_damped_update_is_refused():
    shard = shard_of(rows=40, epochs=1, task=Cnn(shape=[1, 2, 3], width=8, stages=1))
    context = shard.context(some(shard))
    assert all(torch.isfinite(tensor).all() for tensor in get("dpus-optimised").run(context).state.values())
    with pytest.raises(StrategyUnavailableError, match="adamw"):
        get("dpus-newton").run(context)
