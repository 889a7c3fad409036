"""Links, forwards and the outbox in the ledger, on both kinds of database."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hybridmu.errors import StateError
from hybridmu.store.ledger import tables as t
from hybridmu.store.ledger.forwards import Forwards
from hybridmu.store.ledger.idempotency import RepeatKey, Seal
from hybridmu.store.ledger.linked_systems import Links
from hybridmu.types import ForwardState, NamedKey, Origin, RequestState
from tests.support import key, rows_of


@pytest.fixture
def links(engine):
    return Links(engine)


@pytest.fixture
def forwards(engine):
    return Forwards(engine)


def named(number):
    return replace(key(number), mac=number.to_bytes(32, "big"), mac_key="k")


def begin(forwards):
    forwards.begin("nobody")


def test_a_link_is_written_once_and_two_names_are_told_apart(links):
    links.add("a" * 32, "digits", {"storage_url": "/x"})
    links.add("b" * 32, "digits", {})
    links.add("a" * 32, "digits", {"storage_url": "/y"})
    assert [(x.name, x.settings.get("storage_url"), x.settled_at) for x in links.all()] == [
        ("digits-aaaaaa", "/y", None),
        ("digits-bbbbbb", None, None),
    ]
    links.settle("a" * 32)
    links.retire("b" * 32, "over")
    assert [x.system[0] for x in links.live()] == ["a"]
    assert links.all()[0].settled_at
    links.add("b" * 32, "digits", {})
    assert len(links.live()) == 2


def test_a_request_waits_for_every_link_from_its_commit_on(engine, ledger, links, forwards):
    before = ledger.accept([named(1)]).request_id
    for system in ("a", "b"):
        links.add(system, system, {})
    links.retire("b", "over")
    links.add("c", "c", {})
    request = ledger.accept([named(2), named(3)], absent=[NamedKey("id", b"x" * 16, b"y" * 32, "k")]).request_id
    passed_on = ledger.accept([named(4)], origin=Origin("a", "a", "r-1", 5.0))
    assert (passed_on.origin, passed_on.deadline_at) == ("a:r-1", 5.0)
    assert [(x.request_id, x.system) for x in forwards.waiting(begun=False)] == [(request, "a"), (request, "c")]
    assert forwards.waiting(begun=True) == [], "it can still be cancelled"
    document = rows_of(engine, t.outbox)[0].document
    assert (2).to_bytes(16, "big") not in document
    forwards.begin()
    assert ledger.request(request).state is RequestState.PLANNED
    assert ledger.request(before).state is RequestState.RECEIVED
    first, second = forwards.waiting(begun=True)
    parcel = forwards.parcel(first)
    assert [x.key for x in parcel.keys] == [named(2).key, named(3).key, b"x" * 16]
    assert [x.mac for x in parcel.keys] == [named(2).mac, named(3).mac, b"y" * 32]
    forwards.mark_delivered(first, parcel, "r-there")
    assert [x.system for x in forwards.waiting(begun=True)] == ["c"]
    assert len(rows_of(engine, t.outbox)) == 1
    forwards.note([second], "out of reach")
    assert forwards.of_request(request)[1].reason == "out of reach"
    forwards.mark_delivered(second, parcel, "r-other")
    assert rows_of(engine, t.outbox) == []
    assert [x.state for x in forwards.of_request(request)] == [ForwardState.DELIVERED] * 2


def test_what_is_cancelled_is_not_passed_on(engine, ledger, links):
    links.add("a", "a", {})
    request = ledger.accept([named(1)], absent=[NamedKey("id", b"x" * 16, b"y" * 32, "k")]).request_id
    ledger.cancel(request)
    assert (rows_of(engine, t.forwards), rows_of(engine, t.outbox), rows_of(engine, t.guard)) == ([], [], [])


def test_what_another_model_passed_on_is_not_cancelled(ledger):
    request = ledger.accept([named(1)], origin=Origin("a", "a", "r-1")).request_id
    with pytest.raises(StateError, match="linked model passed it on"):
        ledger.cancel(request)


def test_a_deadline_that_changes_on_the_way_is_told_as_well(ledger, links, forwards):
    links.add("a", "a", {})
    request = ledger.accept([named(1)], deadline_seconds=1000.0).request_id
    forwards.begin()
    (forward,) = forwards.waiting(begun=True)
    parcel = forwards.parcel(forward)
    ledger.hasten(request, 7.0)
    forwards.mark_delivered(forward, parcel, "r-there")
    (again,) = forwards.waiting(begun=True)
    told = forwards.parcel(again)
    assert (told.there, told.deadline_at, told.keys) == ("r-there", 7.0, ())
    forwards.mark_delivered(again, told, "r-there")
    ledger.hasten(request, 9.0)
    assert forwards.waiting(begun=True) == [], "a later one changes nothing"


def test_the_end_of_a_link_lets_its_requests_go(engine, ledger, links, forwards):
    links.add("a", "a", {})
    request = ledger.accept([named(1)]).request_id
    links.retire("a", "it is over")
    (forward,) = forwards.of_request(request)
    assert (forward.state, forward.reason) == (ForwardState.RETIRED, "it is over")
    assert rows_of(engine, t.outbox) == []


def test_a_successor_gets_the_rows_of_requests_that_may_be_cancelled(ledger, links, forwards):
    begun = ledger.accept([named(1)])
    begin(forwards)
    links.add("new", "new", {})
    ledger.accept([named(2)])
    assert ledger.request(begun.request_id).state is RequestState.PLANNED
    assert links.snapshot() == ({0: {("id", named(1).key)}}, 2)
    assert {k.mac for k, _ in links.remembered().values()} == {named(1).mac}


def test_a_request_without_rows_here_ends_at_once_and_is_known(engine, ledger):
    absent = NamedKey("id", b"x" * 16, b"y" * 32, "k")
    told = RepeatKey((Seal("k", b"n" * 32, None),))  # of a random name there is no other payload
    first = ledger.accept([], absent=[absent], origin=Origin("a", "a", "r-1"), repeat=told)
    assert (first.state, first.keys, first.certificate) == (RequestState.PURGED, 0, None)
    again = ledger.accept([], absent=[absent], origin=Origin("a", "a", "r-1"), repeat=told)
    assert first == again == ledger.accept([], absent=[absent], origin=Origin("a", "a", "r-2"))
    other = ledger.accept([], absent=[absent], origin=Origin("b", "b", "r-9"))
    assert (other.state, other.request_id == first.request_id) == (RequestState.PURGED, False)
    assert (other.reason, other.already_forgotten) == ("its rows were forgotten and purged before", 1)
    assert [(row.mac, row.absent) for row in rows_of(engine, t.guard)] == [(b"y" * 32, True)]
    found = replace(key(5), mac=absent.mac, mac_key="k")
    late = ledger.accept([found])
    assert [(row.request_id, row.absent) for row in rows_of(engine, t.guard)] == [(late.request_id, False)]


def test_rows_that_come_in_meanwhile_are_looked_for_again(ledger):
    with pytest.raises(StateError, match="came in while"):
        ledger.accept([named(1)], looked_at=3)
    assert ledger.requests() == []
    assert ledger.accept([named(1)], looked_at=0).keys == 1
