"""Senders against real receivers: at least once, in order, one at a time, whoever is killed and whatever fails."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter, defaultdict
from contextlib import contextmanager, suppress

import pytest
from sqlalchemy import event

from hybridmu.errors import ConfigError
from hybridmu.runtime.webhooks.pace import Pace
from hybridmu.runtime.webhooks.sender import Sender
from hybridmu.runtime.webhooks.trial import try_receiver
from hybridmu.store.ledger.database import Database
from hybridmu.types import EVENTS
from tests.scenes.webhook_receiver import SECRET, is_signed, receiver
from tests.store.ledger.test_registry import outcome, plan
from tests.support import HANG_SECONDS, key, until

FAST = Pace(first=0.01, longest=0.05, rest=0.05, look=0.01, lease=1.0)
LIFE = ["accepted", "applied", "exact", "served", "purged"]


@pytest.fixture(autouse=True)
def _secret(monkeypatch):
    monkeypatch.setenv("HOOK_SECRET", SECRET)


@pytest.fixture
def there():
    with receiver() as made:
        yield made


@pytest.fixture
def database(database_url):
    """A trained system's ledger, whose receivers are told of everything."""
    made = Database.open(database_url, create=True)
    token = made.lease.acquire("me", 3600)
    made.registry.publish_training(token, [outcome(shard, 0) for shard in range(3)])
    made.webhooks.configure({"crm": EVENTS})
    yield made
    made.close()


def asked(database, count):
    """Return requests that are accepted."""
    return [database.ledger.accept([key(n, n % 3)], caller="desk").request_id for n in range(count)]


def fulfil(database, requests):
    """Let requests be applied, exact, served and purged."""
    token = database.lease.acquire("me", 3600)
    current = database.registry.served()
    last = max(database.ledger.tombstones().values(), key=lambda stones: stones[-1].seq)[-1].seq
    pairs = [(plan(shard), outcome(shard, last)) for shard in range(3)]
    database.registry.publish(token, "round", requests, pairs)
    database.progress.mark_served(token, current + 1)
    for number, request in enumerate(requests, 1):
        database.deletions.finish(token, request, number, 1.0)


@contextmanager
def sending(database, receivers, pace=FAST, holder="sender"):
    sender = Sender(receivers, database.webhooks, "the-system", holder, pace)
    sender.start()
    try:
        yield sender
    finally:
        sender.stop()


def nothing_waits(database):
    return all(counts.waiting == counts.dead == 0 for counts in database.webhooks.counts())


def by_request(told):
    found = defaultdict(list)
    for request, what in told:
        found[request].append(what)
    return found


def test_every_event_arrives_once_in_order_signed(database, there):
    requests = asked(database, 4)
    with sending(database, {"crm": there.settings()}):
        fulfil(database, requests)
        until(lambda: nothing_waits(database))
    assert by_request(there.told) == dict.fromkeys(requests, LIFE)
    assert all(is_signed(got, SECRET, time.time(), HANG_SECONDS) for got in there.received)
    assert len({got.headers["webhook-id"] for got in there.received}) == 20
    last = there.received[-1].data
    wanted = {"system": "the-system", "caller": "desk", "event": "purged", "state": "PURGED", "version": 2}
    assert last.items() >= wanted.items()
    assert (last["certificate"], last["purged_at"]) == ({"available": True, "number": 4}, "1970-01-01T00:00:01.000000Z")
    assert database.webhooks.lease.holder() is None, "it was given back"


@pytest.mark.parametrize("seed", range(4))
def test_failures_are_tried_again_and_nothing_overtakes_them(seed, database, there):
    draw, acknowledged, lock = random.Random(seed), defaultdict(list), threading.Lock()

    def answer(got):
        request, what = got.what
        with lock:
            assert acknowledged[request] == LIFE[: LIFE.index(what)], "what comes before is acknowledged"
            if draw.random() < 0.4:
                return draw.choice([500, 302, 404, lambda handler: handler.connection.close()])
            acknowledged[request].append(what)
            return 200

    there.answers = answer
    requests = asked(database, 5)
    fulfil(database, requests)
    with sending(database, {"crm": there.settings()}):
        until(lambda: nothing_waits(database))
    assert acknowledged == dict.fromkeys(requests, LIFE)
    assert len(there.received) > 25
    names = defaultdict(set)
    for got in there.received:
        names[got.what].add((got.headers["webhook-id"], got.body))
    assert all(len(kept) == 1 for kept in names.values()), "every try has the same name and body"


def test_each_receiver_is_told_on_its_own(database, there):
    hangs = threading.Event()
    with receiver() as slow, receiver() as failing:
        slow.answers = lambda _: lambda handler: hangs.wait(HANG_SECONDS)
        failing.answers = lambda _: 500
        receivers = {"crm": there.settings(), "slow": slow.settings(timeout_seconds=60), "failing": failing.settings()}
        database.webhooks.configure(dict.fromkeys(receivers, EVENTS))
        requests = asked(database, 3)
        with sending(database, receivers):
            fulfil(database, requests)
            until(lambda: len(there.received) == 15 and len(failing.received) > 9 and slow.received)
            assert by_request(there.told) == dict.fromkeys(requests, LIFE)
            assert len(slow.received) == 1, "one at a time"
            assert {what for _, what in failing.told} == {"accepted"}, "what failed keeps back the rest"
            hangs.set()
        left = {counts.name: counts.waiting for counts in database.webhooks.counts()}
        assert (left["crm"], left["failing"]) == (0, 15)


def test_what_is_given_up_is_kept_and_shown_and_can_be_tried_again(database, there, caplog):
    there.answers = lambda got: 503 if got.what[0] == first else 200
    first, second = requests = asked(database, 2)
    fulfil(database, requests)
    with sending(database, {"crm": there.settings(give_up_hours=1e-5)}):
        until(lambda: database.webhooks.dead())
        until(lambda: by_request(there.told)[second] == LIFE)
        (dead,) = database.webhooks.dead()
        assert (dead["event"], dead["problem"], dead["attempts"] > 1) == ("accepted", "HTTP 503", True)
        assert "given up" in caplog.text
        assert database.vitals().webhooks_dead == 1
        there.answers = lambda _: 200
        assert database.webhooks.retry() == 1
        until(lambda: nothing_waits(database))
    assert by_request(there.told)[first][-5:] == LIFE


def test_nothing_is_given_up_that_was_never_tried(database, there, clock):
    (request,) = asked(database, 1)
    clock(1e7)
    there.answers = lambda _: 500 if len(there.received) == 1 else 200
    with sending(database, {"crm": there.settings(give_up_hours=1)}):
        until(lambda: nothing_waits(database))
    assert there.told == [(request, "accepted")] * 2


def test_of_two_senders_one_sends_and_the_other_takes_over(database, database_url, there):
    other = Database.open(database_url)
    requests = asked(database, 6)
    fulfil(database, requests)
    receivers = {"crm": there.settings()}
    with sending(database, receivers, holder="a") as one, sending(other, receivers, holder="b") as two:
        until(lambda: nothing_waits(database))
        assert one.leads != two.leads
        assert Counter(there.told) == {(request, what): 1 for request in requests for what in LIFE}
        (one if one.leads else two).stop()
        more = asked(database, 9)[6:]
        until(lambda: nothing_waits(database))
        assert Counter(there.told[30:]) == {(request, "accepted"): 1 for request in more}
    other.close()


@pytest.mark.sampled
def test_who_lost_the_lease_begins_no_try(database, there):
    """Its holder was stopped for so long that another one sends: what it had found due is not sent by it."""
    asked(database, 1)
    with sending(database, {"crm": there.settings()}) as sender:
        until(lambda: nothing_waits(database))
        with database.engine.begin() as connection:
            taken = "UPDATE leases SET holder = 'b', token = token + 1, expires_at = 4e9 WHERE name = 'webhooks'"
            connection.exec_driver_sql(taken)
        until(lambda: not sender.leads)
        asked(database, 2)
        time.sleep(0.2)
        assert len(there.received) == 1


def test_a_ledger_out_of_reach_stops_no_thread(database, there):
    (request,) = asked(database, 1)
    failing, failed = [True], [0]

    def fail(*_):
        if failing[0] and threading.current_thread().name.startswith("webhooks"):
            failed[0] += 1
            raise OSError("gone")

    event.listen(database.engine, "before_cursor_execute", fail)
    with sending(database, {"crm": there.settings()}):
        until(lambda: failed[0] > 3)
        failing[0] = False
        until(lambda: nothing_waits(database))
    assert there.told == [(request, "accepted")]


def test_a_secret_that_is_none_is_told_at_once(database, there, tmp_path, monkeypatch):
    for secret in ("env:NOBODY", f"file:{tmp_path / 'none'}"):
        with pytest.raises(ConfigError, match=r"webhooks\.crm\.secret can't be read"):
            Sender({"crm": there.settings(secret=secret)}, database.webhooks, "s", "h")
    kept = tmp_path / "secret"
    kept.write_text(SECRET)
    kept.chmod(0o644)
    with pytest.raises(ConfigError, match="others than its owner"):
        Sender({"crm": there.settings(secret=f"file:{kept}")}, database.webhooks, "s", "h")
    kept.chmod(0o600)
    assert try_receiver("crm", there.settings(secret=f"file:{kept}"), "s")["acknowledged"]
    assert is_signed(there.received[0], SECRET, time.time(), HANG_SECONDS)


# ---------------------------------------------------------------------- kills

ACCEPTS = """
import sys
from hybridmu import config  # arms what the environment says
from hybridmu.store.ledger.database import Database
from tests.support import key
Database.open(sys.argv[1]).ledger.accept([key(7)])
"""
SENDS = """
import sys, threading
from hybridmu.config import WebhookSettings
from hybridmu.runtime.webhooks.sender import Sender
from hybridmu.store.ledger.database import Database
from tests.runtime.webhooks.test_sender import FAST
url, hook = sys.argv[1:]
receiver = WebhookSettings(url=hook, secret="env:HOOK_SECRET", timeout_seconds=1)
Sender({"crm": receiver}, Database.open(url).webhooks, "the-system", "killed", FAST).start()
threading.Event().wait()
"""


def process(code, *arguments, **environment):
    return subprocess.Popen([sys.executable, "-c", code, *arguments], env={**os.environ, **environment})


@pytest.mark.parametrize(("point", "events"), [("accept.commit", 0), ("accept.committed", 1)])
def test_a_kill_between_commit_and_send_loses_nothing(point, events, database, database_url, there):
    killed = process(ACCEPTS, database_url, HYBRIDMU_FAULT=f"{point}:1:kill")
    assert killed.wait(HANG_SECONDS) == -signal.SIGKILL
    assert len(database.ledger.requests()) == events
    with sending(database, {"crm": there.settings()}):
        until(lambda: len(there.received) == events and nothing_waits(database))
    assert [what for _, what in there.told] == ["accepted"] * events


@pytest.mark.sampled
def test_a_sender_that_is_killed_in_the_middle_is_followed_by_one_that_repeats_it(database, database_url, there):
    """It is killed five times: before the receiver has answered, or just after."""
    requests, killed, running = asked(database, 3), [], []
    fulfil(database, requests)

    def answer(_):
        if len(killed) < 5 and (len(there.received) - len(killed)) % 3 == 0:
            os.kill(running[-1].pid, signal.SIGKILL)
            killed.append(running[-1])
            return 204 if len(killed) % 2 else (lambda handler: handler.connection.close())
        return 204

    there.answers = answer
    deadline = time.monotonic() + HANG_SECONDS
    while not nothing_waits(database) and time.monotonic() < deadline:
        running.append(process(SENDS, database_url, there.url))
        until(lambda: running[-1].poll() is not None or nothing_waits(database))
    with suppress(ProcessLookupError):
        running[-1].kill()
    for one in running:
        one.wait(HANG_SECONDS)
    assert len(killed) == 5
    for request, told in by_request(there.told).items():
        assert request in requests
        assert list(dict.fromkeys(told)) == LIFE
        assert told == sorted(told, key=LIFE.index), "a repetition comes before what follows it"
    names = {got.what: got.headers["webhook-id"] for got in there.received}
    assert all(names[got.what] == got.headers["webhook-id"] for got in there.received)
    assert len(there.received) >= 15 + 4
