"""Drawn numbers: the same on any machine, apart for every row, spread evenly."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hybridmu.task import Draws

N = 20_000


def splitmix(word: int, call: int) -> int:
    """Return the call-th output of splitmix64 from a state, in whole numbers of any size."""
    z = (word + call * 0x9E3779B97F4A7C15) % 2**64
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
    return z ^ (z >> 31)


def draws(n: int = N) -> Draws:
    return Draws(np.arange(n, dtype=np.uint64))


def test_these_very_numbers():
    words = [0, 1, 0x0123456789ABCDEF, 2**64 - 1]
    found = Draws(np.array(words, np.uint64))
    assert found.below(1000).tolist() == [splitmix(word, 1) // 2**32 * 1000 // 2**32 for word in words]
    assert found.uniform().tolist() == [splitmix(word, 2) // 2**40 / 2**24 for word in words]
    assert splitmix(1234567, 1) == 6457827717110365317, "of the reference implementation"


@pytest.mark.parametrize("bound", [1, 2, 9, 1000])
def test_whole_numbers_are_spread_evenly(bound):
    found = draws().below(bound)
    assert found.dtype == torch.int64
    counts = torch.bincount(found, minlength=bound)
    assert len(counts) == bound
    expected = N / bound
    assert float((counts - expected).square().sum() / expected) < bound + 6 * (2 * bound) ** 0.5


def test_fractions_are_spread_evenly_and_below_one():
    found = draws().uniform()
    assert found.dtype == torch.float32
    assert float(found.min()) >= 0
    assert float(found.max()) < 1
    assert float(found.mean()) == pytest.approx(0.5, abs=0.01)
    assert torch.equal(found * 2**24, (found * 2**24).round())


def test_a_row_draws_the_same_alone():
    both, alone = draws(2), Draws(np.array([1], np.uint64))
    for _ in range(3):
        assert both.below(10**6)[1] == alone.below(10**6)[0]
        assert both.uniform()[1] == alone.uniform()[0]


def test_calls_are_independent():
    found = draws()
    first, second = found.uniform(), found.uniform()
    assert abs(float(torch.corrcoef(torch.stack([first, second]))[0, 1])) < 0.03
