"""The outbox: an event stands or falls with the change that it tells of, whichever change that is."""

from __future__ import annotations

import json

import pytest

from hybridmu.errors import LeaseLostError, StateError
from hybridmu.store.ledger import tables as t
from hybridmu.store.ledger.database import Database
from hybridmu.store.ledger.purge.decommission_record import DecommissionRecord
from hybridmu.types import EVENTS, RequestState
from tests.store.ledger.test_registry import outcome, plan
from tests.support import key, rows_of


@pytest.fixture
def database(engine):
    made = Database(engine)
    made.webhooks.configure({"crm": EVENTS, "log": ("purged", "failed")})
    return made


@pytest.fixture
def token(database, lease):
    token = lease.acquire("me", 3600)
    database.registry.publish_training(token, [outcome(shard, 0) for shard in range(3)])
    return token


def told(database, receiver="crm"):
    """Return (request, event) of all that waits for a receiver, in order."""
    rows = sorted(rows_of(database.engine, t.webhook_events), key=lambda row: row.seq)
    return [(row.request_id, row.event) for row in rows if row.receiver == receiver]


def test_a_whole_life(database, token):
    request = database.ledger.accept([key(1, 1)], caller="desk").request_id
    database.registry.publish(token, "round", [request], [(plan(1), outcome(1, 1))])
    database.progress.mark_served(token, 2)
    database.deletions.finish(token, request, 1, 1000.0)
    events = ["accepted", "applied", "exact", "served", "purged"]
    assert told(database) == [(request, event) for event in events]
    assert told(database, "log") == [(request, "purged")]
    rows = rows_of(database.engine, t.webhook_events)
    facts = {row.event: json.loads(row.document) for row in rows}
    assert [facts[event]["state"] for event in events] == ["RECEIVED", "APPLIED", "APPLIED", "SERVED", "PURGED"]
    assert (facts["accepted"]["applied_at"], facts["applied"]["version_after"]) == (None, 2)
    assert [facts[event]["certificate"] for event in events] == [None] * 4 + [1]
    assert facts["purged"]["purged_at"] == 1000.0
    assert len({row.message_id for row in rows}) == len(rows)


def test_nothing_is_written_where_nobody_wants_to_know(engine, ledger):
    ledger.accept([key(1)])
    assert rows_of(engine, t.webhook_events) == []


@pytest.mark.parametrize("change", ["accept", "cancel", "failed", "satisfy", "publish", "served", "finish", "joined"])
def test_a_change_that_is_taken_back_takes_its_event_back(change, database, token, monkeypatch):
    """The last statement of the transaction fails, as a full disk makes it."""
    ledger, registry, deletions = database.ledger, database.registry, database.deletions
    request = ledger.accept([key(1, 1)]).request_id
    if change in {"served", "finish", "joined"}:
        registry.publish(token, "round", [request], [(plan(1), outcome(1, 1))])
    if change in {"finish", "joined"}:
        database.progress.mark_served(token, 2)
    before = (told(database), ledger.requests())
    changes = {
        "accept": lambda: ledger.accept([key(2, 2)]),
        "cancel": lambda: ledger.cancel(request),
        "failed": lambda: database.progress.mark_failed(token, [request], "because"),
        "satisfy": lambda: registry.satisfy(token, [request]),
        "publish": lambda: registry.publish(token, "round", [request], [(plan(1), outcome(1, 1))]),
        "served": lambda: database.progress.mark_served(token, 2),
        "finish": lambda: deletions.finish(token, request, 1, 1.0),
        "joined": lambda: deletions.end_joined(token, [request]),
    }
    with database.engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE full_disk (seq INTEGER CHECK (seq < 0))")
        if connection.dialect.name == "sqlite":
            connection.exec_driver_sql(
                "CREATE TRIGGER fails AFTER INSERT ON webhook_events BEGIN INSERT INTO full_disk VALUES (1); END"
            )
        else:
            connection.exec_driver_sql(
                "CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS "
                "$$BEGIN INSERT INTO full_disk VALUES (1); RETURN NEW; END$$"
            )
            connection.exec_driver_sql(
                "CREATE TRIGGER fails AFTER INSERT ON webhook_events FOR EACH ROW EXECUTE FUNCTION fail()"
            )
    with pytest.raises(Exception, match=r"CHECK|check"):
        changes[change]()
    assert (told(database), ledger.requests()) == before
    with database.engine.begin() as connection:
        of = "" if connection.dialect.name == "sqlite" else " ON webhook_events"
        connection.exec_driver_sql(f"DROP TRIGGER fails{of}")
    changes[change]()
    assert len(told(database)) > len(before[0]), "the same change goes through, with its event"


def test_a_request_that_others_made_needless_has_a_whole_life_at_once(database, token, engine):
    """Its rows were purged before: there is nothing to wait for, and nothing that a receiver would miss."""
    mac = b"m" * 32
    with engine.begin() as connection:
        connection.execute(t.guard.insert().values(mac=mac, kind="id", key_id="k", request_id="r-old"))
        values = {"request_id": "r-old", "state": "PURGED", "strategy": "auto", "keys": 1, "received_at": 1.0}
        connection.execute(t.requests.insert().values(**values))
    request = database.ledger.accept([], purged=[mac], caller="another desk")
    assert request.state is RequestState.PURGED
    assert told(database) == [(request.request_id, e) for e in ("accepted", "applied", "served", "exact", "purged")]


def test_cancelled_and_failed_and_taken_along(database, token):
    first, second = (database.ledger.accept([key(n, n)]).request_id for n in (1, 2))
    database.ledger.cancel(first)
    database.progress.mark_failed(token, [first, second], "because of alice")
    assert told(database)[2:] == [(first, "cancelled"), (second, "failed")]
    database.registry.publish(token, "round", [], [(plan(2), outcome(2, 2))])
    assert told(database)[4:] == [(second, "applied"), (second, "exact")]
    assert "alice" not in "".join(row.document for row in rows_of(database.engine, t.webhook_events))


def test_overdue_is_told_once_of_what_is_not_purged(database, token, clock):
    asked = [database.ledger.accept([key(n, n)], deadline_seconds=seconds) for n, seconds in enumerate((9, 9, 999))]
    late, gone, early = (request.request_id for request in asked)
    database.ledger.cancel(gone)
    assert database.webhooks.note_overdue() == 0
    clock(100)
    assert [database.webhooks.note_overdue() for _ in range(2)] == [1, 0]
    assert told(database)[-1] == (late, "overdue")
    clock(1000)
    assert database.webhooks.note_overdue() == 1
    assert told(database)[-1] == (early, "overdue")


def test_who_ends_a_system_tells_what_became_of_its_requests(database, token):
    request = database.ledger.accept([key(1, 1)]).request_id
    DecommissionRecord(database.engine).empty(token, 5.0)
    assert told(database) == [(request, "accepted"), (request, "purged")]


# ---------------------------------------------------------------------- receivers


def test_a_new_receiver_is_told_from_then_on_and_a_removed_one_no_more(database):
    old = database.ledger.accept([key(1)]).request_id
    database.webhooks.register({"new": ("accepted",), "crm": ("failed",)})
    second = database.ledger.accept([key(2)]).request_id
    assert told(database, "new") == [(second, "accepted")]
    assert told(database) == [(old, "accepted"), (second, "accepted")], "what is known is not changed by a caller"
    database.webhooks.configure({"new": EVENTS})
    database.ledger.accept([key(3)])
    assert len(told(database)) == 2
    by_name = {counts.name: counts for counts in database.webhooks.counts()}
    assert (by_name["crm"].removed, by_name["crm"].waiting, by_name["new"].waiting) == (True, 2, 2)
    database.webhooks.register({"crm": EVENTS})
    database.ledger.accept([key(4)])
    assert len(told(database)) == 2, "an old process does not bring back what the sender's configuration removed"
    database.webhooks.configure({"new": EVENTS, "crm": ("accepted",)})
    database.ledger.accept([key(5)])
    assert len(told(database)) == 3


def test_due_is_the_first_event_of_each_request_and_nothing_behind_it(database, token, clock):
    webhooks = database.webhooks
    sender = webhooks.lease.acquire("sender", 3600)
    first, second = (database.ledger.accept([key(n, n)]).request_id for n in (1, 2))
    database.registry.publish(token, "round", [first, second], [(plan(n), outcome(n, 2)) for n in (1, 2)])
    one, two = webhooks.due("crm", 10, 60)
    assert [(m.request_id, m.event) for m in (one, two)] == [(first, "accepted"), (second, "accepted")]
    webhooks.failed(sender, one, "HTTP 500", 4e9, dead=False)
    assert webhooks.due("crm", 10, 1e10) == [two], "what waits keeps back the later ones"
    assert webhooks.due("crm", 10, 60)[0].attempts == 1, "no try is put off by decades: a clock went wrong"
    webhooks.acknowledged(sender, two)
    assert [(m.request_id, m.event) for m in webhooks.due("crm", 10, 1e10)] == [(second, "applied")]
    webhooks.failed(sender, one, "HTTP 500", 0.0, dead=True)
    assert {m.request_id for m in webhooks.due("crm", 10, 60)} == {second}, "so does what was given up"
    (dead,) = webhooks.dead()
    assert (dead["request_id"], dead["event"], dead["problem"], dead["attempts"]) == (first, "accepted", "HTTP 500", 2)
    (counts, _) = webhooks.counts()
    assert (counts.dead, counts.waiting, counts.problem) == (1, 4, "HTTP 500")
    vitals = database.vitals()
    assert (vitals.webhooks_dead, vitals.webhooks_waiting) == (1, 4)
    assert vitals.coordinator
    assert webhooks.retry("crm", second) == 0
    assert webhooks.retry(request_id=first) == 1
    assert webhooks.due("crm", 10, 60)[0].attempts == 0
    assert webhooks.drop("crm", first) == 3
    assert {m.request_id for m in webhooks.due("crm", 10, 60)} == {second}
    for wrong in (lambda: webhooks.retry("nobody"), lambda: webhooks.drop("nobody")):
        with pytest.raises(StateError, match="no receiver"):
            wrong()


def test_a_sender_that_lost_its_lease_writes_nothing(database, clock):
    webhooks = database.webhooks
    request = database.ledger.accept([key(1)]).request_id
    old = webhooks.lease.acquire("old", 30)
    (message,) = webhooks.due("crm", 10, 60)
    clock(31)
    assert webhooks.lease.acquire("new", 30) == old + 1
    for write in (
        lambda: webhooks.acknowledged(old, message),
        lambda: webhooks.failed(old, message, "HTTP 500", 0.0, dead=True),
        lambda: webhooks.lease.heartbeat(old, 30),
    ):
        with pytest.raises(LeaseLostError, match="sender of webhooks"):
            write()
    assert (told(database), webhooks.dead()) == ([(request, "accepted")], [])


def test_the_lease_of_senders_is_not_the_coordinators(database, lease):
    token = database.webhooks.lease.acquire("sender", 60)
    assert lease.holder() is None
    assert not database.vitals().coordinator
    assert lease.acquire("me", 60) == 1
    database.webhooks.lease.heartbeat(token, 60)
