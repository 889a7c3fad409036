"""Canaries are called needless only where no measurement of theirs could change a decision."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from hybridmu.core.strategies import calibrated
from hybridmu.planning.calibration_worth import needless
from hybridmu.planning.cost import Coefficients, CostModel
from hybridmu.planning.planner import Policy, Pools, make_plan
from hybridmu.types import Calibration, CalibrationBucket, CalibrationCell, ShardStats

SLICES = 4
EPOCHS = (4,) * SLICES
COUNTS = (250,) * SLICES
CELL = CalibrationCell(1, 0.1)


def costs(retrain: float, update: float) -> CostModel:
    """Return a model of seconds per visit."""
    every = {name: Coefficients(update, 0.0) for name in calibrated()}
    return CostModel({"retrain": Coefficients(retrain, 0.0), **every})


def test_a_light_retrain_and_a_fast_one_need_none():
    assert "light" in needless(COUNTS, EPOCHS, CELL, costs(1e-5, 1e-9), Policy(light_seconds=1.0))
    assert "times the update" in needless(COUNTS, EPOCHS, CELL, costs(1e-3, 10.0), Policy())
    assert needless(COUNTS, EPOCHS, CELL, costs(1.0, 1e-6), Policy(light_seconds=1.0)) is None


def test_a_later_slice_may_need_none_where_the_first_does():
    policy = Policy(light_seconds=6.0)
    first, last = (needless(COUNTS, EPOCHS, CalibrationCell(at, 0.01), costs(1e-3, 1e-9), policy) for at in (1, 4))
    assert first is None
    assert "light" in last


@given(
    retrain=st.floats(1e-6, 1.0),
    update=st.floats(1e-6, 1.0),
    light=st.floats(0, 100.0),
    threshold=st.floats(0, 1),
    error=st.floats(0, 10),
    budget=st.floats(0, 10),
    first=st.integers(1, SLICES),
    share=st.sampled_from([0.001, 0.01, 0.1, 0.5]),
    gone=st.lists(st.integers(0, 200), min_size=SLICES, max_size=SLICES),
)
@settings(max_examples=200, deadline=None)
def test_whatever_canaries_would_say_a_needless_cell_is_retrained(
    retrain, update, light, threshold, error, budget, first, share, gone
):
    cell, model = CalibrationCell(first, share), costs(retrain, update)
    policy = Policy(light_seconds=light, workload_threshold=threshold, quality_budget=budget)
    if needless(COUNTS, EPOCHS, cell, model, policy) is None:
        return
    rows = tuple(max(n, at == first) if at >= first else 0 for at, n in enumerate(gone, start=1))
    stats = ShardStats(0, EPOCHS, COUNTS, rows, rows, (True,) * SLICES)
    known = Calibration(
        tuple(CalibrationBucket(name, first, share, 0.5, error, 0.0, canaries=10) for name in calibrated())
    )
    [plan] = make_plan([stats], model, policy, Pools(1, 1), known).shards
    assert plan.strategy == "retrain"
