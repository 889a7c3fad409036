"""Ridge regression of a number: correctly rounded, in the target's own unit, and exact under subtraction."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LinearRegression

from hybridmu.core.closed_form.linear_models import RidgeRegressor
from tests.reference_sums import nearest, rational

LEVELS = 1000
STEPS = RidgeRegressor.target_levels


def table(rows=200, features=3, seed=0):
    random = np.random.default_rng(seed)
    x = random.uniform(-1, 1, (rows, features)).astype(np.float32)
    y = (x @ np.arange(1, features + 1) * 40 + 300 + random.normal(size=rows)).astype(np.float32)
    return torch.from_numpy(x), torch.from_numpy(y)


def fitted(x, y, scale=1 / 512, penalty=Fraction(1, 10**6)):
    made = RidgeRegressor(x.shape[1], 1, LEVELS, penalty, scale=scale)
    made.hold(made.sums(x, y))
    return made


def test_it_answers_as_least_squares_do_in_the_unit_of_the_target():
    x, y = table()
    found = fitted(x, y, scale=1 / 1024)(x)
    expected = LinearRegression().fit(x.numpy(), y.numpy()).predict(x.numpy())
    np.testing.assert_allclose(found[:, 0].numpy(), expected, atol=0.5)  # features are steps of 1/1000
    np.testing.assert_allclose(found[:, 1].numpy(), y.double().std(correction=0), rtol=1e-4)


def test_the_weights_are_correctly_rounded():
    x, y = table(rows=30)
    penalty = Fraction(1, 50)
    found = fitted(x, y, penalty=penalty).weights.numpy()
    phi = [[round(Fraction(float(value)) * LEVELS) for value in row] + [1] for row in x.numpy()]
    t = [round(Fraction(float(value)) / 512 * STEPS) for value in y.numpy()]
    size, rows = 4, len(phi)
    gram = [[sum(row[i] * row[j] for row in phi) for j in range(size)] for i in range(size)]
    for i in range(size - 1):
        spread = penalty * (gram[i][i] - Fraction(gram[i][-1] ** 2, rows))
        gram[i][i] += max(1, spread.numerator // spread.denominator, gram[i][i] >> 36)
    right = [[sum(row[i] * target for row, target in zip(phi, t, strict=True))] for i in range(size)]
    expected = np.array([[nearest(value) for value in row] for row in rational(gram, right)], np.float32)
    assert found.tobytes() == expected.tobytes()


@given(seed=st.integers(0, 2**31), gone=st.integers(0, 40), scale=st.sampled_from([1 / 512, 1.0, 2.0**-20]))
def test_subtraction_is_a_recount(seed, gone, scale):
    x, y = table(rows=40, seed=seed)
    away = np.random.default_rng(seed).permutation(40)[:gone]
    left = np.setdiff1d(np.arange(40), away)
    made = fitted(x, y, scale)
    made.hold(made.held - made.sums(x[away], y[away]))
    recount = fitted(x[left], y[left], scale)
    for name, value in recount.state_dict().items():
        assert torch.equal(made.state_dict()[name], value), name


def test_targets_beyond_the_scale_count_as_its_ends():
    made = RidgeRegressor(1, 1, LEVELS, Fraction(1, 10), scale=0.5)
    steps = made.targets(torch.tensor([0.0, 1.0, -2.0, 2.5, -1e30, 3e38]))
    assert steps.tolist() == [[0], [STEPS // 2], [-STEPS], [STEPS], [-STEPS], [STEPS]]


@pytest.mark.parametrize("rows", [0, 1, 2])
def test_few_rows_and_alike_targets_have_a_unit(rows):
    x, _ = table(rows=max(rows, 1))
    y = torch.full((rows,), 7.0)
    made = fitted(x[:rows], y)
    found = made(x)
    assert (found[:, 1] == 1).all()
    assert torch.allclose(found[:, 0], torch.full_like(found[:, 0], 7.0 if rows else 0.0), atol=1e-3)


def test_so_many_rows_that_squares_leave_62_bits_are_refused_with_how_many_fit():
    x, y = table(rows=2)

    class Many(RidgeRegressor):
        target_levels = 2**31

    with pytest.raises(OverflowError, match=r"fit"):
        Many(3, 1, LEVELS, Fraction(1, 10)).sums(x, y)
