"""The ledger's promises between accepting a request and its end: cancelling, repeats, limits, deadlines."""

from __future__ import annotations

import dataclasses
import time

import pytest
from sqlalchemy import event

from hybridmu.errors import AdmissionError, ConflictError, RequestError, StateError
from hybridmu.store.ledger import tables as t
from hybridmu.store.ledger.accept.accept import Limits
from hybridmu.store.ledger.ledger import Ledger
from hybridmu.store.ledger.measurements import Measurements
from hybridmu.store.ledger.registry import Registry
from hybridmu.types import RequestState, RowKey, ShardOutcome, ShardPlan
from tests.support import key, repeat, rows_of


def guarded(number: int, **place):
    return dataclasses.replace(key(number, **place), mac=number.to_bytes(32, "big"), mac_key="k")


def group_of(number: int, *members: int):
    """A group whose rows have these ids."""
    made = key(number, kind="group")
    return dataclasses.replace(made, rows=tuple(RowKey(key(n).key, made.key) for n in members))


def member(number: int, group: int):
    """An id whose row belongs to a group."""
    made = key(number)
    return dataclasses.replace(made, rows=(RowKey(made.key, key(group).key),))


def revoked_rows(ledger: Ledger) -> int:
    return sum(sum(rows[:2]) for shard in ledger.counts().values() for rows in shard.values())


# ---------------------------------------------------------------------- cancelling


def test_cancelling_lifts_tombstones_guard_and_needs(ledger, engine):
    kept = ledger.accept([guarded(1)])
    request = ledger.accept([guarded(2), guarded(3, shard=4), guarded(5, kind="group")])
    done = ledger.cancel(request.request_id, "someone")
    assert (done.state, done.reason) == (RequestState.CANCELLED, "cancelled by someone")
    for table in (t.tombstones, t.guard, t.needs):
        assert {row.request_id for row in rows_of(engine, table)} == {kept.request_id}
    assert ledger.counts() == {0: {1: (0, 1, 1)}}
    assert len(ledger.assess([guarded(2), guarded(3, shard=4)]).fresh) == 2, "the rows are live again"
    assert ledger.cancel(request.request_id) == done, "a repeated call finds it done"
    again = ledger.accept([guarded(2)])
    assert again.request_id != request.request_id
    assert ledger.request(request.request_id) == done, "it stays in the log"


def test_cancelling_is_one_transaction(ledger, engine):
    request = ledger.accept([guarded(1), guarded(2, shard=1)])
    before = [rows_of(engine, table) for table in (t.requests, t.tombstones, t.guard, t.needs)]

    def breaks(connection, cursor, statement, *_):
        if statement.startswith("UPDATE requests"):  # the last of its writes
            raise RuntimeError("the power failed")

    event.listen(engine, "before_cursor_execute", breaks)
    with pytest.raises(RuntimeError, match="the power failed"):
        ledger.cancel(request.request_id)
    event.remove(engine, "before_cursor_execute", breaks)
    assert [rows_of(engine, table) for table in (t.requests, t.tombstones, t.guard, t.needs)] == before


def test_a_cancelled_number_is_never_given_out_again(ledger):
    first = ledger.accept([key(1), key(2)])
    ledger.cancel(first.request_id)
    second = ledger.accept([key(3)])
    assert [stone.seq for stone in ledger.tombstones()[0]] == [3]
    assert ledger.shards_of([second.request_id]) == {second.request_id: {0: 3}}
    assert [r.request_id for r in ledger.requests()] == [first.request_id, second.request_id]


@pytest.mark.parametrize("taken", [[3], [1, 3], None])
def test_what_a_job_was_started_without_cant_be_cancelled(ledger, lease, taken, progress):
    request = ledger.accept([key(1, shard=3), key(2, shard=5)])
    elsewhere = ledger.accept([key(3, shard=7)])
    token = lease.acquire("a", 60)
    assert 3 in progress.take(token, taken)
    with pytest.raises(StateError, match=r"(?s)can't be cancelled any more.*RECEIVED.*PLANNED"):
        ledger.cancel(request.request_id)
    assert len(ledger.tombstones()) == 3
    if taken is not None:
        assert ledger.cancel(elsewhere.request_id).state is RequestState.CANCELLED


@pytest.mark.parametrize(
    "state", sorted({*RequestState} - {RequestState.PROPOSED, RequestState.RECEIVED, RequestState.CANCELLED})
)
def test_only_a_received_request_can_be_cancelled(ledger, engine, state):
    request = ledger.accept([key(1)])
    with engine.begin() as connection:
        connection.execute(t.requests.update().values(state=state))
    with pytest.raises(StateError, match="can't be cancelled"):
        ledger.cancel(request.request_id)
    assert len(rows_of(engine, t.tombstones)) == 1
    with pytest.raises(StateError, match="no such request"):
        ledger.cancel("r-unknown")


def test_a_request_that_is_cancelled_between_two_looks_of_the_coordinator(ledger, engine, lease, progress):
    token = lease.acquire("a", 60)
    gone, stays = ledger.accept([key(1)]).request_id, ledger.accept([key(2)]).request_id
    ledger.cancel(gone)
    assert progress.mark_planned(token, [stays, gone], "round", 1) is False
    assert rows_of(engine, t.rounds) == []
    assert ledger.request(stays).state is RequestState.RECEIVED
    progress.mark_failed(token, [gone], "because")
    Registry(engine).satisfy(token, [gone])
    assert ledger.request(gone).state is RequestState.CANCELLED
    assert progress.mark_planned(token, [stays], "round", 1) is True


def test_the_first_moment_that_a_request_was_taken_up_is_kept(ledger, lease, progress):
    token = lease.acquire("a", 60)
    planned, taken, waits = (ledger.accept([key(n, shard=n)]).request_id for n in (1, 2, 3))
    progress.mark_planned(token, [planned], "round", 1)
    progress.take(token, [2])
    first = [ledger.request(name) for name in (planned, taken, waits)]
    assert [request.planned_at is None for request in first] == [False, False, True]
    assert all(request.received_at <= request.planned_at <= time.time() for request in first[:2])
    progress.mark_planned(token, [planned, taken], "another", 2)
    progress.mark_failed(token, [planned], "because")
    ledger.accept([key(1, shard=1)])  # is tried again
    assert [ledger.request(r.request_id).planned_at for r in first] == [r.planned_at for r in first]


def test_the_key_of_a_cancelled_request_is_not_answered_with_it(ledger):
    request = ledger.accept([key(1)], repeat=repeat("k", ["a"]))
    ledger.cancel(request.request_id)
    for ask in (ledger.find_repeat, lambda repeat: ledger.accept([key(1)], repeat=repeat)):
        with pytest.raises(ConflictError, match=f"key belongs to request {request.request_id}, which was cancelled"):
            ask(repeat("k", ["a"]))
    assert ledger.accept([key(1)], repeat=repeat("other", ["a"])).state is RequestState.RECEIVED


# ---------------------------------------------------------------------- what is asked twice


def test_a_failed_request_is_taken_up_by_whoever_asks_for_its_rows(ledger, lease, progress):
    token = lease.acquire("a", 60)
    request = ledger.accept([key(1), key(2, shard=1)], strategy="dpus", caller="a").request_id
    progress.mark_planned(token, [request], "round", 1)
    progress.mark_failed(token, [request], "because")
    other = ledger.accept([key(1)], strategy="auto", caller="b")
    assert (other.caller, other.state, other.keys) == ("b", RequestState.RECEIVED, 0)
    retried = ledger.request(request)
    assert (retried.state, retried.strategy, retried.reason) == (RequestState.PLANNED, "dpus", None), "as it was asked"
    progress.mark_failed(token, [request], "because")
    again = ledger.accept([key(1)], strategy="auto", caller="a")
    assert (again.request_id, again.state, again.strategy, again.reason) == (request, "PLANNED", "auto", None)
    progress.mark_failed(token, [request], "because")
    more = ledger.accept([key(1), key(3)])
    assert more.request_id != request
    assert ledger.request(request).state is RequestState.PLANNED
    assert len(rows_of(ledger._write, t.tombstones)) == 3


def test_asking_for_a_retrain_by_name_is_not_answered_with_less(ledger):
    first = ledger.accept([guarded(1)])
    exact = ledger.accept([guarded(1)], strategy="retrain")
    assert (exact.request_id != first.request_id, exact.keys, exact.already_forgotten) == (True, 0, 1)
    assert ledger.shards_of([exact.request_id]) == {exact.request_id: {0: 1}}
    assert ledger.accept([guarded(1)], strategy="retrain") == exact, "one is enough"
    assert ledger.accept([guarded(1)]).request_id == first.request_id
    more = ledger.accept([guarded(2, shard=1)])
    both = ledger.accept([guarded(1), guarded(2, shard=1)], strategy="retrain")
    assert both.request_id not in {exact.request_id, more.request_id}, "neither waits for both shards"


def test_rows_of_two_requests_are_waited_for_together(ledger):
    ledger.accept([guarded(1)])
    ledger.accept([guarded(2, shard=1)])
    both = ledger.accept([guarded(1), guarded(2, shard=1)])
    assert (both.keys, both.already_forgotten) == (0, 2)
    assert ledger.shards_of([both.request_id]) == {both.request_id: {0: 1, 1: 2}}
    assert ledger.accept([guarded(1), guarded(2, shard=1)]) == both


# ---------------------------------------------------------------------- limits and deadlines


def test_open_requests_are_limited_per_caller(ledger, engine):
    limits = Limits(open_requests=2)
    first, second = (ledger.accept([key(n)], caller="a", limits=limits) for n in (1, 2))
    before = [rows_of(engine, table) for table in (t.requests, t.tombstones, t.needs)]
    with pytest.raises(AdmissionError, match=r"(?s)'a' has too many open requests.*at most 2.*got: 3"):
        ledger.accept([key(3)], caller="a", limits=limits)
    assert [rows_of(engine, table) for table in (t.requests, t.tombstones, t.needs)] == before
    assert ledger.accept([key(1)], caller="a", limits=limits) == first, "a repeat asks for nothing"
    assert ledger.accept([key(4)], caller="b", limits=limits).caller == "b"
    ledger.cancel(second.request_id)
    assert ledger.accept([key(3)], caller="a", limits=limits).state is RequestState.RECEIVED
    for state, open_ in ((RequestState.APPLIED, True), (RequestState.SERVED, False), (RequestState.FAILED, False)):
        with engine.begin() as connection:
            connection.execute(t.requests.update().where(t.requests.c.caller == "a").values(state=state))
        if open_:
            with pytest.raises(AdmissionError):
                ledger.accept([key(5)], caller="a", limits=limits)
        else:
            assert ledger.accept([key(5 + len(state))], caller="a", limits=limits).caller == "a"


def test_requests_per_minute_are_those_of_any_sixty_seconds(ledger, clock):
    limits = Limits(per_minute=2)
    ledger.accept([key(1)], caller="a", limits=limits)
    clock(40)
    cancelled = ledger.accept([key(2)], caller="a", limits=limits)
    ledger.cancel(cancelled.request_id)  # it was one all the same
    clock(19)
    with pytest.raises(AdmissionError, match="'a' has too many requests in the last minute"):
        ledger.accept([key(3)], caller="a", limits=limits)
    ledger.accept([key(3)], caller="b", limits=limits)
    clock(2)  # the first is 61 seconds old, the second 21
    ledger.accept([key(4)], caller="a", limits=limits)
    with pytest.raises(AdmissionError):
        ledger.accept([key(5)], caller="a", limits=limits)
    clock(-3600)
    assert ledger.accept([key(5)], caller="a", limits=limits).caller == "a", "a clock set back locks nobody out"


@pytest.mark.parametrize(
    ("first", "then", "expected"), [(60, 10, 10), (10, 60, 10), (None, 10, 10), (10, None, 10), (None, None, None)]
)
@pytest.mark.sampled
def test_of_the_deadlines_of_one_callers_repeats_the_earlier_one_holds(ledger, first, then, expected):
    request = ledger.accept([key(1)], deadline_seconds=first, caller="a")
    again = ledger.accept([key(1)], deadline_seconds=then, caller="a")
    assert again.request_id == request.request_id
    assert again.deadline_at == (None if expected is None else pytest.approx(request.received_at + expected, abs=2))


def test_a_request_of_its_own_has_its_own_deadline(ledger):
    first = ledger.accept([key(1)], deadline_seconds=60)
    second = ledger.accept([key(1), key(2)], deadline_seconds=10)
    assert ledger.request(first.request_id).deadline_at == first.deadline_at
    assert second.deadline_at == pytest.approx(second.received_at + 10)


def test_the_deadline_of_a_purged_request_is_history(ledger, engine):
    request = ledger.accept([guarded(1)], deadline_seconds=60, caller="a")
    with engine.begin() as connection:
        connection.execute(t.requests.update().values(state="PURGED", purged_at=time.time()))
        connection.execute(t.tombstones.update().values(key=None))
    found = ledger.accept([], purged=[guarded(1).mac], deadline_seconds=1, caller="a")
    assert (found.request_id, found.deadline_at) == (request.request_id, request.deadline_at)


def test_names_that_a_database_would_cut_are_refused(ledger, engine):
    with pytest.raises(RequestError, match="caller's name is too long"):
        ledger.accept([key(1)], caller="x" * 81)
    assert rows_of(engine, t.requests) == []


def test_requests_of_a_state_and_of_a_caller(ledger):
    mine, other = ledger.accept([key(1)], caller="a"), ledger.accept([key(2)], caller="b")
    ledger.cancel(other.request_id)
    assert ledger.requests(caller="a") == [mine]
    assert [r.request_id for r in ledger.requests([RequestState.CANCELLED])] == [other.request_id]
    assert ledger.requests([RequestState.CANCELLED], caller="a") == []


# ---------------------------------------------------------------------- what worked for it


def test_every_round_that_worked_for_a_request_is_known(ledger, engine, lease, progress):
    """Also those it was not planned in: another request's round took its rows along, or a repair came later."""
    registry, token = Registry(engine), lease.acquire("a", 60)
    made = [ShardOutcome("j", s, "retrain", f"b{s}", True, 0, 9, 1, 10, 1.0, head="h") for s in range(2)]
    registry.publish_training(token, made)
    plan = ShardPlan(0, "dpus", 1, 1, 10, 1.0, 1.0, (1.0, 1.0), (), "boundary", (), predicted_error=0.1)
    both = ledger.accept([key(1), key(2, shard=1)]).request_id
    late = ledger.accept([key(3)]).request_id
    progress.mark_planned(token, [both], "one", 1)
    update = [dataclasses.replace(o, strategy="dpus", blob="u", exact=False, upto=3, slices=()) for o in made]
    registry.publish(token, "one", [both], [(dataclasses.replace(plan, shard=o.shard), o) for o in update])
    registry.satisfy(token, [late])
    for shard, name in ((0, "two"), (1, "three")):
        repair = dataclasses.replace(made[shard], blob="r", upto=3)
        registry.publish(token, name, [], [(dataclasses.replace(plan, shard=shard, strategy="retrain"), repair)])
    measured = Measurements(engine)
    assert [(row["round_id"], row["shard"]) for row in measured.outcomes(both)] == [
        ("one", 0), ("one", 1), ("two", 0), ("three", 1)
    ]  # fmt: skip
    assert [(row["round_id"], row["shard"]) for row in measured.outcomes(late)] == [("one", 0), ("two", 0)]
    exact = {r.request_id: r.version_exact for r in ledger.requests()}
    assert exact == {both: 4, late: 3}
    assert all(r.exact_at >= r.applied_at for r in ledger.requests())
