from __future__ import annotations

import dataclasses
import time

import pytest
import sqlalchemy as sa

from hybridmu.core.calibration.fit import fit
from hybridmu.errors import ConflictError, LeaseLostError, RequestError, StateError, StorageMismatchError
from hybridmu.store.ledger import tables as t
from hybridmu.store.ledger.ledger import Ledger
from hybridmu.store.ledger.ledger_identity import Identity
from hybridmu.store.ledger.measurements import Measurements
from hybridmu.types import Calibration, CanaryControls, RequestState, RowKey
from tests.support import curve, key, repeat, rows_of


def test_accept_commits_the_request_with_its_tombstones(ledger, engine, tmp_path):
    ledger.accept([key(7)])
    before = time.time()
    request = ledger.accept(
        [key(1), key(2, 3), key(2, 1, kind="group"), key(7)], strategy="dpus",
        deadline_seconds=60, ignored_unknown=5, caller="someone",
    )  # fmt: skip
    assert (request.state, request.strategy, request.keys) == (RequestState.RECEIVED, "dpus", 3)
    assert (request.already_forgotten, request.ignored_unknown, request.caller) == (1, 5, "someone")
    assert before <= request.received_at <= time.time()
    assert request.deadline_at == pytest.approx(request.received_at + 60)
    other = Ledger(engine)  # another process would see the same
    assert other.request(request.request_id) == request
    stones = other.tombstones()
    assert {shard: [(x.kind, x.key, x.slice) for x in found] for shard, found in stones.items()} == {
        0: [("id", key(7).key, 1), ("id", key(1).key, 1)], 1: [("group", key(2).key, 1)], 3: [("id", key(2).key, 1)]
    }  # fmt: skip
    assert other.tombstones([3, 7]) == {3: stones[3]}
    assert other.shards_of([request.request_id, "r-none"]) == {request.request_id: {0: 2, 1: 4, 3: 3}, "r-none": {}}


def test_accept_is_one_transaction(ledger, engine, monkeypatch):
    monkeypatch.setattr(t.needs, "insert", lambda: sa.text("insert into nowhere values (1)"))  # the last of its writes
    with pytest.raises(sa.exc.DBAPIError):
        ledger.accept([key(1), key(2)], repeat=repeat("k"))
    for table in (t.requests, t.tombstones, t.guard, t.idempotency):
        assert rows_of(engine, table) == []


def test_a_repeated_idempotency_key_is_the_same_request(ledger, engine):
    first = ledger.accept([key(1)], repeat=repeat("k", ["a"]))
    assert ledger.accept([key(2)], repeat=repeat("k", ["a"])) == first
    assert ledger.find_repeat(repeat("k", ["a"])) == first
    assert ledger.find_repeat(repeat("other", ["a"])) is None
    assert ledger.find_repeat(None) is None
    assert len(rows_of(engine, t.tombstones)) == 1


def test_another_payload_under_the_same_key_is_a_conflict(ledger, engine):
    ledger.accept([key(1)], repeat=repeat("ticket-1", ["a"]))
    with pytest.raises(ConflictError, match="was used with another payload") as error:
        ledger.accept([key(2)], repeat=repeat("ticket-1", ["b"]))
    assert "ticket-1" not in str(error.value), "a key may hold an id, and errors end in logs"
    with pytest.raises(ConflictError):
        ledger.find_repeat(repeat("ticket-1", ["b"]))
    assert len(rows_of(engine, t.requests)) == len(rows_of(engine, t.tombstones)) == 1


def test_what_was_revoked_is_not_revoked_again(ledger):
    first = ledger.accept([key(1), key(2)])
    second = ledger.accept([key(2), key(3)])
    assert second.keys == 1
    assert [x.key for x in ledger.tombstones()[0]] == [key(n).key for n in (1, 2, 3)]
    assert ledger.accept([key(1)]) == first
    both = ledger.accept([key(1), key(3)])  # no earlier call asked for these two
    assert (both.keys, both.already_forgotten) == (0, 2)
    assert ledger.relies_on(both.request_id) == {first.request_id: None, second.request_id: None}
    row = key(1).rows
    group = dataclasses.replace(key(9), kind="group", rows=row)  # its only row was revoked by its id
    assert ledger.relies_on(ledger.accept([group]).request_id) == {first.request_id: None}
    assert len(ledger.tombstones()[0]) == 3
    elsewhere = dataclasses.replace(key(9, shard=4), kind="group", rows=row)
    assert ledger.accept([elsewhere]).keys == 1
    with pytest.raises(RequestError, match="empty"):
        ledger.accept([])


def test_a_row_is_counted_by_the_first_tombstone_that_revokes_it(ledger):
    mine = key(2, kind="group")
    rows = (RowKey(key(1).key, mine.key), RowKey(key(5).key, mine.key), RowKey(key(6).key, mine.key, training=False))
    group = dataclasses.replace(mine, rows=rows)
    one = dataclasses.replace(key(1), rows=rows[:1])
    ledger.accept([one])
    ledger.accept([group])
    assert [stone.rows for stone in ledger.tombstones()[0]] == [1, 1]  # the second row; the test row does not train
    assert ledger.counts() == {0: {1: (0, 2, 2)}}
    again = Ledger(ledger._write).assess([group, one])
    assert (again.fresh, len(again.known), len(again.covering)) == ((), 2, 2)
    both = dataclasses.replace(key(8, 1, kind="group"), rows=(RowKey(key(9).key, key(8).key),))
    single = dataclasses.replace(key(9, 1), rows=both.rows)
    ledger.accept([both, single])
    assert [stone.rows for stone in ledger.tombstones()[1]] == [1, 0]


@pytest.mark.sampled
def test_an_idempotency_key_of_a_request_without_news_is_remembered(ledger):
    first = ledger.accept([key(1)])
    assert ledger.accept([key(1)], repeat=repeat("k", ["a"])) == first
    assert ledger.find_repeat(repeat("k", ["a"])) == first
    with pytest.raises(ConflictError):
        ledger.accept([key(2)], repeat=repeat("k", ["b"]))


def test_many_keys_are_committed_in_order(ledger):
    ledger.accept([key(5000, shard=1)])
    request = ledger.accept([key(n, shard=n % 3) for n in range(2500, 0, -1)])  # past SQLite's parameter limits
    assert request.keys == 2500
    stones = ledger.tombstones()
    assert [int.from_bytes(x.key, "big") for x in stones[2]] == [n for n in range(2500, 0, -1) if n % 3 == 2]
    every = sorted(x.seq for found in stones.values() for x in found)
    assert every == list(range(1, 2502))
    assert stones[1][0].key == key(5000).key
    assert ledger.accept([key(n, shard=n % 3) for n in range(1, 2501)]) == request


def test_states_move_under_the_fence_only(ledger, lease, progress):
    token = lease.acquire("a", 10)
    one, two, three = (ledger.accept([key(n)]).request_id for n in (1, 2, 3))
    progress.mark_planned(token, [one, two], "round", 4)
    progress.mark_failed(token, [two], "because")
    with pytest.raises(LeaseLostError):
        progress.mark_planned(token + 1, [three], "round", 4)
    with pytest.raises(LeaseLostError):
        progress.mark_failed(token - 1, [one], "x")
    states = {r.request_id: (r.state, r.version_before, r.reason) for r in ledger.requests()}
    assert states == {one: ("PLANNED", 4, None), two: ("FAILED", 4, "because"), three: ("RECEIVED", None, None)}
    assert [r.request_id for r in ledger.requests([RequestState.RECEIVED, RequestState.FAILED])] == [two, three]
    assert len(ledger.tombstones()[0]) == 3  # a failed request keeps its tombstones
    with pytest.raises(StateError, match="no such request"):
        ledger.request("r-unknown")


def test_the_lease(lease, clock):
    assert lease.holder() is None
    first = lease.acquire("a", 60)
    assert (first, lease.holder()) == (1, "a")
    assert lease.acquire("b", 60) is None
    lease.heartbeat(first, 60)
    clock(60)
    assert lease.holder() is None
    lease.heartbeat(first, 60)  # late, but nobody took it
    assert lease.acquire("b", 60) is None
    lease.heartbeat(first, -1)
    second = lease.acquire("b", 60)
    assert (second, lease.holder()) == (2, "b")
    with pytest.raises(LeaseLostError, match="token 1"):
        lease.heartbeat(first, 60)
    lease.release(first)  # not ours any more: nothing happens
    assert lease.holder() == "b"
    lease.release(second)
    assert lease.holder() is None
    assert lease.acquire("a", 60) == 3
    assert lease.acquire("a", 60) == 4  # its own restart does not wait


def test_curves_are_kept_replaced_and_dropped(engine, lease):
    measurements, token = Measurements(engine), lease.acquire("me", 60)
    assert measurements.calibration() == Calibration()
    a, b = bytes(16), b"x" * 16
    controls = CanaryControls(-0.1, 0.02, 0.3)
    first = [curve(name, keys=(a, b), seconds=2.5, controls=controls) for name in ("dpus", "dpus-optimised")]
    other, later = curve("dpus", shard=1, keys=(b,)), curve("dpus", shard=1, first=3, share=0.01)
    measurements.add_curves(token, first)
    measurements.add_curves(token, [other, later])
    assert measurements.curves() == [*first, other, later]
    assert measurements.calibration() == fit([*first, other, later])
    anew = [curve("dpus", zero=0.3, keys=(a,))]
    measurements.add_curves(token, anew, spent=1.5)
    assert measurements.curves() == [other, later, *anew], "a set of canaries replaces the older one of its shard"
    measurements.add_curves(token, [], spent=0.25)
    assert measurements.effort() == (0.0, 1.75)
    assert measurements.drop_curves(token, [b"y" * 16]) == 0
    assert measurements.drop_curves(token, [b"y" * 16, b]) == 1
    assert measurements.curves() == [later, *anew]
    for write in (lambda: measurements.add_curves(token + 1, anew), lambda: measurements.drop_curves(token + 1, [a])):
        with pytest.raises(LeaseLostError):
            write()
    assert measurements.curves() == [later, *anew]


def test_storage_is_bound_to_one_configuration(engine):
    identity = Identity(engine)
    with pytest.raises(StateError, match="nothing was trained"):
        identity.bind({"a": 1}, create=False)
    ours = {"sisa": {"seed": 0, "shards": 2}, "task": {"name": "mlp", "hidden": (3,)}, "partition_key": "x"}
    identity.bind(ours, create=True)
    identity.bind(ours, create=False)
    identity.bind(ours | {"task": {"name": "mlp", "hidden": [3]}}, create=True)  # JSON has no tuples
    with pytest.raises(StorageMismatchError) as error:
        identity.bind(
            {"sisa": {"seed": 9, "shards": 2}, "task": {"name": "mlp"}, "partition_key": "x", "new": 1}, create=True
        )
    differing = [
        "sisa.seed: storage has 0, the configuration 9",
        "task.hidden: storage has [3], the configuration None",
    ]
    for line in [*differing, "new: storage has None, the configuration 1"]:
        assert line in error.value.got
    assert "shards" not in error.value.got
    assert "partition_key" not in error.value.got


def test_a_storage_without_a_lake_can_be_claimed_anew(engine):
    identity = Identity(engine)
    identity.bind({"seed": 0}, create=True, replace=True)
    identity.bind({"seed": 1}, create=True, replace=True)
    identity.bind({"seed": 1}, create=False)
    with pytest.raises(StorageMismatchError, match="seed: storage has 1, the configuration 0"):
        identity.bind({"seed": 0}, create=True)
