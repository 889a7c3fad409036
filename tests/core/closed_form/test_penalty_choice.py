"""A penalty chosen from sums: the score of the textbook, in intervals that hold it, decided exactly."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hybridmu.core.closed_form import penalty_choice
from hybridmu.core.closed_form.penalty_choice import GRID, Interval, _Score, chosen_penalty
from hybridmu.core.closed_form.ridge import penalties_of
from hybridmu.core.closed_form.sums import Sums, sums_of
from tests.reference_sums import rational

LEVELS = 127


def sums(rows: int, features: int, seed: int, noise: float = 30) -> Sums:
    draw = np.random.default_rng(seed)
    x = np.clip(np.rint(draw.normal(size=(rows, features)) * 40), -LEVELS, LEVELS).astype(np.int16)
    outcome = (x[:, : features // 2 + 1].sum(axis=1) + noise * draw.normal(size=rows) > 0).astype(np.int64)
    return sums_of(torch.from_numpy(x), torch.nn.functional.one_hot(torch.from_numpy(outcome), 2), LEVELS)


def exact_score(found: Sums, penalty: Fraction) -> Fraction:
    """Return RSS / (n − d)² by rational arithmetic."""
    gram, cross = found.gram.tolist(), found.cross.tolist()
    size = len(gram)
    extra = [*penalties_of(found, penalty), 0]
    a = [[gram[i][j] + (extra[i] if i == j else 0) for j in range(size)] for i in range(size)]
    weights = rational(a, cross)
    inverse = rational(a, [[int(i == j) for j in range(size)] for i in range(size)])
    columns = range(len(cross[0]))
    residual = Fraction(int(found.squares.sum()))
    for k in columns:
        column = [row[k] for row in weights]
        residual -= 2 * sum((w * row[k] for w, row in zip(column, cross, strict=True)), Fraction(0))
        residual += sum(column[i] * gram[i][j] * column[j] for i in range(size) for j in range(size))
    degrees = sum(inverse[i][j] * gram[j][i] for i in range(size) for j in range(size))
    return residual / (found.rows - degrees) ** 2


@settings(deadline=None, max_examples=12)
@given(st.integers(3, 30), st.integers(1, 4), st.integers(0, 2**32))
def test_intervals_hold_the_score_and_narrow(rows, features, seed):
    found = sums(rows, features, seed)
    for penalty in (GRID[0], GRID[-1]):
        exact, score = exact_score(found, penalty), _Score(found, penalty)
        first = score.interval
        assert first.low <= exact <= first.high
        score.refine()
        score.refine()
        assert score.interval.low <= exact <= score.interval.high
        assert score.interval.high - score.interval.low <= first.high - first.low


@settings(deadline=None, max_examples=12)
@given(st.integers(3, 30), st.integers(1, 4), st.integers(0, 2**32))
def test_the_choice_is_the_defined_one(rows, features, seed):
    found = sums(rows, features, seed)
    scores = [exact_score(found, penalty) for penalty in GRID]
    bound = min(scores) * Fraction(1025, 1024)
    assert chosen_penalty(found) == next(penalty for penalty, score in zip(GRID, scores, strict=True) if score <= bound)


def test_noise_wants_a_larger_penalty():
    assert chosen_penalty(sums(60, 30, 0, noise=400)) > chosen_penalty(sums(600, 4, 0, noise=0))


def test_exact_arithmetic_decides_where_float64_does_not(monkeypatch):
    found = sums(200, 12, 5)
    expected = chosen_penalty(found)
    monkeypatch.setattr(penalty_choice, "_left_free", lambda *_: Interval(Fraction(0), Fraction(10**9)))
    assert chosen_penalty(found) == expected
    monkeypatch.setattr(penalty_choice, "_left_free", lambda *_: None)
    assert chosen_penalty(found) == expected


@pytest.mark.parametrize("threads", [1, 2])
def test_columns_that_repeat_leave_a_choice(threads):
    draw = np.random.default_rng(0)
    x = torch.from_numpy(np.repeat(draw.integers(-9, 10, (50, 3)), 5, axis=1).astype(np.int16))
    y = torch.nn.functional.one_hot((x[:, 0] > 0).long(), 2)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        assert chosen_penalty(sums_of(x, y, LEVELS)) == chosen_penalty(sums_of(x.flip(0), y.flip(0), LEVELS))
    finally:
        torch.set_num_threads(before)


def test_few_rows_and_targets_that_are_alike():
    x = torch.tensor([[3, 4]], dtype=torch.int16)
    assert chosen_penalty(sums_of(x, torch.tensor([[1, 0]]), LEVELS)) == GRID[0]
    many = torch.arange(20, dtype=torch.int16)[:, None]
    assert chosen_penalty(sums_of(many, torch.ones(20, 1, dtype=torch.int64), LEVELS)) == GRID[0]
