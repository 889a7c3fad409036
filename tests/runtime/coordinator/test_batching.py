"""Requests are collected and fulfilled together, but never later than window, batch or deadline allow."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

import hybridmu
from hybridmu.planning.batching import Batching, Waiting, due
from hybridmu.runtime.coordinator.coordinator import Coordinator
from hybridmu.runtime.coordinator.removal_planner import RemovalPlanner
from hybridmu.runtime.workers.executor import LocalExecutor
from hybridmu.types import RequestState
from tests.scenes.small_system import scene

HOUR = 3600.0
ARRIVALS = st.lists(
    st.tuples(st.integers(0, 40), st.integers(1, 6), st.none() | st.integers(1, 60)), min_size=1, max_size=6
)


@given(ARRIVALS, st.integers(0, 30), st.integers(1, 20), st.sampled_from([1.0, 2.0, 3.5]), st.integers(0, 8))
def test_a_group_starts_at_the_first_moment_that_any_limit_allows(arrivals, window, keys, margin, seconds):
    """A clock that ticks once a second starts it at the tick that the three limits, taken one by one, give."""
    policy = Batching(window, keys, margin)

    def ends(request):
        return request[0] + request[2]

    def at(now):
        there = [request for request in arrivals if request[0] <= now]
        return [Waiting(r[1], now - r[0], None if r[2] is None else ends(r) - now) for r in there]

    first = min(arrival for arrival, _, _ in arrivals)
    full = [now for now in range(first, 41) if sum(k for arrival, k, _ in arrivals if arrival <= now) >= keys]
    hurried = [max(r[0], ends(r) - margin * seconds) for r in arrivals if r[2] is not None]
    earliest = min([first + window, *full[:1], *hurried])
    started = next(now for now in range(first, 200) if due(at(now), seconds, policy) is not None)
    assert earliest <= started < earliest + 1
    assert all(due(at(now), seconds, policy) for now in range(started, 120)), "what is due stays due"


def test_it_says_why():
    policy = Batching(60, 5, 2.0)
    assert due([Waiting(1, 60.0, None), Waiting(1, 0.0, None)], 1.0, policy) == "window: waited 60.0 of 60 s"
    assert due([Waiting(2, 1.0, None), Waiting(3, 0.0, None)], 1.0, policy) == "batch: 5 keys are waiting, 5 start one"
    assert (
        due([Waiting(1, 1.0, 9.0), Waiting(1, 0.0, 3.0)], 1.5, policy) == "deadline: 3.0 s left for about 1.5 s of work"
    )
    assert due([Waiting(1, 1.0, 9.0), Waiting(1, 0.0, 3.1)], 1.5, policy) is None
    assert due([Waiting(1, 0.0, None)], 1.5, Batching()) == "window: waited 0.0 of 0 s"


def test_what_came_within_the_window_ends_in_one_version(tmp_path, clock):
    with scene(tmp_path, batch_seconds=HOUR) as it:
        collected = [it.forget(row) for row in it.rows[0][:3]]
        wide = it.forget(it.rows[0][3], it.rows[1][0])  # hangs the two shards together
        other = it.forget(it.rows[1][1])
        it.step(5)
        assert {it.state(r) for r in (*collected, wide, other)} == {RequestState.RECEIVED}
        clock(HOUR - 60)
        it.step(3)
        late = it.forget(it.rows[2][0])  # a group of its own, whose window begins now
        cancelled = it.forget(it.rows[0][4])
        it.step(2)
        it.system.cancel(cancelled)
        clock(61)
        it.step(5)
        reports = [it.system.report(r) for r in (*collected, wide, other)]
        assert {report["version_after"] for report in reports} == {2}
        assert len({row["round"] for report in reports for row in report["shards"]}) == 1
        assert (it.state(late), it.state(cancelled)) == (RequestState.RECEIVED, RequestState.CANCELLED)
        clock(HOUR)
        it.step(2)
        assert it.system.report(late)["version_after"] == 3
        it.assert_exact_without([*it.rows[0][:4], *it.rows[1][:2], it.rows[2][0]])


def test_a_deadline_starts_the_batch_earlier(tmp_path):
    with scene(tmp_path, batch_seconds=HOUR, deadline_margin=1e6) as it:
        first = it.forget(it.rows[0][0])
        it.step(2)
        hurried = it.forget(it.rows[0][1], deadline_seconds=30)
        elsewhere = it.forget(it.rows[1][0])
        it.step(2)
        assert [it.system.report(r)["version_after"] for r in (first, hurried)] == [2, 2]
        assert it.state(elsewhere) is RequestState.RECEIVED


def test_a_deadline_that_is_far_does_not(tmp_path):
    with scene(tmp_path, batch_seconds=HOUR) as it:
        request = it.forget(it.rows[0][0], deadline_seconds=1000)
        it.step(2)
        assert it.state(request) is RequestState.RECEIVED


def test_a_full_batch_starts_earlier(tmp_path):
    with scene(tmp_path, batch_seconds=HOUR, batch_keys=4) as it:
        first, second = it.forget(*it.rows[0][:2]), it.forget(it.rows[0][2])
        it.forget(*it.rows[1][:3])  # of another group: not counted together
        it.step(3)
        assert it.state(first) is RequestState.RECEIVED
        last = it.forget(it.rows[0][3])
        it.step(2)
        assert [it.system.report(r)["version_after"] for r in (first, second, last)] == [2, 2, 2]


def test_what_was_begun_is_not_collected_again_after_a_restart(tmp_path, monkeypatch):
    with scene(tmp_path, batch_seconds=HOUR, batch_keys=2) as it:
        request = it.forget(*it.rows[0][:2])
        monkeypatch.setattr(LocalExecutor, "poll", lambda *_: [])
        it.step()
        assert it.state(request) is RequestState.PLANNED
        monkeypatch.undo()
        it.system.close()
        monkeypatch.setitem(it.config["policy"], "batch_keys", 100)
        with hybridmu.connect(it.config, executor="local") as system:
            assert system.wait(request).state in {RequestState.SERVED, RequestState.PURGED}


def test_a_clock_that_is_set_back_does_not_lengthen_the_window(tmp_path, clock, own_clock):
    with scene(tmp_path, batch_seconds=HOUR) as it:
        request = it.forget(it.rows[0][0])
        it.step()
        clock(-HOUR)
        it.step()
        assert it.state(request) is RequestState.RECEIVED
        own_clock(HOUR)
        it.step(2)
        assert it.system.report(request)["version_after"] == 2


def test_waiting_without_a_deadline_costs_no_plan(tmp_path, monkeypatch):
    with scene(tmp_path, batch_seconds=HOUR) as it:
        it.forget(it.rows[0][0])
        monkeypatch.setattr(RemovalPlanner, "plan", lambda *_: pytest.fail("planned for nothing"))
        it.step(3)


@pytest.mark.parametrize("moment", ["plan", "mark_planned"])
@pytest.mark.sampled
def test_cancelled_while_the_coordinator_looks_at_it(tmp_path, monkeypatch, moment):
    with scene(tmp_path) as it:
        gone, stays = it.forget(it.rows[0][0]), it.forget(it.rows[0][1])
        coordinator: Coordinator = it.coordinator
        owner = coordinator._planner if moment == "plan" else coordinator.database.progress
        real = getattr(owner, moment)

        def meanwhile(*arguments):
            it.system.cancel(gone)
            return real(*arguments)

        monkeypatch.setattr(owner, moment, meanwhile)
        it.step()
        assert (it.state(gone), it.state(stays)) == (RequestState.CANCELLED, RequestState.RECEIVED)
        it.step(2)
        assert it.state(gone) is RequestState.CANCELLED
        assert it.system.report(gone)["shards"] == []
        assert it.system.report(stays)["version_after"] == 2
        it.assert_exact_without([it.rows[0][1]])
