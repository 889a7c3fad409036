"""Batches in parts: the same gradient up to rounding, the same bits wherever a part is computed."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from hybridmu.core.kernel.microbatches import bounds, following, in_parts, refuse_batch_statistics, summed, weighed
from hybridmu.errors import ConfigError


def network(dropout: float = 0.0) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 8), nn.Dropout(dropout), nn.ReLU(), nn.Linear(8, 2))


def batch(rows: int):
    torch.manual_seed(rows)
    return torch.randn(rows, 3), torch.randint(0, 2, (rows,))


def loss_of(model):
    return lambda x, y: nn.functional.cross_entropy(model(x), y)


@given(st.integers(0, 50), st.integers(1, 9))
def test_parts_cover_a_batch_once_and_evenly(rows, parts):
    found = bounds(rows, parts)
    assert [n for start, stop in found for n in range(start, stop)] == list(range(rows))
    sizes = [stop - start for start, stop in found]
    assert len(sizes) == parts
    assert max(sizes) - min(sizes) <= 1


@settings(deadline=None)
@given(st.integers(1, 20), st.integers(2, 6))
def test_the_parts_add_up_to_the_gradient_of_the_batch(rows, parts):
    model, (x, y) = network(), batch(rows)
    parameters = list(model.parameters())
    whole = torch.autograd.grad(loss_of(model)(x, y), parameters)
    torch.manual_seed(7)
    for ours, theirs in zip(in_parts(loss_of(model), parameters, parts)(x, y, 0.1), whole, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


@settings(deadline=None)
@given(st.integers(1, 20), st.integers(2, 4), st.sampled_from([0.0, 0.5]))
@pytest.mark.slow
def test_a_part_that_is_computed_alone_has_the_same_bits_also_where_layers_draw(rows, parts, dropout):
    """As another process computes it: by itself, from the same seed."""
    model, (x, y) = network(dropout).train(), batch(rows)
    parameters = list(model.parameters())
    together = in_parts(loss_of(model), parameters, parts)
    torch.manual_seed(11)
    first, second = together(x, y, 0.1), together(x, y, 0.1)

    def alone(seed):
        terms = []
        for part in reversed(range(parts)):  # their order of computation is no matter
            torch.manual_seed(seed)
            terms.insert(0, torch.autograd.grad(weighed(loss_of(model), x, y, part, parts), parameters))
        return [summed(each) for each in zip(*terms, strict=True)]

    assert all(torch.equal(a, b) for a, b in zip(alone(11), first, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(alone(following(11)), second, strict=True))
    if dropout and rows > 3:
        assert not all(torch.equal(a, b) for a, b in zip(first, second, strict=True)), "every batch draws anew"


def test_a_parameter_that_the_loss_does_not_reach_has_no_gradient():
    model, (x, y) = network(), batch(5)
    spare = torch.zeros(2, requires_grad=True)
    *_, last = in_parts(loss_of(model), [*model.parameters(), spare], 2)(x, y, 0.1)
    assert last is None


def test_statistics_of_whole_batches_are_refused():
    refuse_batch_statistics(nn.Sequential(nn.Linear(2, 2), nn.GroupNorm(1, 2)))
    with pytest.raises(ConfigError, match="statistics of whole batches") as refused:
        refuse_batch_statistics(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)))
    assert "compute.parts: 1" in refused.value.remedy


@settings(deadline=None)
@given(st.integers(1, 3), st.floats(0.1, 2.0), st.sampled_from([0.05, 0.3]))
def test_extrapolation_takes_a_parts_gradient_where_its_last_one_points(parts, steps, rate):
    """As the definition says, written anew: each worker's weights are moved by its own last mean gradient."""
    model = network().double()
    parameters = list(model.parameters())
    gradients = in_parts(loss_of(model), parameters, parts, steps)
    lasts = [None] * parts
    for batch_number in range(3):
        torch.manual_seed(batch_number)
        x, y = torch.randn(6, 3, dtype=torch.float64), torch.randint(0, 2, (6,))
        before = [parameter.detach().clone() for parameter in parameters]
        found = gradients(x, y, rate)
        assert all(map(torch.equal, before, parameters)), "the very bits come back"
        expected = [torch.zeros_like(parameter) for parameter in parameters]
        for worker, (low, high) in enumerate(bounds(6, parts)):
            moved = copy.deepcopy(model)
            for parameter, last in zip(moved.parameters(), lasts[worker] or [0] * len(parameters), strict=True):
                parameter.data -= steps * rate * last
            lasts[worker] = torch.autograd.grad(loss_of(moved)(x[low:high], y[low:high]), list(moved.parameters()))
            expected = [total + term / parts for total, term in zip(expected, lasts[worker], strict=True)]
        for ours, theirs in zip(found, expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


def test_extrapolation_changes_what_is_learned_and_none_of_it_changes_nothing():
    model, (x, y) = network(), batch(8)
    parameters = list(model.parameters())
    plain, none, far = (in_parts(loss_of(model), parameters, 2, *steps) for steps in ((), (0.0,), (1.0,)))
    for gradients in (plain, none, far):
        torch.manual_seed(1)
        gradients(x, y, 0.1)
    torch.manual_seed(2)
    first, second, third = (gradients(x, y, 0.1) for gradients in (plain, none, far))
    assert all(map(torch.equal, first, second))
    assert not all(map(torch.equal, first, third))
