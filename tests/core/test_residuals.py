"""Residuals in aggregates: every row is counted once, and quantiles and hits are those of numpy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hybridmu.core.residuals import grid, residuals


@given(st.integers(1, 60), st.sampled_from([0.0, 1.0, 1e7]), st.integers(0, 2**32))
@settings(max_examples=80, deadline=None)
def test_every_row_is_counted_once(rows, spread, seed):
    random = np.random.default_rng(seed)
    targets = 5 + spread * random.normal(size=rows)
    values = targets + spread * random.normal(size=rows)
    low, high = values - random.random(rows), values + random.random(rows)
    answers = np.stack([values, np.ones(rows), low, high], axis=1)
    counted = grid(answers, targets)
    assert sum(map(sum, counted.counts)) == rows
    assert (np.diff(counted.edges) > 0).all()
    found = residuals(answers, targets)
    assert sum(found.counts) == rows
    assert (np.diff(found.edges) > 0).all()
    assert found.covered == np.mean((low <= targets) & (targets <= high))
    for share, value in found.quantiles.items():
        assert value == pytest.approx(np.quantile(values - targets, float(share)))


def test_a_right_answer_lies_on_the_diagonal():
    targets = np.linspace(0, 1, 100)
    counts = np.array(grid(targets[:, None], targets).counts)
    assert counts.sum() == np.trace(counts) == 100
