"""Requests that a second person has to approve: nothing is revoked before, all of it after."""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from hybridmu import faults
from hybridmu.errors import AdmissionError, RequestError, StateError, WouldEmptyError
from hybridmu.planning.approval import ApprovalRule
from hybridmu.store.ledger import tables as t
from hybridmu.store.ledger.accept.accept import Limits
from hybridmu.store.ledger.accept.proposal import forget_digests
from hybridmu.store.ledger.approvals import Approvals
from hybridmu.store.ledger.engine.opening import connect
from hybridmu.store.ledger.ledger import Ledger
from hybridmu.store.ledger.linked_systems import Links
from hybridmu.types import RequestState
from tests.support import key, repeat, rows_of

ALWAYS = ApprovalRule(rows=0)


@pytest.fixture
def approvals(engine):
    return Approvals(engine)


@pytest.fixture(autouse=True)
def _no_faults():
    yield
    faults.observe(None)


def guarded(number, **place):
    return dataclasses.replace(key(number, **place), mac=number.to_bytes(32, "big"), mac_key="k")


def names(keys):
    return {stone.key for stones in keys.values() for stone in stones}


def digest(number):
    return key(number).key


def propose(ledger, *numbers, caller="a", **options):
    return ledger.accept([guarded(n) for n in numbers], caller=caller, approval=ALWAYS, **options)


def test_nothing_is_revoked_that_nobody_else_approved(ledger, engine, approvals):
    request = propose(ledger, 1, 2, deadline_seconds=60.0)
    assert (request.state, request.keys, request.caller) == (RequestState.PROPOSED, 2, "a")
    assert request.deadline_at == pytest.approx(request.received_at + 60)
    for table in (t.tombstones, t.guard, t.needs, t.forwards):
        assert rows_of(engine, table) == []
    (waiting,) = approvals.waiting()
    assert (waiting.request_id, waiting.rows, waiting.caller) == (request.request_id, 2, "a")
    with pytest.raises(RequestError, match="somebody else"):
        ledger.approve(request.request_id, "a", [guarded(1), guarded(2)])
    with pytest.raises(RequestError, match="names who"):
        ledger.approve(request.request_id, "", [guarded(1), guarded(2)])
    assert ledger.request(request.request_id) == request
    assert rows_of(engine, t.tombstones) == []
    done = ledger.approve(request.request_id, "b", [guarded(1), guarded(2)])
    assert (done.request_id, done.state, done.caller) == (request.request_id, RequestState.RECEIVED, "a")
    assert (done.received_at, done.deadline_at) == (request.received_at, request.deadline_at), "its deadline ran on"
    assert names(ledger.tombstones()) == {digest(1), digest(2)}
    assert {row.request_id for row in rows_of(engine, t.guard)} == {request.request_id}
    assert approvals.waiting() == []
    found = approvals.of_request(request.request_id)
    assert (found.approved_by, found.rows) == ("b", 2)
    assert found.approved_at >= request.received_at
    assert approvals.named(request.request_id) is None, "what it named is the tombstones' now"


def test_it_is_approved_once(ledger, engine):
    request = propose(ledger, 1)
    done = ledger.approve(request.request_id, "b", [guarded(1)])
    assert ledger.approve(request.request_id, "c", [guarded(1)]) == done
    assert len(rows_of(engine, t.tombstones)) == 1
    assert Approvals(engine).of_request(request.request_id).approved_by == "b", "who was first"


@pytest.mark.parametrize("state", [s for s in RequestState if s is not RequestState.PROPOSED])
def test_what_does_not_wait_is_not_approved(ledger, engine, state):
    request = ledger.accept([guarded(1)], caller="a")
    with engine.begin() as connection:
        connection.execute(t.requests.update().values(state=state))
    with pytest.raises(StateError, match="does not wait"):
        ledger.approve(request.request_id, "b", [guarded(1)])
    with pytest.raises(StateError, match="no such request"):
        ledger.approve("r-unknown", "b", [])


def test_one_that_is_taken_back_leaves_nothing_and_is_not_approved(ledger, engine, approvals):
    request = propose(ledger, 1)
    done = ledger.cancel(request.request_id, "a")
    assert done.state is RequestState.CANCELLED
    assert ledger.cancel(request.request_id, "a") == done
    assert approvals.waiting() == []
    assert approvals.named(request.request_id) is None
    with pytest.raises(StateError, match="does not wait"):
        ledger.approve(request.request_id, "b", [guarded(1)])
    assert rows_of(engine, t.tombstones) == rows_of(engine, t.guard) == []
    second = propose(ledger, 1)
    ledger.approve(second.request_id, "b", [guarded(1)])
    ledger.cancel(second.request_id, "a")
    with pytest.raises(StateError, match="does not wait"):
        ledger.approve(second.request_id, "b", [guarded(1)])
    assert rows_of(engine, t.tombstones) == []


def test_the_rule_looks_at_what_nobody_revoked_before(ledger):
    group = dataclasses.replace(key(9, kind="group"), mac=b"9" * 32, mac_key="k")
    for approval, keys, state in (
        (ApprovalRule(rows=2), [guarded(1), guarded(2)], RequestState.RECEIVED),
        (ApprovalRule(rows=2), [guarded(3), guarded(4), guarded(5)], RequestState.PROPOSED),
        (ApprovalRule(groups=True), [guarded(6)], RequestState.RECEIVED),
        (ApprovalRule(groups=True), [group], RequestState.PROPOSED),
        (ApprovalRule(), [guarded(7)], RequestState.RECEIVED),
        (ApprovalRule(rows=0), [guarded(1), guarded(2)], RequestState.RECEIVED),  # by the first
    ):
        assert ledger.accept(keys, caller=str(len(keys)), approval=approval).state is state, (approval, keys)


def test_a_repeated_key_is_the_same_proposal_before_and_after(ledger):
    options = {"repeat": repeat("k"), "caller": "a"}
    request = propose(ledger, 1, **options)
    assert propose(ledger, 1, **options) == request
    done = ledger.approve(request.request_id, "b", [guarded(1)])
    assert propose(ledger, 1, **options) == done


def test_limits_count_proposals(ledger):
    propose(ledger, 1, limits=Limits(open_requests=1))
    with pytest.raises(AdmissionError):
        propose(ledger, 2, limits=Limits(open_requests=1))


def test_it_never_empties_the_table_without_saying_so(ledger, engine):
    request = propose(ledger, 1, 2, training_rows=3)
    ledger.accept([guarded(3)], caller="c", training_rows=3)
    with pytest.raises(WouldEmptyError):
        ledger.approve(request.request_id, "b", [guarded(1), guarded(2)], training_rows=3)
    assert ledger.request(request.request_id).state is RequestState.PROPOSED
    assert names(ledger.tombstones()) == {digest(3)}


def test_what_others_forgot_meanwhile_is_relied_on(ledger, engine):
    request = propose(ledger, 1, 2)
    other = ledger.accept([guarded(1)], caller="c")
    done = ledger.approve(request.request_id, "b", [guarded(1), guarded(2)])
    assert (done.keys, done.already_forgotten) == (1, 1)
    assert ledger.relies_on(request.request_id) == {other.request_id: None}
    ledger.cancel(other.request_id)
    assert names(ledger.tombstones()) == {digest(1), digest(2)}, "it asks for both"


def test_what_was_purged_meanwhile_is_known_by_the_guard_alone(ledger, engine, approvals):
    request = propose(ledger, 1, 2)
    other = ledger.accept([guarded(1)], caller="c").request_id
    with engine.begin() as connection:  # what a purge does last
        mine = t.requests.c.request_id == other
        connection.execute(t.requests.update().where(mine).values(state=RequestState.PURGED))
        connection.execute(t.tombstones.update().values(key=None))
        forget_digests(connection, {("id", digest(1))})
    left = {(named.key, named.mac) for named in approvals.named(request.request_id).keys}
    assert left == {(b"", guarded(1).mac), (digest(2), guarded(2).mac)}, "no key of it is left"
    gone = [named for named in approvals.named(request.request_id).keys if not named.key]
    done = ledger.approve(request.request_id, "b", [guarded(2)], absent=gone)
    assert (done.state, done.keys, done.already_forgotten) == (RequestState.RECEIVED, 1, 1)
    again = propose(ledger, 3)
    third = ledger.accept([guarded(3)], caller="c").request_id
    with engine.begin() as connection:
        connection.execute(t.requests.update().where(t.requests.c.request_id == third).values(state="PURGED"))
        connection.execute(t.tombstones.update().values(key=None))
        forget_digests(connection, {("id", digest(3))})
    done = ledger.approve(again.request_id, "b", [], absent=approvals.named(again.request_id).keys)
    assert (done.state, done.keys) == (RequestState.PURGED, 0), "nothing was left to be done"


def test_linked_models_are_told_once_it_is_approved(ledger, engine):
    with engine.begin() as connection:
        connection.execute(t.links.insert().values(system="ab", name="other", settings="{}", linked_at=1.0))
    assert Links(engine).live()
    request = propose(ledger, 1)
    assert rows_of(engine, t.forwards) == rows_of(engine, t.outbox) == []
    ledger.approve(request.request_id, "b", [guarded(1)])
    assert [row.request_id for row in rows_of(engine, t.forwards)] == [request.request_id]


@pytest.mark.parametrize("point", ["approve.commit", "approve.committed"])
def test_a_crash_leaves_it_proposed_or_approved(ledger, engine, point):
    request = propose(ledger, 1, 2)

    def die():
        raise KeyboardInterrupt

    faults.arm(point, 1, die)
    with pytest.raises(KeyboardInterrupt):
        ledger.approve(request.request_id, "b", [guarded(1), guarded(2)])
    committed = point.endswith("committed")
    state = RequestState.RECEIVED if committed else RequestState.PROPOSED
    assert ledger.request(request.request_id).state is state
    assert len(rows_of(engine, t.tombstones)) == (2 if committed else 0)
    done = ledger.approve(request.request_id, "b", [guarded(1), guarded(2)])
    assert done.state is RequestState.RECEIVED
    assert len(rows_of(engine, t.tombstones)) == 2


class Life(RuleBasedStateMachine):
    """Any order of asking, approving, taking back, and crashing while approving, against a plain set of rows."""

    people = st.sampled_from(["a", "b", "c"])
    rows = st.sets(st.integers(1, 6), min_size=1, max_size=3)

    @initialize()
    def begin(self):
        self.folder = tempfile.TemporaryDirectory()
        self.engine = connect(f"sqlite:///{Path(self.folder.name) / 'ledger.sqlite3'}", create=True)
        self.ledger, self.approvals = Ledger(self.engine), Approvals(self.engine)
        self.asked: dict[str, tuple[str, set[int]]] = {}
        self.state: dict[str, str] = {}

    @rule(who=people, rows=rows, most=st.sampled_from([0, 1, 5]))
    def ask(self, who, rows, most):
        live = rows - self.revoked()
        request = self.ledger.accept([guarded(n) for n in sorted(rows)], caller=who, approval=ApprovalRule(rows=most))
        if request.request_id in self.asked:  # asked before by the same caller
            assert live == set()
            return
        self.asked[request.request_id] = (who, rows)
        proposed = len(live) > most
        self.state[request.request_id] = "proposed" if proposed else "begun"
        assert (request.state is RequestState.PROPOSED) == proposed

    @rule(who=people, data=st.data(), point=st.sampled_from([None, "approve.commit", "approve.committed"]))
    def approve(self, who, data, point):
        if not self.asked:
            return
        name = data.draw(st.sampled_from([*self.asked]))
        caller, rows = self.asked[name]
        keys = [guarded(n) for n in sorted(rows)]
        if point is not None:
            faults.arm(point, 1, self._die)
        try:
            self.ledger.approve(name, who, keys)
            assert who != caller
            assert self.state[name] in {"proposed", "approved"}
            self.state[name] = "approved"
        except RequestError:
            assert who == caller
        except StateError:
            assert self.state[name] in {"begun", "gone"}
        except KeyboardInterrupt:
            if point == "approve.committed":
                self.state[name] = "approved"
        finally:
            faults.observe(None)

    @rule(data=st.data())
    def take_back(self, data):
        if self.asked:
            name = data.draw(st.sampled_from([*self.asked]))
            self.ledger.cancel(name)
            self.state[name] = "gone"

    @invariant()
    def as_the_sets_say(self):
        if hasattr(self, "ledger"):
            assert names(self.ledger.tombstones()) == {digest(n) for n in self.revoked()}
            waiting = {one.request_id for one in self.approvals.waiting()}
            assert waiting == {name for name, state in self.state.items() if state == "proposed"}
            assert all((self.approvals.named(name) is not None) == (name in waiting) for name in self.asked)

    def revoked(self):
        return {n for name, (_, rows) in self.asked.items() if self.state[name] in {"begun", "approved"} for n in rows}

    def teardown(self):
        if hasattr(self, "engine"):
            self.engine.dispose()
            self.folder.cleanup()

    @staticmethod
    def _die():
        raise KeyboardInterrupt


Life.TestCase.settings = settings(
    max_examples=30, stateful_step_count=15, deadline=None, suppress_health_check=list(HealthCheck)
)
test_any_order_ends_as_the_sets_say = Life.TestCase
