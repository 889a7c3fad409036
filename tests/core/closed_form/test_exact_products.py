"""Exact products: equal to Python's integers, also next to the edges of float32, float64 and 62 bits."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hybridmu.core.closed_form.exact_products import ExactMatrix, digits, summed_products


def by_hand(left, right):
    return (np.array(left.tolist(), dtype=object).T @ np.array(right.tolist(), dtype=object)).tolist()


@given(st.integers(1, 40), st.integers(1, 5), st.integers(1, 30), st.integers(1, 30), st.integers(0, 2**32))
@settings(max_examples=60, deadline=None)
def test_products_are_those_of_python(rows, columns, left_bits, right_bits, seed):
    random = np.random.default_rng(seed)
    bounds = 2**left_bits - 1, 2**right_bits - 1
    left, right = (
        torch.from_numpy(random.choice([-bound, bound, int(random.integers(-bound, bound + 1))], (rows, columns)))
        for bound in bounds
    )
    if bounds[0] * bounds[1] > 2**53 or rows * bounds[0] * bounds[1] > 2**62:
        with pytest.raises(OverflowError):
            summed_products(left, right, *bounds)
    else:
        assert summed_products(left, right, *bounds).tolist() == by_hand(left, right)


@pytest.mark.parametrize("levels", [1, 127, 255, 256, 2047, 32767])
@pytest.mark.parametrize("rows", [1, 255, 1024, 1025, 5000])
def test_sums_of_the_largest_features_are_exact(levels, rows):
    """All entries at their bound: a float32 or float64 sum over one row more than a block would round."""
    x = torch.full((rows, 3), levels, dtype=torch.int16)
    x[::2, 1] = -levels
    x[-1, 2] = levels - 1
    assert summed_products(x, x, levels, levels).tolist() == by_hand(x, x)


def test_a_sum_just_below_a_power_of_two_keeps_its_last_bit():
    # 1,040 products of 127² are 2^24 − 2,056; more in one float32 sum would lose odd units.
    x = torch.full((4096, 2), 127, dtype=torch.int16)
    x[1::2, 1] = 126
    expected = 2048 * 127 * 127 + 2048 * 127 * 126
    assert int(summed_products(x, x, 127, 127)[0, 1]) == expected
    wide = torch.full((3, 1), 94_906_265, dtype=torch.int64)  # its square is just below 2^53
    assert int(summed_products(wide, wide, 94_906_265, 94_906_265)) == 3 * 94_906_265**2


def test_what_may_overflow_is_refused_before_with_the_number_that_fits():
    x = torch.full((5, 1), 2**26, dtype=torch.int64)
    assert int(summed_products(x, x, 2**26, 2**26)) == 5 * 2**52
    with pytest.raises(OverflowError, match="53 bits"):
        summed_products(x, x, 2**27, 2**27)
    many = torch.ones(1, 1, dtype=torch.int16).expand(2**20, 1)
    with pytest.raises(OverflowError, match="1,023 fit"):
        summed_products(many, many, 2**26, 2**26 + 2**16)


def test_a_torch_that_may_shorten_float32_products_is_not_believed():
    x = torch.full((700, 2), 127, dtype=torch.int16)
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        assert summed_products(x, x, 127, 127).tolist() == by_hand(x, x)
    finally:
        torch.set_float32_matmul_precision(before)


@given(st.lists(st.integers(-(2**62), 2**62), min_size=1, max_size=20), st.integers(1, 30))
@settings(max_examples=100, deadline=None)
def test_digits_make_up_their_number(values, bits):
    found = digits(torch.tensor(values), bits, max(map(abs, values)))
    assert [
        sum(int(digit[at]) << (bits * place) for place, digit in enumerate(found)) for at in range(len(values))
    ] == (values)
    assert all(float(digit.min()) >= 0 and float(digit.max()) < 2**bits for digit in found[:-1])
    assert float(found[-1].abs().max()) <= 2**bits


@given(st.integers(1, 9), st.integers(1, 4), st.integers(0, 62), st.integers(0, 62), st.integers(0, 2**32))
@settings(max_examples=100, deadline=None)
def test_matrices_of_long_integers(size, columns, bits, factor_bits, seed):
    random = np.random.default_rng(seed)
    a = random.integers(-(2**bits), 2**bits, (size, size), endpoint=True)
    x = random.integers(-(2**factor_bits), 2**factor_bits, (size, columns), endpoint=True)
    expected = np.array(a.tolist(), dtype=object) @ np.array(x.tolist(), dtype=object)
    parts = ExactMatrix(torch.from_numpy(a), 2**bits).times(torch.from_numpy(x))
    assert sum(part.astype(object) * 2**power for part, power in parts).tolist() == expected.tolist()


@pytest.mark.parametrize("bits", [1, 20, 31, 33, 40, 62])
@pytest.mark.parametrize("size", [1, 2, 300, 513])
def test_products_of_the_largest_integers_are_exact(size, bits):
    """All entries at their bound: one more bit of a digit would round somewhere."""
    a = torch.full((size, size), 2**bits - 1, dtype=torch.int64)
    x = torch.full((size, 1), 2**42 - 1, dtype=torch.int64)
    parts = ExactMatrix(a, 2**bits - 1).times(x)
    found = sum(part.astype(object) * 2**power for part, power in parts)
    assert set(found[:, 0]) == {size * (2**bits - 1) * (2**42 - 1)}
