"""Figures that are no numbers, or below zero: never written, passed over where an old release wrote them, retrained."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybridmu.core.calibration.fit import estimate, fit, usable
from hybridmu.planning import cost
from hybridmu.planning.planner import Policy, Pools, make_plan
from hybridmu.store.ledger import tables as t
from hybridmu.store.ledger.measurements import Measurements, record_costs
from hybridmu.types import ALPHAS, Calibration, CanaryControls, CostObservation, ShardOutcome
from tests.support import curve, rows_of, touched_at

BAD = [math.nan, math.inf, -math.inf]
ANY = st.floats(allow_nan=True, allow_infinity=True)


def outcome(seconds: float) -> ShardOutcome:
    made = {"job_id": "j", "shard": 0, "strategy": "retrain", "blob": None, "exact": True, "upto": 0, "live": 1}
    return ShardOutcome(**made, first_slice=1, visits=10, seconds=seconds, slices=())


def spoiled(value: float):
    """Every place of a curve, holding a value."""
    row = (0.0,) * (len(ALPHAS) - 1)
    yield curve(gaps=(*row, value))
    yield curve(deviations=(value, *row))
    yield curve(accuracy_changes=(*row[:3], value, *row[3:]))
    yield curve(seconds=value)
    yield curve(share=value)
    yield curve(controls=CanaryControls(0.1, value, 0.1))


@pytest.mark.parametrize("value", BAD)
@pytest.mark.sampled
def test_a_curve_that_holds_no_number_is_as_if_not_measured(value, engine, lease):
    token, kept = lease.acquire("me", 60), Measurements(engine)
    good = curve(shard=9)
    kept.add_curves(token, [*spoiled(value), good], spent=value)
    assert kept.curves() == [replace(good, keys=())]
    assert kept.effort()[1] == 0.0
    assert all(math.isfinite(bucket.error) for bucket in kept.calibration().buckets)


@pytest.mark.parametrize("bad", [curve(canaries=0), curve(gaps=(0.0,)), curve(seconds=-1.0), curve(share=0.0)])
def test_neither_is_one_without_rows_steps_or_time(bad):
    assert not usable(bad)
    assert usable(curve())


@pytest.mark.parametrize(
    "text", ["null", "[]", "{", '{"dpus": 3}', '{"dpus": [[NaN], [NaN], [NaN]]}', '{"fast": [[], [], []]}']
)
def test_what_an_old_release_wrote_is_passed_over(text, engine, lease):
    token, kept = lease.acquire("me", 60), Measurements(engine)
    kept.add_curves(token, [curve(shard=0), curve(shard=1)])
    with engine.begin() as connection:
        connection.execute(t.curves.update().where(t.curves.c.shard == 0).values(updates=text))
    assert [one.shard for one in kept.curves()] == [1]


@given(st.lists(st.tuples(ANY, st.integers(0, 10**9), st.integers(0, 100), st.integers(0, 10**6)), max_size=12))
def test_no_time_spoils_the_cost_model(found):
    model = cost.fit(
        CostObservation("retrain", visits, points, seconds, rows) for seconds, visits, points, rows in found
    )
    guess = model.estimate("retrain", 1000, 3)
    assert math.isfinite(guess.seconds)
    assert guess.seconds >= 0


@pytest.mark.parametrize("seconds", [*BAD, 0.0, -3.0])
def test_a_time_that_is_none_teaches_nothing(seconds, engine):
    kept = Measurements(engine)
    with engine.begin() as connection:
        record_costs(connection, [outcome(seconds), outcome(2.0)])
    assert [one.seconds for one in kept.costs()] == [2.0]
    assert len(rows_of(engine, t.costs)) == 1
    assert kept.effort() == (2.0, 0.0)


@given(st.lists(st.floats(-1e300, 1e300), min_size=8, max_size=8), st.sampled_from([0.01, 0.3]))
def test_an_error_beyond_every_number_counts_as_unknown(gaps, share):
    with np.errstate(over="ignore", invalid="ignore"):
        found = estimate(fit([curve("dpus", gaps=tuple(gaps))]), "dpus", 1, share, 5)
        plan = make_plan(
            [touched_at(1)], cost.CostModel(), Policy(), Pools(1, 1), fit([curve("dpus", gaps=tuple(gaps))]), "dpus"
        )
    assert found is None or math.isfinite(found.error + found.spread)
    assert math.isfinite(plan.shards[0].predicted_error)
    assert math.isfinite(plan.shards[0].alpha)
    json.dumps(plan.shards[0].predicted_error, allow_nan=False)


def test_without_anything_known_a_plan_retrains():
    (shard,) = make_plan([touched_at(1)], cost.CostModel(), Policy(), Pools(1, 1), Calibration()).shards
    assert shard.strategy == "retrain"
