"""Linear discriminant analysis: its textbook form, correctly rounded, and with classes that lose all rows."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hybridmu.core.closed_form.discriminant import discriminant_system, discriminant_weights, log_odds
from hybridmu.core.closed_form.sums import Sums, sums_of
from tests.reference_sums import nearest, rational

LEVELS = 1000


def table(rows=300, features=4, classes=3, seed=0):
    random = np.random.default_rng(seed)
    labels = random.integers(0, classes, rows)
    centres = random.normal(size=(classes, features))
    x = 150 * centres[labels] + random.normal(size=(rows, features)) * 100
    x = torch.from_numpy(np.clip(np.rint(x), -LEVELS, LEVELS).astype(np.int16))
    return x, torch.from_numpy(labels)


def sums(x, labels, classes=3) -> Sums:
    return sums_of(x, torch.nn.functional.one_hot(labels, classes), LEVELS)


def answers(found: Sums, x, penalty=Fraction(1, 10**9)):
    counts = found.cross[-1]
    means = found.cross[:-1].double() / counts.clamp(min=1)
    return log_odds(x.double(), discriminant_weights(found, penalty), means, counts)


def by_the_book(x, labels, classes=3):
    """Return log p(φ | class) + log p(class) of Gaussians with one covariance, estimated as usual."""
    wide, y = x.double().numpy(), labels.numpy()
    means = np.stack([wide[y == k].mean(axis=0) for k in range(classes)])
    inner = wide - means[y]
    covariance = inner.T @ inner / (len(y) - classes)
    far = wide[:, None] - means[None]
    squares = np.einsum("nki,ij,nkj->nk", far, np.linalg.inv(covariance), far)
    return -squares / 2 + np.log(np.bincount(y, minlength=classes) / len(y))


@pytest.mark.parametrize("offset", [0, 900])
def test_it_is_the_textbook_form(offset):
    x, labels = table()
    x = x // 10 + offset  # far from 0 beside what tells rows apart
    found, expected = answers(sums(x, labels), x).numpy(), by_the_book(x, labels)
    np.testing.assert_allclose(found - found[:, :1], expected - expected[:, :1], atol=2e-3)


def test_the_weights_are_correctly_rounded():
    x, labels = table(rows=40, features=3)
    found = sums(x, labels)
    system = discriminant_system(found, Fraction(1, 50))
    exact = rational(system.a.tolist(), system.c.tolist())[:3]
    assert discriminant_weights(found, Fraction(1, 50)).tolist() == [[nearest(value) for value in row] for row in exact]


@given(st.lists(st.integers(0, 299), unique=True, max_size=290))
@settings(max_examples=25, deadline=None)
def test_subtraction_gives_the_weights_of_a_recount(gone):
    x, labels = table()
    left = np.setdiff1d(np.arange(300), gone)
    less = sums(x, labels) - sums(x[gone], labels[gone])
    one, two = (discriminant_weights(each, Fraction(1, 100)) for each in (less, sums(x[left], labels[left])))
    assert torch.equal(one.view(torch.int32), two.view(torch.int32))


@given(st.integers(1, 30), st.integers(1, 4), st.integers(2, 5), st.integers(1, 10**6), st.integers(0, 2**32))
@settings(max_examples=60, deadline=None)
def test_the_bound_of_eigenvalues_is_below_them(rows, features, classes, penalty, seed):
    random = np.random.default_rng(seed)
    x = torch.from_numpy(random.integers(-LEVELS, LEVELS + 1, (rows, features)).astype(np.int16))
    labels = torch.from_numpy(random.integers(0, classes, rows))
    system = discriminant_system(sums(x, labels, classes), Fraction(1, penalty))
    smallest = np.linalg.eigvalsh(system.a.double().numpy())[0]
    assert 0 < float(system.least) <= smallest + 1e-12 * float(system.a.abs().max())


def test_a_class_whose_rows_are_all_gone_is_never_answered():
    x, labels = table()
    kept = labels != 1
    found = answers(sums(x[kept], labels[kept]), x)
    assert bool((found[:, 1] == -torch.inf).all())
    two = by_the_book(x[kept], labels[kept] // 2, 2)
    made = found[kept][:, [0, 2]].numpy()
    np.testing.assert_allclose(made - made[:, :1], two - two[:, :1], atol=2e-3)


def test_columns_that_tell_nothing_have_no_weight():
    x, labels = table()
    x[:, 2] = 777
    weights = discriminant_weights(sums(x, labels), Fraction(1, 1000))
    assert weights[2].tolist() == [0.0, 0.0, 0.0]
    one = discriminant_weights(sums(x[:1], labels[:1]), Fraction(1))
    assert not bool(one.any())
