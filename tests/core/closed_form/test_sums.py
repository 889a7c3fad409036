"""Sums over rows: what is subtracted leaves the sums over the others, to the bit, whatever came before."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hybridmu.core.closed_form.discriminant import discriminant_weights
from hybridmu.core.closed_form.quantiser import quantised
from hybridmu.core.closed_form.ridge import ridge_system, ridge_weights
from hybridmu.core.closed_form.sums import Sums, packed, sums_of, unpacked
from tests.reference_sums import nearest, rational

LEVELS = 2047


def table(rows=200, features=6, classes=3, seed=0):
    random = np.random.default_rng(seed)
    x = torch.from_numpy(random.integers(-LEVELS, LEVELS + 1, (rows, features)).astype(np.int16))
    y = torch.nn.functional.one_hot(torch.from_numpy(random.integers(0, classes, rows)), classes)
    return x, y


def equal(one: Sums, two: Sums) -> bool:
    return torch.equal(one.gram, two.gram) and torch.equal(one.cross, two.cross)


@given(st.lists(st.integers(0, 199), unique=True, max_size=199), st.integers(1, 8), st.integers(0, 2**32))
@settings(max_examples=50, deadline=None)
def test_subtraction_in_any_steps_is_a_recount(gone, steps, seed):
    x, y = table()
    left = np.setdiff1d(np.arange(200), gone)
    sums = sums_of(x, y, LEVELS)
    pieces = np.array_split(np.random.default_rng(seed).permutation(np.array(gone, dtype=np.int64)), steps)
    for piece in pieces:
        sums = sums - sums_of(x[piece], y[piece], LEVELS)
    recount = sums_of(x[left], y[left], LEVELS)
    assert equal(sums, recount)
    assert sums.rows == len(left)
    one, two = (ridge_weights(each, Fraction(1, 100)) for each in (sums, recount))
    assert torch.equal(one.view(torch.int32), two.view(torch.int32))


@pytest.mark.parametrize("shards", [1, 2, 7])
def test_shards_add_up_to_one_machine(shards):
    x, y = table()
    parts = [sums_of(x[at::shards], y[at::shards], LEVELS) for at in range(shards)]
    whole = parts[0]
    for part in parts[1:]:
        whole = whole + part
    assert equal(whole, sums_of(x, y, LEVELS))


def test_the_weights_are_those_of_the_standardised_ridge_regression():
    """Compared with its textbook form: standardise, centre the targets, solve, and undo both."""
    x, y = table(features=4)
    x[:, 2] = x[:, 2] // 100 + 900
    sums, penalty = sums_of(x, y, LEVELS), 0.01
    wide, targets = x.double().numpy(), y.double().numpy()
    mean, deviation = wide.mean(axis=0), wide.std(axis=0)
    z = (wide - mean) / deviation
    inner = np.linalg.solve(z.T @ z + penalty * len(z) * np.eye(4), z.T @ (targets - targets.mean(axis=0)))
    weights = inner / deviation[:, None]
    intercepts = targets.mean(axis=0) - mean @ weights
    found = ridge_weights(sums, Fraction(1, 100)).double().numpy()
    np.testing.assert_allclose(found, np.vstack([weights, intercepts]), rtol=1e-5, atol=1e-9)


def test_the_weights_are_correctly_rounded():
    x, y = table(rows=30, features=3)
    system = ridge_system(sums_of(x, y, LEVELS), Fraction(1, 7))
    exact = rational(system.a.tolist(), system.c.tolist())
    found = ridge_weights(sums_of(x, y, LEVELS), Fraction(1, 7))
    assert found.tolist() == [[nearest(value) for value in row] for row in exact]


@given(st.integers(1, 12), st.integers(1, 4), st.integers(1, 15), st.integers(1, 10**6), st.integers(0, 2**32))
@settings(max_examples=60, deadline=None)
def test_the_bound_of_eigenvalues_is_below_them(rows, features, bits, penalty, seed):
    random = np.random.default_rng(seed)
    x = torch.from_numpy(random.integers(-(2**bits) + 1, 2**bits, (rows, features)).astype(np.int16))
    system = ridge_system(sums_of(x, torch.ones(rows, 1, dtype=torch.int64), 2**bits), Fraction(1, penalty))
    smallest = np.linalg.eigvalsh(system.a.double().numpy())[0]
    assert 0 < float(system.least) <= smallest + 1e-12 * float(system.a.abs().max())


def test_columns_without_a_value_and_single_rows():
    x = torch.zeros(5, 2, dtype=torch.int16)
    x[:, 1] = 7  # always the same
    y = torch.tensor([[1], [0], [1], [1], [0]])
    assert ridge_weights(sums_of(x, y, 10), Fraction(1)).tolist() == [[0.0], [0.0], [float(np.float32(0.6))]]
    one = ridge_weights(sums_of(x[:1], y[:1], 10), Fraction(1))
    assert one.tolist() == [[0.0], [0.0], [1.0]]
    for rows, penalty in ((0, Fraction(1)), (5, Fraction(0))):
        with pytest.raises(ValueError, match="needs a row and a penalty"):
            ridge_weights(sums_of(x[:rows], y[:rows], 10), penalty)


@given(st.integers(1, 9), st.integers(0, 2**32))
def test_a_triangle_is_a_matrix(size, seed):
    half = torch.from_numpy(np.random.default_rng(seed).integers(-(2**60), 2**60, (size, size)))
    symmetric = torch.triu(half) + torch.triu(half, 1).T
    assert len(packed(symmetric)) == size * (size + 1) // 2
    assert torch.equal(unpacked(packed(symmetric), size), symmetric)


def test_numbers_become_whole_by_a_public_scale():
    x = torch.tensor([[0.0, 1.0, -1.0, 1.5, -7.0, 0.5 / 128, 1.5 / 128, 1e-30]])
    assert quantised(x, 128).tolist() == [[0, 128, -128, 128, -128, 0, 2, 0]]
    bytes_ = torch.arange(256, dtype=torch.float32)[None] * (1 / 255)
    assert quantised(bytes_, 255).tolist() == [list(range(256))]
    for bad in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="not finite"):
            quantised(torch.tensor([[bad]]), 127)


@pytest.mark.parametrize("rows", [10**3, 10**6, 10**9])
@pytest.mark.parametrize("weights", [ridge_weights, discriminant_weights])
def test_columns_that_hardly_vary_are_solved_at_any_number_of_rows(rows, weights):
    """As many copies of a table as there are rows: sums are multiplied, and no row has to be there."""
    random = np.random.default_rng(0)
    x = torch.from_numpy(random.integers(-32_767, 32_768, (1000, 12)).astype(np.int16))
    x[:, 0] = 32_767  # constant
    x[:, 1], x[7, 1] = -30_000, -29_999  # but for one row
    x[:, 2] = x[:, 3]  # twice the same
    labels = torch.from_numpy(random.integers(0, 3, 1000))
    y = torch.nn.functional.one_hot(labels, 3)
    once = sums_of(x, y, 32_767)
    many = Sums(*(part * (rows // 1000) for part in (once.gram, once.cross, once.squares)))
    found = weights(many, Fraction(1, 1000))
    assert found[0].tolist() == [0.0, 0.0, 0.0]
    assert torch.equal(found[2], found[3])
    assert bool(found.isfinite().all())
