"""Naive Bayes on counts: the textbook's probabilities, bins that are public, and counts that add up and come apart."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hybridmu.core.closed_form.naive_bayes import NaiveBayes, bins_of

WIDTHS = st.sampled_from([2, 4, 10, 32, 256])


def rows(count=80, features=3, classes=4, seed=0):
    draw = np.random.default_rng(seed)
    x = torch.from_numpy(draw.uniform(-1.2, 1.2, (count, features)).astype(np.float32))
    return x, torch.from_numpy(draw.integers(0, classes, count))


def fitted(x, y, classes=4, bins=8, smoothing=1.0) -> NaiveBayes:
    model = NaiveBayes(x.shape[1], classes, bins, smoothing)
    model.hold(model.sums(x, y))
    return model


def by_hand(x, y, asked, classes, bins, smoothing):
    """Return the same from the definition, row by row."""
    half = bins // 2

    def bin_of(value: float) -> int:
        number = max(-32_767, min(32_767, round(value * 32_767)))
        root = min(half - 1, math.isqrt(abs(number) * half * half // 32_767))
        return half + root if number >= 0 else half - 1 - root

    found = []
    for row in asked.tolist():
        answers = []
        for k in range(classes):
            own = [other for other, label in zip(x.tolist(), y.tolist(), strict=True) if label == k]
            total = math.log(len(own)) if own else -math.inf
            for at, value in enumerate(row):
                count = sum(bin_of(other[at]) == bin_of(value) for other in own)
                total += math.log((count + smoothing / bins) / (len(own) + smoothing))
            answers.append(total)
        found.append(answers)
    return np.array(found)


@pytest.mark.parametrize(("bins", "smoothing"), [(2, 1.0), (8, 0.5), (32, 3.0)])
def test_it_is_the_textbook_form(bins, smoothing):
    x, y = rows()
    asked, _ = rows(20, seed=9)
    found = fitted(x, y, bins=bins, smoothing=smoothing)(asked)
    np.testing.assert_allclose(found.numpy(), by_hand(x, y, asked, 4, bins, smoothing), rtol=1e-6)


@settings(deadline=None)
@given(WIDTHS, st.integers(1, 5000))
def test_bins_are_in_order_alike_on_both_sides_and_all_there(bins, levels):
    found = bins_of(bins, levels)
    assert bool((found.diff() >= 0).all())
    assert (int(found[0]), int(found[levels]), int(found[-1])) == (0 if levels else bins // 2, bins // 2, bins - 1)
    assert torch.equal(found[levels + 1 :], bins - 1 - found[:levels].flip(0))


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32), st.integers(1, 60), st.data())
def test_what_is_taken_out_was_never_there(seed, count, data):
    x, y = rows(count, seed=seed)
    gone = torch.tensor(data.draw(st.lists(st.booleans(), min_size=count, max_size=count)))
    model = fitted(x, y)
    left = model.held - model.sums(x[gone], y[gone])
    other = fitted(x[~gone], y[~gone])
    assert torch.equal(left.cells, other.cells)
    assert torch.equal(left.classes, other.classes)
    both = left + model.sums(x[gone], y[gone])
    assert torch.equal(both.cells, model.cells)


def test_answers_follow_the_counts_that_are_held_now():
    x, y = rows()
    model, other = fitted(x[:40], y[:40]), fitted(x, y)
    before = model(x)
    model.load_state_dict(other.state_dict())
    assert torch.equal(model(x), other(x))
    assert not torch.equal(model(x), before)
    with torch.inference_mode():
        made = copy.deepcopy(other)
        made.hold(model.held - model.sums(x[:7], y[:7]))
        assert torch.equal(made(x), fitted(x[7:], y[7:])(x))


def test_no_row_and_a_class_without_rows():
    x, y = rows()
    assert torch.equal(NaiveBayes(3, 4, 8, 1.0)(x), torch.zeros(80, 4))
    found = fitted(x[y != 2], y[y != 2])(x)
    assert bool((found[:, 2] == -math.inf).all())
    assert bool(found[:, [0, 1, 3]].isfinite().all())
    assert fitted(x[:, :0], y)(x[:, :0]).shape == (80, 4)


def test_a_row_is_answered_alike_alone_and_among_others():
    x, y = rows(500, features=40)
    model = fitted(x, y, bins=32)
    together = model(x)
    assert all(torch.equal(model(x[at : at + 1])[0], together[at]) for at in range(0, 500, 50))
