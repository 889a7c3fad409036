"""The line of a request's life: every mark in its place, and one sentence that says what is next."""

from __future__ import annotations

from typing import Any

import pytest

from hybridmu.server.request_life import Step, Surroundings, next_step, steps

AT_WORK = Surroundings(coordinator=True)


def report(state: str, **said: Any) -> dict[str, Any]:
    times = dict.fromkeys(
        ("planned_at", "quarantined_at", "applied_at", "served_at", "exact_at", "purged_at", "deadline_at"), None
    )
    rest = {"reason": None, "certificate": None, "owes_exact_repair": [], "repair": "idle"}
    return {"state": state, "received_at": 1000.0, **times, **rest, **said}


def names(found: list[Step]) -> list[str]:
    return [step.name for step in found]


def current(found: list[Step]) -> str:
    (here,) = [step.name for step in found if step.current]
    return here


def test_one_that_waits_has_all_its_states_before_it():
    found = steps(report("RECEIVED", deadline_at=4600.0), 1060.0)
    assert names(found) == ["accepted", "planned", "applied", "served", "exact", "purged", "deadline"]
    assert current(found) == "accepted"
    assert found[0].note == "waiting for 60.0 s"
    assert [step.kind for step in found] == ["done", *["wait"] * 5, "deadline"]
    assert (found[-1].at, found[-1].note) == (4600.0, "in 59 min")


def test_an_approximate_one_is_exact_after_it_is_served():
    times = {"planned_at": 1001.0, "applied_at": 1003.0, "served_at": 1004.0, "exact_at": 1300.0, "purged_at": 1301.5}
    found = steps(report("PURGED", **times, deadline_at=5000.0), 99_999.0)
    assert names(found) == ["accepted", "planned", "applied", "served", "exact", "purged", "deadline"]
    assert [step.note for step in found[1:6]] == ["1.0 s later", "2.0 s later", "1.0 s later", "5 min later",
                                                  "1.5 s later"]  # fmt: skip
    assert found[-1].note == "kept with 62 min to spare"
    assert current(found) == "purged"


def test_a_retrained_one_is_exact_before_it_is_served_and_the_order_of_time_holds():
    times = {"planned_at": 1001.0, "applied_at": 1003.0, "exact_at": 1003.0, "served_at": 1004.0}
    found = steps(report("SERVED", **times), 1010.0)
    assert names(found) == ["accepted", "planned", "applied", "exact", "served", "purged"]
    assert found[4].note == "1.0 s later, waiting for 6.0 s"
    assert (current(found), found[-1].kind) == ("served", "wait")


def test_shards_that_do_not_vote_are_a_mark_where_the_policy_has_them():
    assert "out of every vote" not in names(steps(report("RECEIVED"), 1001.0))
    assert names(steps(report("RECEIVED"), 1001.0, quarantine=True))[2] == "out of every vote"
    past = steps(report("APPLIED", planned_at=1002.0, quarantined_at=1001.0, applied_at=1003.0), 1004.0)
    assert names(past)[:4] == ["accepted", "out of every vote", "planned", "applied"]


def test_a_missed_deadline_stands_where_it_fell():
    late = steps(report("APPLIED", planned_at=1001.0, applied_at=1010.0, deadline_at=1005.0), 1065.0)
    assert names(late) == ["accepted", "planned", "deadline", "applied", "served", "exact", "purged"]
    assert (late[2].kind, late[2].note) == ("late", "overdue by 60.0 s")
    times = dict.fromkeys(("planned_at", "applied_at", "served_at", "exact_at"), 1001.0)
    done = steps(report("PURGED", **times, purged_at=1010.0, deadline_at=1005.0), 2000.0)
    assert names(done)[-2:] == ["deadline", "purged"]
    assert done[-2].note == "missed by 5.0 s"


def test_one_that_failed_stops_and_its_deadline_goes_on():
    found = steps(report("FAILED", planned_at=1001.0, deadline_at=4600.0), 1100.0)
    assert names(found) == ["accepted", "planned", "failed", "applied", "served", "exact", "purged", "deadline"]
    assert (current(found), found[2].kind) == ("failed", "stop")


def test_one_that_is_proposed_waits_for_its_approval():
    waits = steps(report("PROPOSED", deadline_at=4600.0, approval={"approved_at": None}), 1060.0)
    assert names(waits)[:3] == ["proposed", "approved", "planned"]
    assert (current(waits), waits[-1].note) == ("proposed", "in 59 min")
    said = {"approved_at": 1200.0}
    found = steps(report("PLANNED", approval=said, planned_at=1201.0), 1202.0)
    assert names(found)[:3] == ["proposed", "approved", "planned"]
    assert found[1].note == "3 min later"
    back = steps(report("CANCELLED", approval={"approved_at": None}), 1202.0)
    assert names(back) == ["proposed", "taken back"]


def test_one_that_was_taken_back_has_nothing_to_come():
    assert names(steps(report("CANCELLED", deadline_at=4600.0), 1100.0)) == ["accepted", "taken back"]


def test_one_that_was_over_at_once_has_no_state_to_come():
    times = dict.fromkeys(("applied_at", "served_at", "exact_at", "purged_at"), 1000.0)
    assert names(steps(report("PURGED", **times), 1100.0)) == ["accepted", "applied", "served", "exact", "purged"]


def test_a_clock_that_was_set_back_is_no_negative_wait():
    found = steps(report("RECEIVED"), 900.0)
    assert found[0].note == "waiting for 0.0 s"


@pytest.mark.parametrize(
    ("said", "around", "words"),
    [
        ({"state": "RECEIVED"}, AT_WORK, "planned next"),
        ({"state": "RECEIVED"}, Surroundings(coordinator=True, paused=True), "when work is resumed"),
        ({"state": "RECEIVED"}, Surroundings(coordinator=True, collect_seconds=600.0), "10 min after it came at most"),
        ({"state": "PLANNED"}, Surroundings(coordinator=False, paused=True), "`hybridmu run` starts one"),
        ({"state": "PLANNED"}, AT_WORK, "a version without its rows"),
        ({"state": "APPLIED"}, AT_WORK, "none answers with an older one"),
        ({"state": "SERVED", "owes_exact_repair": [1, 3]}, AT_WORK, "shard(s) 1, 3 follows once nothing else waits"),
        ({"state": "SERVED", "repair": "deadline"}, AT_WORK, "when a deadline comes near"),
        ({"state": "SERVED", "exact_at": 1.0, "reason": "legal hold 3"}, AT_WORK, "once what is said above"),
        ({"state": "SERVED", "exact_at": 1.0}, AT_WORK, "rewritten out of every file"),
        ({"state": "PURGED", "certificate": 7}, Surroundings(coordinator=False), "the certificate says so"),
        ({"state": "PURGED"}, AT_WORK, "no certificate of its own"),
        ({"state": "FAILED"}, Surroundings(coordinator=False), "`hybridmu requests retry`"),
        ({"state": "CANCELLED"}, AT_WORK, "taken back"),
        ({"state": "PROPOSED"}, Surroundings(coordinator=False), "Somebody else than its caller approves it"),
    ],
)
def test_the_next_thing_is_said(said, around, words):
    assert words in next_step(report(**said), around)
