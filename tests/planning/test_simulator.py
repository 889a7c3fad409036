"""The simulated cluster: laws that any right one obeys, decided by the real planner."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hybridmu.planning.arrivals import Arrival
from hybridmu.planning.cost import Coefficients, CostModel
from hybridmu.planning.planner import Policy, Pools
from hybridmu.planning.simulator import Known, Overheads, Shape, poisson, simulate
from hybridmu.planning.sizing import enough, sizes
from hybridmu.types import Calibration, CalibrationBucket

FREE = Overheads(0.0, 0.0, 0.0, 0.0)
# One second per hundred visits, nothing else, and no spread.
COST = CostModel({name: Coefficients(0.01, 0.0, 0.0, 9) for name in ("retrain", "dpus")})
POLICY = Policy(approximate=("dpus",), light_seconds=0.0)


def shape(shards: int = 4, slices: int = 2, rows: int = 10, epochs: int = 1) -> Shape:
    return Shape(((rows,) * slices,) * shards, ((epochs,) * slices,) * shards)


def run(arrivals, workers=1, of=None, **options):
    strategy = options.pop("strategy", "retrain")
    known = Known(of or shape(), COST, POLICY, **{"overheads": FREE, **options})
    return simulate(known, arrivals, Pools(workers, 1), strategy)


def test_one_request_takes_what_the_planner_says():
    # The row lies in slice 2: one epoch over 19 rows is trained, 0.19 s.
    (found,) = run([Arrival(5.0, {(1, 2): 1})]).requests
    assert (found.at, found.served, found.exact) == (5.0, pytest.approx(5.19), pytest.approx(5.19))
    # The first slice: 9 rows, then 19.
    (found,) = run([Arrival(0.0, {(1, 1): 1})]).requests
    assert found.exact == pytest.approx(0.28)


def test_more_workers_shorten_what_is_wide_and_nothing_else():
    wide = [Arrival(0.0, {(shard, 2): 1 for shard in range(4)})]
    assert [run(wide, workers).makespan for workers in (1, 2, 3, 4, 8)] == pytest.approx([0.76, 0.38, 0.38, 0.19, 0.19])
    narrow = [Arrival(0.0, {(0, 2): 1})]
    assert run(narrow, 1).makespan == run(narrow, 8).makespan


def test_requests_of_one_shard_wait_and_are_fulfilled_together():
    asked = [Arrival(0.0, {(0, 1): 1}), Arrival(0.01, {(0, 1): 1}), Arrival(0.02, {(0, 2): 1})]
    found = run(asked, workers=4)
    first, second, third = found.requests
    assert first.exact == pytest.approx(0.28)
    assert second.exact == third.exact == pytest.approx(0.28 + 0.08 + 0.17)  # one retrain for both
    assert found.jobs == {"retrain": 2}
    assert found.busy_seconds == pytest.approx(found.ended)


def test_overheads_are_added_once_per_round():
    over = Overheads(start=1.0, job=0.5, publish=0.25, serve=0.125)
    (found,) = run([Arrival(0.0, {(0, 2): 1})], overheads=over).requests
    assert found.served == found.exact == pytest.approx(1.0 + 0.19 + 0.5 + 0.25 + 0.125)


def test_an_update_serves_early_and_owes_an_exact_repair():
    known = Calibration((CalibrationBucket("dpus", 1, 0.1, 0.5, 0.01, 0.0),))
    (found,) = run([Arrival(0.0, {(0, 1): 1})], strategy="auto", calibration=known).requests
    outcome = run([Arrival(0.0, {(0, 1): 1})], strategy="auto", calibration=known)
    assert outcome.jobs == {"dpus": 1, "retrain": 1}
    assert found.served < found.exact
    assert found.exact - found.served == pytest.approx(0.28)


REQUESTS = st.lists(
    st.tuples(
        st.floats(0, 3), st.dictionaries(st.tuples(st.integers(0, 3), st.integers(1, 2)), st.just(1), min_size=1)
    ),
    min_size=1,
    max_size=8,
)


@settings(deadline=None)
@given(REQUESTS, st.integers(1, 5))
def test_every_request_ends_and_no_device_works_twice_at_once(asked, workers):
    arrivals = [Arrival(at, rows) for at, rows in sorted(asked, key=lambda each: each[0])]
    found = run(arrivals, workers)
    assert len(found.requests) == len(arrivals)
    for request, arrival in zip(found.requests, arrivals, strict=True):
        assert request.at == arrival.at <= request.served
        assert request.served == request.exact
    assert found.busy_seconds <= workers * (found.ended - arrivals[0].at) + 1e-9
    # As one device that works through all requests at once could do at best.
    touched = {shard for each in arrivals for shard, _ in each.rows}
    assert sum(found.jobs.values()) >= len(touched)
    assert run(arrivals, workers) == found, "deterministic"


def test_the_size_that_is_enough():
    of = shape(shards=8, slices=2, rows=50, epochs=4)
    load = poisson(of, per_day=200_000, days=0.005, rows=1, seed=1)
    assert 800 < len(load) < 1200
    found = sizes(Known(of, COST, POLICY, overheads=FREE), load, 0.005, 30.0, 1, "retrain")
    assert [size.workers for size in found] == [1, 2, 4, 8]
    assert [size.exact_p95 for size in found] == sorted((size.exact_p95 for size in found), reverse=True)
    assert 0.7 < found[0].utilisation < 1
    chosen = enough(found)
    assert chosen is not None
    assert all(size.late for size in found if size.workers < chosen.workers)
    assert enough([replace(size, late=1) for size in found]) is None


def test_a_poisson_load_is_even_and_repeats():
    of = Shape(((10, 0), (30, 20)), ((1, 0), (1, 1)))
    load = poisson(of, per_day=1000, days=2, rows=5, seed=3)
    assert load == poisson(of, per_day=1000, days=2, rows=5, seed=3)
    assert load != poisson(of, per_day=1000, days=2, rows=5, seed=4)
    assert all(sum(each.rows.values()) == 5 for each in load)
    total = {place: sum(each.rows.get(place, 0) for each in load) for place in ((0, 1), (0, 2), (1, 1), (1, 2))}
    assert total[0, 2] == 0
    assert total[1, 1] / total[0, 1] == pytest.approx(3, rel=0.15)
    assert load == sorted(load, key=lambda each: each.at)
    assert max(each.at for each in load) < 2 * 86_400
