"""Fixed-point numbers: equal to Python's fractions, whatever is added, and read as float64 without cancelling."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from hybridmu.core.closed_form.fixed_point import FixedPoint

TERMS = st.lists(st.tuples(st.integers(-(2**62), 2**62), st.integers(-400, 60)), max_size=40)


def near(found: float, exact: Fraction) -> bool:
    return abs(Fraction(found) - exact) <= abs(exact) / 2**50


@given(TERMS, st.integers(1, 20))
@settings(max_examples=200, deadline=None)
def test_sums_are_those_of_fractions(terms, between):
    numbers, exact = FixedPoint((1,)), Fraction(0)
    for count, (value, power) in enumerate(terms):
        numbers.add(np.array([value]), power)
        exact += value * Fraction(2) ** power
        if count % between == 0:
            numbers.carry()
    numbers.carry()
    assert near(float(numbers.floats()[0]), exact)


@given(TERMS)
@settings(max_examples=100, deadline=None)
def test_what_is_taken_away_again_leaves_nothing(terms):
    numbers = FixedPoint((1,))
    for value, power in terms:
        numbers.add(np.array([value]), power)
        numbers.carry()
    for value, power in reversed(terms):
        numbers.add(np.array([-value]), power)
        numbers.carry()
    assert numbers.floats().tolist() == [0.0]


def test_a_small_difference_of_large_numbers_keeps_its_digits():
    numbers = FixedPoint((2,))
    numbers.add(np.array([2**62, -(2**62)]), 60)
    numbers.add(np.array([-(2**62), 2**62]), 60)
    numbers.add(np.array([12345, -12345]), -300)
    numbers.carry()
    assert numbers.floats().tolist() == [12345 * 2.0**-300, -12345 * 2.0**-300]


def test_the_highest_limb_does_not_overflow():
    numbers = FixedPoint((1,))
    for _ in range(200):
        numbers.add(np.array([2**62]), 31)
        numbers.carry()
    assert numbers.floats().tolist() == [200 * 2.0**93]
