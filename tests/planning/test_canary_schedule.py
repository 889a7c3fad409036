"""Canaries that are deleted, and where; the cost of a revocation; what canaries do not stand for."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.stats import hypergeom

from hybridmu.planning.canary_schedule import Candidate, affordable, class_excess, even_tail, grid, lacking, without
from hybridmu.types import CalibrationCell
from tests.support import curve

SHARES = (0.01, 0.1)
_COUNTS = st.lists(st.integers(0, 40), min_size=1, max_size=5).map(tuple)
_SHARDS = st.lists(st.tuples(_COUNTS, st.booleans()), max_size=9).map(
    lambda shards: [Candidate(n, counts, ready) for n, (counts, ready) in enumerate(shards)]
)
EIGHT = [Candidate(n, (100,) * 5) for n in range(8)]


def measured(pairs, candidates):
    slices = {c.shard: len(c.counts) for c in candidates}
    return [curve(shard=s, first=cell.first_slice, share=cell.share, slices=slices[s]) for s, cell in pairs]


@given(_SHARDS, st.integers(1, 4))
def test_every_cell_gets_as_many_fit_shards_as_there_are(candidates, per_cell):
    asked = lacking(candidates, (), SHARES, per_cell)
    largest = max((c.rows for c in candidates), default=0)
    assert len(set(asked)) == len(asked)
    by_shard = {c.shard: c for c in candidates}
    for shard, cell in asked:
        found = by_shard[shard]
        assert found.ready
        assert found.rows >= largest / 2
        assert found.counts[cell.first_slice - 1] > 0
    big = [c for c in candidates if c.rows and c.rows >= largest / 2]
    for cell in grid(max((len(c.counts) for c in big), default=1), SHARES):
        able = sum(c.ready and c.rows > 1 and sum(c.counts[cell.first_slice - 1 : cell.first_slice]) > 0 for c in big)
        assert sum(known == cell for _, known in asked) == min(per_cell, able)
    assert lacking(candidates, measured(asked, candidates), SHARES, per_cell) == (), "then nothing lacks"


def test_cells_are_spread_over_shards():
    asked = lacking(EIGHT, (), SHARES, 2)
    assert Counter(shard for shard, _ in asked) == dict.fromkeys(range(8), 1)
    few = lacking(EIGHT[:3], (), SHARES, 2)
    assert set(Counter(shard for shard, _ in few).values()) == {2, 3}


@given(st.integers(0, 7))
def test_a_revoked_canary_costs_one_cell_of_one_shard(lost):
    """And what goes on is measured on a shard that has the fewest canaries, be it the same one."""
    asked = lacking(EIGHT, (), SHARES, 2)
    left = [one for number, one in enumerate(asked) if number != lost]
    assert lacking(EIGHT, measured(left, EIGHT), SHARES, 2) == (asked[lost],)


def test_cells_without_any_curve_come_first():
    asked = lacking(EIGHT, (), SHARES, 2)
    keep = [one for one in asked if one[1].share == 0.1][:1]
    order = [cell for _, cell in lacking(EIGHT, measured(keep, EIGHT), SHARES, 2)]
    assert len(order) == 7
    assert keep[0][1] not in order[:3]
    assert len(set(order[:3])) == 3


def test_a_shard_that_is_not_ready_is_passed_over_but_keeps_what_it_has():
    asked = lacking(EIGHT, (), SHARES, 2)
    busy = [Candidate(c.shard, c.counts, ready=False) for c in EIGHT]
    assert lacking(busy, measured(asked, EIGHT), SHARES, 2) == ()
    assert lacking(busy, measured(asked[1:], EIGHT), SHARES, 2) == ()


def test_a_shard_with_new_slices_is_measured_anew():
    curves = measured(lacking(EIGHT, (), SHARES, 2), EIGHT)
    grown = [Candidate(c.shard, (100,) * (7 if c.shard == 0 else 5)) for c in EIGHT]
    asked = lacking(grown, curves, SHARES, 2)
    assert {cell.first_slice for _, cell in asked} == {1, 4}, "the middle has moved, and shard 0's curve is of the past"
    assert sum(cell.first_slice == 1 for _, cell in asked) == 1


def test_curves_of_revoked_canaries_are_left_out():
    a, b, c = (bytes([n]) * 16 for n in range(3))
    curves = [curve(shard=0, keys=(a, b)), curve(shard=1, keys=(c,)), curve(shard=2)]
    assert without(curves, []) == curves
    assert without(curves, [b]) == curves[1:]
    assert without(curves, [b, c]) == curves[2:]


def test_the_grid_and_the_budget():
    assert grid(1, (0.1,)) == (CalibrationCell(1, 0.1),)
    assert grid(5, SHARES) == tuple(CalibrationCell(first, share) for first in (1, 3) for share in SHARES)
    assert affordable(10.0, 0.0, 0.1)
    assert not affordable(10.0, 1.0, 0.1)
    assert not affordable(10.0, 0.0, 0.0), "never"


# ---------------------------------------------------------------------- classes


def test_a_whole_class_and_half_of_one_stand_out():
    rows = np.array([500, 400, 100])
    assert class_excess(rows, np.array([0, 0, 100])) == 0.9
    assert class_excess(rows, np.array([50, 40, 60])) == 0.6 - 0.15
    assert class_excess(rows, np.array([0, 0, 1])) == 0.0, "one row is chance"
    assert class_excess(np.array([500, 3]), np.array([0, 1])) > 0.3, "but not where the class has three"
    assert class_excess(np.full(10, 50), np.array([3, 1, 1, 0, 0, 0, 0, 0, 0, 0])) == 0.0, "nor are three of five"
    assert class_excess(np.full(10, 50), np.array([5, 0, 0, 0, 0, 0, 0, 0, 0, 0])) == 0.1 - 0.01


@given(st.lists(st.tuples(st.integers(0, 400), st.floats(0, 1)), min_size=1, max_size=6))
def test_the_tail_of_an_even_draw_is_the_hypergeometric_one(classes):
    rows = np.array([count for count, _ in classes])
    revoked = np.array([int(share * count) for count, share in classes])
    assume(rows.sum())
    expected = hypergeom.sf(revoked - 1, rows.sum(), rows, revoked.sum())
    np.testing.assert_allclose(even_tail(rows, revoked), expected, rtol=1e-6, atol=1e-12)


def test_the_more_shards_are_looked_at_the_more_chance_explains():
    rows, gone = np.full(10, 50), np.array([6, 1, 1, 0, 0, 0, 0, 0, 0, 0])
    assert class_excess(rows, gone) > class_excess(rows, gone, shards=1000) == 0.0


@pytest.mark.parametrize("drawn", [5, 25, 50])
def test_even_draws_are_hardly_ever_flagged(drawn):
    random, rows = np.random.default_rng(0), np.full(10, 50)
    found = [class_excess(rows, random.multivariate_hypergeometric(rows, drawn), 8) for _ in range(3000)]
    assert sum(map(bool, found)) <= 2, "one of 700 per deletion, so one of 5600 per shard"


@given(st.lists(st.integers(0, 300), min_size=1, max_size=8), st.floats(0, 1), st.integers(0, 2**32 - 1))
def test_what_is_drawn_evenly_hardly_ever_stands_out(counts, share, seed):
    random = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(counts)), counts)
    drawn = np.bincount(labels[random.permutation(len(labels))[: int(share * len(labels))]], minlength=len(counts))
    found = class_excess(np.array(counts), drawn)
    assert 0 <= found <= 1
    # Three deviations, and a class of few rows has none to speak of.
    assert found == 0 or min(c for c in counts if c) < 30 or found < 0.35


def test_an_emptied_shard_has_no_classes():
    assert class_excess(np.zeros(3, np.int64), np.zeros(3, np.int64)) == 0.0
