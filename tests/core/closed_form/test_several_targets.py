"""Ridge regressions of several numbers: each as if it were learned alone, and exact under subtraction and merging."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hybridmu.core.closed_form.linear_models import RidgeRegressor
from hybridmu.core.closed_form.projection import Projection
from hybridmu.core.closed_form.several_targets import RidgeOfSeveral

LEVELS = 1000
SCALES = (1 / 512, 2.0, 1 / 4096)
STEPS = RidgeOfSeveral.target_levels


def table(rows=60, seed=0):
    """Three targets: a clear one, noise, and one whose mean is far from 0."""
    random = np.random.default_rng(seed)
    x = random.uniform(-1, 1, (rows, 4)).astype(np.float32)
    price = x @ np.array([40, 80, -20, 5]) + 300 + random.normal(size=rows)
    y = np.stack([price, 0.1 * random.normal(size=rows), 3000 + 10 * x[:, 1]], axis=1).astype(np.float32)
    return torch.from_numpy(x), torch.from_numpy(y)


def fitted(x, y, penalty=Fraction(1, 100), scales=SCALES, projection=None):
    made = RidgeOfSeveral(x.shape[1], y.shape[1], LEVELS, penalty, projection, scales)
    made.hold(made.sums(x, y))
    return made


def alone(x, y, number, penalty, projection=None):
    made = RidgeRegressor(x.shape[1], 1, LEVELS, penalty, projection, SCALES[number])
    made.hold(made.sums(x, y[:, number].contiguous()))
    return made


@pytest.mark.parametrize("penalty", [Fraction(1, 100), None], ids=["said", "chosen"])
@pytest.mark.parametrize("project", [0, 12])
def test_every_target_has_the_bits_that_it_would_have_alone(penalty, project):
    x, y = table()
    projection = Projection(4, LEVELS, project, 3, 127) if project else None
    together = fitted(x, y, penalty, projection=projection)
    said = together(x)
    for number in range(3):
        single = alone(x, y, number, penalty, projection)
        assert torch.equal(together.weights[:, [number]], single.weights)
        assert torch.equal(together.cross[:, [number]], single.cross)
        assert torch.equal(together.squares[[number]], single.squares)
        assert torch.equal(together.gram, single.gram)
        np.testing.assert_allclose(said[:, 2 * number : 2 * number + 2].numpy(), single(x).numpy(), rtol=1e-6)


def test_a_chosen_penalty_is_chosen_for_each_target_by_itself():
    x, y = table(rows=200)
    together = fitted(x, y, None)
    all_alike = [fitted(x, y, penalty).weights for penalty in (Fraction(1), Fraction(1, 10_000))]
    assert torch.equal(together.weights[:, 1], all_alike[0][:, 1]), "noise is penalised"
    assert torch.equal(together.weights[:, 2], all_alike[1][:, 2]), "a line is not"


@given(seed=st.integers(0, 2**31), gone=st.integers(0, 40), order=st.randoms(use_true_random=False))
@settings(deadline=None)
def test_subtraction_in_any_order_is_a_recount(seed, gone, order):
    x, y = table(rows=40, seed=seed)
    away = np.random.default_rng(seed).permutation(40)[:gone].tolist()
    left = np.setdiff1d(np.arange(40), away)
    made = fitted(x, y)
    order.shuffle(away)
    cut = order.randint(0, len(away))
    for some in (away[:cut], away[cut:]):
        made.hold(made.held - made.sums(x[some], y[some]))
    recount = fitted(x[left], y[left])
    assert made.state_dict().keys() == recount.state_dict().keys()
    for name, value in recount.state_dict().items():
        assert torch.equal(made.state_dict()[name], value), name


@given(seed=st.integers(0, 2**31), cut=st.integers(0, 50))
@settings(deadline=None, max_examples=25)
def test_the_sums_of_two_shards_are_those_of_all_rows(seed, cut):
    x, y = table(rows=50, seed=seed)
    parts = [fitted(x[:cut], y[:cut]), fitted(x[cut:], y[cut:])]
    parts[0].hold(parts[0].held + parts[1].held)
    whole = fitted(x, y)
    for name, value in whole.state_dict().items():
        assert torch.equal(parts[0].state_dict()[name], value), name


def test_targets_beyond_their_own_scale_count_as_its_ends():
    made = RidgeOfSeveral(1, 2, LEVELS, Fraction(1, 10), scales=(0.5, 4.0))
    steps = made.targets(torch.tensor([[1.0, 0.125], [3.0, 1.0], [-1e30, -0.25]]))
    assert steps.tolist() == [[STEPS // 2, STEPS // 2], [STEPS, STEPS], [-STEPS, -STEPS]]


@pytest.mark.parametrize("rows", [0, 1, 2])
def test_few_rows_and_alike_targets_have_a_unit(rows):
    x, _ = table(rows=max(rows, 1))
    y = torch.full((rows, 2), 7.0)
    found = fitted(x[:rows], y, scales=(1 / 8, 1 / 8))(x)
    assert found.shape == (len(x), 4)
    assert (found[:, [1, 3]] == 1).all()
    assert torch.allclose(found[:, [0, 2]], torch.full_like(found[:, [0, 2]], 7.0 if rows else 0.0), atol=1e-3)


def test_every_target_needs_a_scale():
    with pytest.raises(ValueError, match="2 targets have 1 scales"):
        RidgeOfSeveral(1, 2, LEVELS, Fraction(1, 10), scales=(0.5,))
