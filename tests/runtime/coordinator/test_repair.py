"""Approximate now, exact later: the exact repair comes by itself, in time, and bit for bit."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

import hybridmu
from hybridmu.core.calibration.fit import fit
from hybridmu.errors import StorageError
from hybridmu.planning.repair import Debt, repair_due
from hybridmu.runtime.coordinator import leadership, retry_times
from hybridmu.runtime.coordinator.removal_planner import RemovalPlanner
from hybridmu.runtime.workers.shard_worker import ShardWorker
from hybridmu.store.dataset.key_lookup import Lookup
from hybridmu.types import RequestState
from tests.scenes.small_system import Scene, scene
from tests.support import curve

DAY = 86_400.0


def approximate(it: Scene, *ids: int, **options) -> str:
    """Return a request that an update fulfilled; its repair did not begin."""
    request = it.forget(*ids, strategy="dpus", **options)
    it.system.wait(request)
    report = it.system.report(request)
    assert {row["strategy"] for row in report["shards"]} == {"dpus"}
    return request


# ---------------------------------------------------------------------- the decision

debts = st.builds(Debt, st.just(0), st.floats(0, 1), st.none() | st.floats(-10, 100), st.floats(0, 50))


@given(debts, st.sampled_from(["idle", "deadline"]), st.booleans(), st.floats(0, 1), st.floats(1, 5))
def test_a_repair_waits_only_while_nothing_asks_for_it(debt, when, idle, budget, margin):
    late = debt.slack is not None and debt.slack <= margin * debt.estimated_seconds
    asked = late or debt.error_spent > budget or (idle and when == "idle")
    assert (repair_due(debt, when, idle, budget, margin) is not None) == asked
    if debt.slack is not None:
        worse = replace(debt, slack=debt.slack - 1, error_spent=debt.error_spent + 0.1)
        assert asked <= (repair_due(worse, when, idle, budget, margin) is not None), "what is due stays due"


# ---------------------------------------------------------------------- by itself


def test_an_update_becomes_exact_without_anybody_asking(tmp_path):
    with scene(tmp_path) as it:
        gone = it.rows[0][:2]
        request = approximate(it, *gone)
        first = it.system.report(request)
        assert (first["version_after"], first["exact_at"], first["owes_exact_repair"]) == (2, None, [0])
        assert not it.system.registry.version().shards[0].exact
        assert [d["shard"] for d in it.system.status()["debts"]] == [0]
        snapshot = it.system.run(until_idle=True)
        assert (snapshot.version, snapshot.jobs_total) == (3, 0)
        done = it.system.report(request)
        assert (done["state"], done["version_after"], done["version_exact"]) == ("SERVED", 2, 3)
        assert done["seconds_to_exact"] > done["seconds_to_served"] >= done["seconds_to_applied"] > 0
        assert (done["applied_at"], done["served_at"]) == (first["applied_at"], first["served_at"])
        assert [(row["strategy"], row["rule"]) for row in done["shards"]] == [
            ("dpus", "request"),
            ("retrain", "repair"),
        ]
        assert "idle: no request waits" in done["shards"][1]["reasons"]
        assert (done["owes_exact_repair"], it.system.status()["debts"]) == ([], [])
        it.assert_exact_without(gone)


@pytest.mark.slow
def test_a_repair_waits_for_requests(tmp_path):
    with scene(tmp_path, batch_seconds=3600) as it:
        request = it.forget(it.rows[0][0], strategy="dpus", deadline_seconds=1e-3)  # starts at once
        it.step()
        assert it.system.report(request)["owes_exact_repair"] == [0]


def test_every_shard_of_a_request_is_repaired_and_reported(tmp_path):
    with scene(tmp_path) as it:
        gone = [it.rows[shard][0] for shard in range(3)]
        request = it.forget(*gone, strategy="dpus")
        it.system.run(until_idle=True)
        done = it.system.report(request)
        assert sorted(row["shard"] for row in done["shards"] if row["rule"] == "repair") == [0, 1, 2]
        assert done["version_exact"] == it.system.registry.served() == 5
        it.assert_exact_without(gone)


def test_a_repair_takes_along_what_is_asked_meanwhile(tmp_path):
    """And that request shows the round that removed its rows, though it was planned in none."""
    with scene(tmp_path, batch_seconds=3600, repair="deadline", deadline_margin=1e6) as it:
        approximate(it, it.rows[0][0], deadline_seconds=1e-3)
        late = it.forget(it.rows[0][1])
        it.step(3)
        done = it.system.report(late)
        assert (done["state"], done["version_after"], done["version_exact"]) == ("SERVED", 3, 3)
        assert [(row["shard"], row["rule"]) for row in done["shards"]] == [(0, "repair")]
        it.assert_exact_without(it.rows[0][:2])


# ---------------------------------------------------------------------- in time


@pytest.mark.slow
def test_with_deadlines_only_a_repair_waits_and_then_comes_in_time(tmp_path, clock):
    with scene(tmp_path, repair="deadline", deadline_margin=1e4) as it:
        request = approximate(it, it.rows[0][0], deadline_seconds=10 * DAY)
        forever = approximate(it, it.rows[1][0])
        it.system.run(until_idle=True)
        it.step(5)
        assert it.system.report(request)["owes_exact_repair"] == [0]
        clock(10 * DAY - 10)
        it.system.run(until_idle=True)
        done = it.system.report(request)
        assert done["applied_at"] < done["exact_at"] < done["deadline_at"]
        assert done["shards"][1]["reasons"][1].startswith("deadline: ")
        assert it.system.report(forever)["owes_exact_repair"] == [1], "it has no deadline"
        assert it.system.registry.version().shards[0].exact


def test_of_several_repairs_the_last_one_still_ends_in_time(tmp_path, monkeypatch):
    """They share one worker: each must start when all of them together need the time that is left."""
    with scene(tmp_path, repair="deadline", deadline_margin=1.0) as it:
        request = approximate(it, *(it.rows[shard][0] for shard in range(3)), deadline_seconds=DAY)
        plan = it.coordinator._planner.plan(range(3), "retrain", it.coordinator.executor.pools(), None)
        longest = max(shard.estimated_seconds for shard in plan.shards)
        assert longest * 2 < plan.makespan_seconds
        between = (longest + plan.makespan_seconds) / 2  # enough for each, too little for all
        deadline = it.system.report(request)["deadline_at"]
        now = [deadline - plan.makespan_seconds - 1]
        monkeypatch.setattr(time, "time", lambda: now[0])
        it.step(2)
        assert it.system.report(request)["owes_exact_repair"] == [0, 1, 2]
        now[0] = deadline - between
        it.step(3)
        assert it.system.report(request)["owes_exact_repair"] == []


def test_an_error_above_the_budget_forces_a_repair(tmp_path):
    with scene(tmp_path, repair="deadline", quality_budget=0.1) as it:
        first = approximate(it, it.rows[0][0])  # not calibrated: it is taken to spend the whole budget
        it.step(3)
        assert it.system.registry.version().shards[0].error_spent == pytest.approx(0.1)
        assert it.system.report(first)["owes_exact_repair"] == [0]
        second = approximate(it, it.rows[0][1])
        assert it.system.registry.version().shards[0].error_spent == pytest.approx(0.2)
        it.system.run(until_idle=True)
        for request in (first, second):
            done = it.system.report(request)
            assert (done["version_exact"], done["owes_exact_repair"]) == (4, [])
            assert done["shards"][-1]["reasons"][1].startswith("quality: owed forget-loss error 0.200 > budget")
        assert it.system.registry.version().shards[0].error_spent == 0
        it.assert_exact_without(it.rows[0][:2])


# ---------------------------------------------------------------------- when something is in the way


def test_a_repair_that_fails_is_tried_again_later_and_fails_no_request(tmp_path, monkeypatch, own_clock):
    with scene(tmp_path) as it:
        request = approximate(it, it.rows[0][0])
        tried = []

        def broken(worker, job):
            tried.append(job.shard)
            raise hybridmu.HybridMUError("no luck")

        monkeypatch.setattr(retry_times, "_RETRY_SECONDS", DAY)
        retrain = ShardWorker.retrain
        monkeypatch.setattr(ShardWorker, "retrain", broken)
        it.system.run(until_idle=True)
        it.step(3)
        assert tried == [0], "not at every step"
        assert (it.state(request), it.system.report(request)["owes_exact_repair"]) == (RequestState.SERVED, [0])
        monkeypatch.setattr(ShardWorker, "retrain", retrain)
        own_clock(DAY)
        it.system.run(until_idle=True)
        assert it.system.report(request)["version_exact"] == 3
        it.assert_exact_without([it.rows[0][0]])


def test_a_coordinator_that_ends_during_a_repair_leaves_it_to_the_next(tmp_path):
    with scene(tmp_path, shards=1, rows=40) as it:
        request = approximate(it, it.rows[0][0])
        token = it.coordinator.leadership.token()
        it.coordinator._repairs.repair(token, idle=True)  # queued, and lost with the process
        it.system.close()
        with hybridmu.connect(it.config, executor="local") as system:
            system.run(until_idle=True)
            assert system.report(request)["version_exact"] == 3
        it.assert_exact_without([it.rows[0][0]])


def test_a_pause_stops_what_can_wait(tmp_path, clock):
    with scene(tmp_path, deadline_margin=1e4) as it:
        owing = approximate(it, it.rows[1][0], deadline_seconds=10 * DAY)
        asked = it.system.pause("backup", "someone")
        assert it.system.status()["pause"] == asked
        it.step(2)
        assert it.system.report(owing)["owes_exact_repair"] == [1], "though no request waits"
        request = it.forget(it.rows[0][0])
        withdrawn = it.forget(it.rows[0][1])
        for _ in range(4):
            assert it.coordinator.step(0.0).paused
        assert it.system.registry.served() == 2
        assert (it.state(request), it.system.report(owing)["owes_exact_repair"]) == (RequestState.RECEIVED, [1])
        it.system.cancel(withdrawn)
        clock(10 * DAY - 10)
        it.step(2)
        assert it.system.report(owing)["owes_exact_repair"] == [], "a deadline does not wait"
        assert it.state(request) is RequestState.RECEIVED
        it.system.resume()
        assert not it.coordinator.step(0.0).paused
        assert it.system.wait(request).state is RequestState.SERVED
        it.assert_exact_without([it.rows[0][0], it.rows[1][0]])


def test_what_runs_is_finished_in_a_pause(tmp_path):
    with scene(tmp_path) as it:
        request = it.forget(*(it.rows[shard][0] for shard in range(3)))
        it.step()  # one of three shards
        it.system.pause("backup")
        it.step(3)
        assert it.state(request) is RequestState.SERVED


def test_storage_that_fails_while_planning_fails_no_request(tmp_path, monkeypatch):
    with scene(tmp_path) as it:
        request = it.forget(it.rows[0][0])

        def unreachable(*_):
            raise StorageError("can't list storage: the network is down")

        monkeypatch.setattr(RemovalPlanner, "plan", unreachable)
        with pytest.raises(StorageError):
            it.step()
        monkeypatch.undo()
        assert it.system.wait(request).state is RequestState.SERVED


@pytest.mark.slow
def test_a_failed_request_that_is_asked_for_again_ends_and_says_so(tmp_path, monkeypatch):
    with scene(tmp_path) as it:

        def broken(worker, job):
            raise hybridmu.HybridMUError("no luck")

        monkeypatch.setattr(ShardWorker, "retrain", broken)
        request = it.forget(it.rows[0][0])
        with pytest.raises(hybridmu.HybridMUError, match=r"(?s)failed.*no luck.*send the request again"):
            it.system.wait(request)
        assert it.forget(it.rows[0][0]) == request
        with pytest.raises(hybridmu.HybridMUError, match="failed"):
            it.system.wait(request)
        monkeypatch.undo()
        for _ in range(2):
            report = it.system.forget(ids=[it.rows[0][0]], wait=True)
            assert (report["request_id"], report["state"], report["reason"]) == (request, "SERVED", None)
        it.assert_exact_without([it.rows[0][0]])


def test_following_a_request_that_is_cancelled_ends(tmp_path):
    with scene(tmp_path) as it:
        request = it.forget(it.rows[0][0])
        it.system.cancel(request)
        with pytest.raises(hybridmu.HybridMUError, match="was cancelled"):
            it.system.wait(request)


def test_a_cancelled_row_trains_again_as_before(tmp_path):
    with scene(tmp_path, batch_seconds=3600) as it:
        back, gone = it.rows[0][:2]
        it.system.cancel(it.forget(back))
        request = it.forget(gone, deadline_seconds=1e-3)
        it.system.wait(request)
        it.assert_exact_without([gone])
        later = it.forget(back, deadline_seconds=1e-3)
        it.system.wait(later)
        it.assert_exact_without([gone, back])


# ---------------------------------------------------------------------- canaries


def test_buckets_of_revoked_canaries_are_not_used(tmp_path):
    eager = {
        "workload_threshold": 0.0,
        "light_seconds": 0.0,
        "time_ratio": 1e-9,
        "quality_budget": 99,
        "class_excess": 1,
    }
    with scene(tmp_path, batch_seconds=3600, **eager) as it:
        first, second, other = it.rows[0][:3]

        def measured(zero, shard, canary):
            (key,), _ = Lookup(it.system.site.lake).find([("id", canary)])
            return curve(zero=zero, shard=shard, share=0.05, keys=(key.key,))

        both = [measured(0.3, 0, first), measured(0.5, 1, second)]
        it.system.measurements.add_curves(it.coordinator.leadership.token(), both)
        planner = it.coordinator._planner
        known = planner.calibration().buckets
        assert known == fit(both).buckets
        assert [s.alpha for s in it.system.plan(ids=[other]).shards] == [pytest.approx(0.4)]
        request = it.forget(first)
        left = planner.calibration().buckets
        assert left == fit(both[1:]).buckets, "from the commit on"
        assert [bucket.shards for bucket in left] == [1]
        assert [s.alpha for s in it.system.plan(ids=[other]).shards] == [pytest.approx(0.5)]
        it.system.cancel(request)
        assert planner.calibration().buckets == known
        it.forget(first, second)
        assert planner.calibration().buckets == ()
        (shard,) = it.system.plan(ids=[other]).shards
        assert (shard.strategy, shard.rule) == ("retrain", "availability")
        assert "not calibrated" in shard.reasons[0]


# ---------------------------------------------------------------------- clocks


def test_a_clock_that_is_set_back_neither_loses_nor_doubles_a_request(tmp_path, clock, monkeypatch):
    monkeypatch.setattr(leadership, "LEASE_SECONDS", 0.6)
    with scene(tmp_path) as it:
        gone = [it.rows[0][0], it.rows[1][0], it.rows[2][0]]
        requests = [it.forget(*gone[:2], key="k")]
        it.step()  # one of its two shards is done
        stale = it.coordinator
        it.system.session.coordination.driver = None  # as if the process had been stopped in the middle
        clock(-3600)
        assert it.forget(*gone[:2], key="k") == requests[0]
        requests.append(it.forget(gone[2], strategy="dpus"))
        with hybridmu.connect(it.config, executor="local") as system:
            for request in requests:
                assert system.wait(request).state is RequestState.SERVED
            clock(1800)
            system.run(until_idle=True)
            served = system.registry.served()
            with pytest.raises(hybridmu.HybridMUError, match="another coordinator took over"):
                stale.step(0.0)
            assert system.registry.served() == served == 4
            found = system.requests()
            assert [(r["request_id"], r["state"]) for r in found] == [(r, "SERVED") for r in requests]
            assert {r["version_after"] for r in found} == {2, 3}
            assert all(r["exact_at"] is not None for r in found)
            done = system.report(requests[0])["shards"]
            assert sorted(row["shard"] for row in done) == [0, 1], "once each"
        it.assert_exact_without(gone)
