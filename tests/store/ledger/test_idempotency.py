"""Idempotency keys: a caller's own, hashed with a secret, and nothing of what was asked left after a purge."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

import hybridmu
from hybridmu.errors import ConflictError, RequestError, StateError
from hybridmu.store.keyring import Keyring
from hybridmu.store.ledger import tables as t
from hybridmu.store.ledger.idempotency import seal
from hybridmu.types import RequestState
from tests.support import key, make_table, repeat, rows_of, settings_dict


@pytest.fixture
def config(tmp_path):
    make_table(tmp_path / "train.parquet", 90, ids="str")
    return settings_dict(tmp_path, sisa={"shards": 3}, policy={"verify_share": 0.0, "calibrate": False})


@pytest.fixture
def system(config):
    with hybridmu.connect(config, executor="local") as made:
        made.train()
        yield made


def test_a_key_is_its_callers_own(ledger):
    first = ledger.accept([key(1)], caller="a", repeat=repeat("ticket-1", ["x"], "a"))
    other = ledger.accept([key(1)], caller="b", repeat=repeat("ticket-1", ["x"], "b"))
    assert (other.request_id == first.request_id, other.caller) == (False, "b")
    assert ledger.find_repeat(repeat("ticket-1", ["y"], "c")) is None, "nobody learns which keys others used"
    assert ledger.find_repeat(repeat("ticket-1", ["x"], "b")) == other


def test_neither_key_nor_payload_can_be_guessed_without_the_guard_key(system, config):
    system.forget(ids=["r17"], key="ticket-4711", caller="desk")
    [row] = rows_of(system.database.engine, t.idempotency)
    kept = {bytes(row.key), bytes(row.payload)[:32]}
    texts = [json.dumps(["desk", "ticket-4711"]), "ticket-4711", json.dumps([[["r17"], []], "auto"])]
    guesses = [f(text.encode()).digest()[:32] for f in (hashlib.sha256, hashlib.blake2b) for text in texts]
    assert kept.isdisjoint(guesses)
    other = Keyring(system.settings.model_copy(update={"storage_url": f"{config['storage_url']}-other"}))
    asked = [["r17"], [], "auto", None, False]
    other.stamp()
    made = seal(other.seals, "desk", "ticket-4711", asked)
    ours = seal(system.guard.seals, "desk", "ticket-4711", asked)
    assert {made.seals[0].name, made.seals[0].payload}.isdisjoint(kept)
    assert {ours.seals[0].name, ours.seals[0].payload} == kept


def test_nothing_of_what_was_asked_is_left_when_it_is_purged(system):
    name = system.forget(ids=["r17", "r18"], key="gdpr/r17", wait=True)["request_id"]
    joined = system.forget(ids=["r17"], key="gdpr/r17", caller="b")["request_id"]
    [payload, other] = [bytes(row.payload)[:32] for row in rows_of(system.database.engine, t.idempotency)]
    journal = [Path(system.site.storage.path(info.name)) for info in system.site.storage.list("journal")]
    assert any(payload.hex() in path.read_text() for path in journal)
    system.run(until_idle=True)
    assert {system.ledger.request(each).state for each in (name, joined)} == {RequestState.PURGED}
    numbers = [(2, 0), (1, 0)]  # how many ids and groups were named, how many of them are unknown
    assert [numbers_of(row.payload) for row in rows_of(system.database.engine, t.idempotency)] == numbers
    folder = Path(system.settings.storage_url)
    for path in [*journal, *folder.glob("ledger.sqlite3*")]:
        for each in (payload, other):
            assert each not in path.read_bytes()
            assert each.hex().encode() not in path.read_bytes()
    system.forget(ids=["r17"], key="late", caller="c")
    found = [numbers_of(row.payload) for row in rows_of(system.database.engine, t.idempotency)]
    assert found == [*numbers, (1, 0)], "it is over at once"


def numbers_of(payload):
    """Return the numbers that are all that is left of what was asked."""
    assert len(payload) == 8
    return int.from_bytes(payload[:4]), int.from_bytes(payload[4:])


@pytest.mark.slow
def test_a_repeat_after_the_purge_has_to_name_the_same_rows(system):
    name = system.forget(ids=["r17", "r18"], key="k")["request_id"]
    over = system.forget(ids=["r17"], key="k", caller="b")["request_id"]
    system.run(until_idle=True)
    assert system.forget(ids=["r18", "r17", "r18"], key="k")["request_id"] == name
    assert system.forget(ids=["r17"], key="k", caller="b")["request_id"] == over
    for ids in (["r17"], ["r17", "r18", "r19"], ["r17", "r20"], ["nobody"]):
        with pytest.raises(ConflictError, match="another payload"):
            system.forget(ids=ids, key="k")
    system.keyring.rotate("guard", 0)
    assert system.forget(ids=["r18", "r17"], key="k")["request_id"] == name, "old keys still know a repeat"


@pytest.mark.slow
def test_an_exact_repeat_never_conflicts(system):
    """Whatever became of what it named: purged, unknown, another request's, readmitted."""
    calls = [
        {"ids": ["r1", "nobody"], "ignore_unknown": True},
        {"ids": ["r2", "r2"], "deadline_seconds": 100.0},
        {"ids": ["r3", "r4"]},
        {"ids": ["r3"]},  # of the request before
        {"ids": ["r4", "nobody"], "ignore_unknown": True},  # likewise
        {"ids": ["r5", "r6"], "strategy": "retrain"},
        {"ids": ["r1"], "caller": "b"},
    ]

    def ask():
        return [system.forget(key=f"k{number}", **call)["request_id"] for number, call in enumerate(calls)]

    first = ask()
    assert (ask(), len(set(first))) == (first, 5)
    system.run(until_idle=True)
    assert {system.ledger.request(name).state for name in first} == {RequestState.PURGED}
    assert ask() == first
    system.readmit(ids=["r1", "r3", "r5"], reason="a test")
    system.keyring.rotate("guard", 1)
    assert ask() == first


@pytest.mark.slow
def test_another_call_conflicts_after_the_purge(system):
    system.forget(ids=["r1", "nobody"], ignore_unknown=True, key="k")
    system.forget(ids=["r1"], key="of-another")
    system.run(until_idle=True)
    for ids in (["r1"], ["nobody"], ["r2", "nobody"], ["r1", "r2", "nobody"], ["r1", "r2", "r3"]):
        with pytest.raises(ConflictError, match="another payload"):
            system.forget(ids=ids, ignore_unknown=True, key="k")
    for ids in (["r2"], ["r1", "r2"]):
        with pytest.raises(ConflictError, match="another payload"):
            system.forget(ids=ids, key="of-another")


def test_what_an_earlier_release_left_of_a_purged_request_still_knows_its_repeat(system):
    name = system.forget(ids=["r1", "nobody"], ignore_unknown=True, key="k")["request_id"]
    system.run(until_idle=True)
    with system.database.engine.begin() as connection:
        connection.execute(t.idempotency.update().values(payload=None))
    assert system.forget(ids=["r1", "nobody"], ignore_unknown=True, key="k")["request_id"] == name
    with pytest.raises(ConflictError, match="another payload"):
        system.forget(ids=["r1"], key="k")


def test_other_options_are_another_payload(system):
    system.forget(ids=["r17"], key="k", deadline_seconds=100.0)
    assert system.forget(ids=["r17"], key="k", deadline_seconds=100)["keys"] == 1
    for options in ({"deadline_seconds": 5.0}, {"strategy": "retrain"}, {"ignore_unknown": True}):
        with pytest.raises(ConflictError, match="another payload"):
            system.forget(ids=["r17"], key="k", **{"deadline_seconds": 100.0, **options})
    with pytest.raises(ConflictError, match="another payload"):
        system.forget(ids=["r17"], key="k")


@pytest.mark.slow
def test_a_rotated_guard_key_still_knows_a_repeat_and_a_lost_one_says_so(system):
    name = system.forget(ids=["r17"], key="k")["request_id"]
    old = system.keyring.guard_keys()[0]
    system.keyring.rotate("guard", 0)
    assert system.forget(ids=["r17"], key="k")["request_id"] == name
    other = system.forget(ids=["r20"], key="new")["request_id"]
    (system.settings.keys_folder / "guard-0001.hex").unlink()
    assert system.forget(ids=["r20"], key="new")["request_id"] == other, "what the new key made is known"
    with pytest.raises(StateError, match="can't be told whether this idempotency key was used") as error:
        system.forget(ids=["r17"], key="k")
    assert old in str(error.value)
    assert system.forget(ids=["r17"])["request_id"] == name, "without a key nobody is refused"
    system.run(until_idle=True)
    system.accept_guard_loss(old, reason="a test")
    assert system.forget(ids=["r17"], key="k")["request_id"] == name, "it is a new key, for what is asked already"


def test_a_loss_of_idempotency_keys_alone_can_be_accepted(system):
    seals = system.guard.seals
    with system.database.engine.begin() as connection:
        values = {"key": b"n" * 32, "key_id": "lost", "payload": None, "request_id": "i-1"}
        connection.execute(t.idempotency.insert().values(**values))
    with pytest.raises(StateError, match="guard key is lost"):
        system.forget(ids=["r17"])
    system.keyring.rotate("guard", 1)
    with pytest.raises(StateError, match="accept-loss"):
        system.database.ledger.find_repeat(seal(seals, "", "k", []))
    assert system.accept_guard_loss("lost", reason="a test")["given_up"] == 0
    assert system.database.ledger.find_repeat(seal(seals, "", "k", [])) is None


def test_a_key_has_a_length(system):
    with pytest.raises(RequestError, match="key is too long"):
        system.forget(ids=["r17"], key="x" * 201)
    assert system.requests() == []


def entry_of(storage):
    """Return the name of the only entry of a journal, and what an older release would have written of it."""
    [name] = [
        info.name for info in storage.list("journal") if info.name not in {"journal/state.json", "journal/seals.json"}
    ]
    entry = json.loads(storage.read(name))
    return name, {member: entry[member] for member in ("requests", "tombstones", "needs", "guard", "idempotency")}


def test_unkeyed_hashes_of_an_older_release_leave_the_journal(system):
    """An entry as it was written before: the name and the payload of a key hashed without a secret."""
    system.forget(ids=["r17"], wait=True)
    storage = system.site.storage
    name, entry = entry_of(storage)
    guessable = hashlib.blake2b(b"ticket-1", digest_size=32, person=b"idempotency").hexdigest()
    row = {"key": guessable, "payload": "00" * 16, "request_id": entry["requests"][0]["request_id"]}
    storage.write(name, json.dumps({**entry, "idempotency": [row]}).encode())
    system.close()
    system.run(until_idle=True)
    assert guessable.encode() not in storage.read(name)
    assert json.loads(storage.read(name))["requests"] == entry["requests"]


def test_a_restored_ledger_takes_nothing_unkeyed_from_the_journal(system):
    name = system.forget(ids=["r17"], wait=True)["request_id"]
    storage, journal = system.site.storage, system.database.journal(system.site.storage)
    file, entry = entry_of(storage)
    row = {"key": "ab" * 32, "payload": "00" * 16, "request_id": name}
    storage.write(file, json.dumps({**entry, "idempotency": [row]}).encode())
    with system.database.engine.begin() as connection:
        for table in (t.requests, t.tombstones, t.needs, t.guard):
            connection.execute(table.delete().where(table.c.request_id == name))
    assert journal.replay()["requests"] == 1
    assert rows_of(system.database.engine, t.idempotency) == []
