from __future__ import annotations

import dataclasses
import time

import pytest
import sqlalchemy as sa

from hybridmu.errors import ConflictError, LeaseLostError, RequestError, StateError, StorageMismatchError
from hybridmu.store import tables as t
from hybridmu.store.ledger import Ledger
from hybridmu.types import Calibration, CalibrationBucket, RequestState
from tests.support import key, rows_of


def test_accept_commits_the_request_with_its_tombstones(ledger, engine, tmp_path):
    before = time.time()
    request = ledger.accept(
        [key(1), key(2, 3), key(2, 1, kind="group")], known=[key(7), key(8), key(8, 2)], strategy="dpus",
        deadline_seconds=60, ignored_unknown=5,
    )  # fmt: skip
    assert (request.state, request.strategy, request.keys) == (RequestState.RECEIVED, "dpus", 3)
    assert (request.already_forgotten, request.ignored_unknown) == (2, 5)
    assert before <= request.received_at <= time.time()
    assert request.deadline_at == pytest.approx(request.received_at + 60)
    other = Ledger(t.connect(str(engine.url)))  # another process would see the same
    assert other.request(request.request_id) == request
    stones = other.tombstones()
    assert {shard: [(x.kind, x.key, x.slice) for x in found] for shard, found in stones.items()} == {
        0: [("id", key(1).key, 1)], 1: [("group", key(2).key, 1)], 3: [("id", key(2).key, 1)]
    }  # fmt: skip
    assert other.tombstones([3, 7]) == {3: stones[3]}
    assert other.shards_of([request.request_id, "r-none"]) == {request.request_id: {0, 1, 3}, "r-none": set()}


def test_accept_is_one_transaction(ledger, engine):
    twice = [key(1), key(2), key(1)]  # breaks the constraint on tombstones after the request was inserted
    with pytest.raises(sa.exc.IntegrityError):
        ledger.accept(twice)
    assert rows_of(engine, t.requests) == []
    assert rows_of(engine, t.tombstones) == []


def test_a_repeated_idempotency_key_is_the_same_request(ledger, engine):
    first = ledger.accept([key(1)], idempotency_key="k", payload=["a"])
    assert ledger.accept([key(2)], idempotency_key="k", payload=["a"]) == first
    assert ledger.find_repeat("k", ["a"], "auto") == first
    assert ledger.find_repeat("other", ["a"], "auto") is None
    assert ledger.find_repeat(None, ["a"], "auto") is None
    assert len(rows_of(engine, t.tombstones)) == 1


@pytest.mark.parametrize(("payload", "strategy"), [(["b"], "auto"), (["a"], "retrain")])
def test_another_payload_under_the_same_key_is_a_conflict(ledger, engine, payload, strategy):
    ledger.accept([key(1)], idempotency_key="k", payload=["a"])
    with pytest.raises(ConflictError, match="'k' was used with another payload"):
        ledger.accept([key(2)], idempotency_key="k", payload=payload, strategy=strategy)
    with pytest.raises(ConflictError):
        ledger.find_repeat("k", payload, strategy)
    assert len(rows_of(engine, t.requests)) == len(rows_of(engine, t.tombstones)) == 1


def test_what_was_revoked_is_not_revoked_again(ledger):
    first = ledger.accept([key(1), key(2)])
    second = ledger.accept([key(2), key(3)])
    assert second.keys == 1
    assert [x.key for x in ledger.tombstones()[0]] == [key(n).key for n in (1, 2, 3)]
    assert ledger.accept([key(1)]) == first
    assert ledger.accept([], known=[key(1)]) == first
    assert ledger.accept([], known=[key(1), key(3)]) == second  # the newest
    group = dataclasses.replace(key(9), kind="group", carriers=(key(1).key,))  # its only row was revoked by its id
    assert ledger.accept([], known=[group]) == first
    elsewhere = dataclasses.replace(key(9, shard=4), carriers=(key(1).key,))
    with pytest.raises(RequestError, match="empty"):
        ledger.accept([], known=[elsewhere])
    assert ledger.requests() == [first, second]
    with pytest.raises(RequestError, match="empty"):
        ledger.accept([])


def test_an_idempotency_key_of_a_request_without_news_is_remembered(ledger):
    first = ledger.accept([key(1)], payload=["a"])
    assert ledger.accept([key(1)], idempotency_key="k", payload=["a"]) == first
    assert ledger.find_repeat("k", ["a"], "auto") == first
    with pytest.raises(ConflictError):
        ledger.accept([key(2)], idempotency_key="k", payload=["b"])


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


def test_states_move_under_the_fence_only(ledger):
    token = ledger.acquire("a", 10)
    one, two, three = (ledger.accept([key(n)]).request_id for n in (1, 2, 3))
    ledger.mark_planned(token, [one, two], "round", 4)
    ledger.mark_failed(token, [two], "because")
    with pytest.raises(LeaseLostError):
        ledger.mark_planned(token + 1, [three], "round", 4)
    with pytest.raises(LeaseLostError):
        ledger.mark_failed(token - 1, [one], "x")
    states = {r.request_id: (r.state, r.version_before, r.reason) for r in ledger.requests()}
    assert states == {one: ("PLANNED", 4, None), two: ("FAILED", 4, "because"), three: ("RECEIVED", None, None)}
    assert [r.request_id for r in ledger.requests([RequestState.RECEIVED, RequestState.FAILED])] == [two, three]
    assert len(ledger.tombstones()[0]) == 3  # a failed request keeps its tombstones
    with pytest.raises(StateError, match="no such request"):
        ledger.request("r-unknown")


def test_the_lease(ledger):
    assert ledger.lease_holder() is None
    first = ledger.acquire("a", 60)
    assert (first, ledger.lease_holder()) == (1, "a")
    assert ledger.acquire("b", 60) is None
    ledger.heartbeat(first, 0.05)
    time.sleep(0.06)
    assert ledger.lease_holder() is None
    ledger.heartbeat(first, 60)  # late, but nobody took it
    assert ledger.acquire("b", 60) is None
    ledger.heartbeat(first, -1)
    second = ledger.acquire("b", 60)
    assert (second, ledger.lease_holder()) == (2, "b")
    with pytest.raises(LeaseLostError, match="token 1"):
        ledger.heartbeat(first, 60)
    ledger.release(first)  # not ours any more: nothing happens
    assert ledger.lease_holder() == "b"
    ledger.release(second)
    assert ledger.lease_holder() is None
    assert ledger.acquire("a", 60) == 3
    assert ledger.acquire("a", 60) == 4  # its own restart does not wait


def test_calibration_round_trip(ledger):
    assert ledger.calibration() == Calibration()
    buckets = (
        CalibrationBucket("dpus", 1, 0.05, 0.3, 0.01, -0.002, 12),
        CalibrationBucket("dpus-optimised", 3, 0.1, 0.5, 0.2, 0.0),
    )
    made = Calibration(buckets, (bytes(16), b"x" * 16))
    ledger.set_calibration(Calibration(buckets[:1]))
    ledger.set_calibration(made)
    assert ledger.calibration() == made


def test_storage_is_bound_to_one_configuration(ledger):
    with pytest.raises(StateError, match="nothing was trained"):
        ledger.bind({"a": 1}, create=False)
    ours = {"sisa": {"seed": 0, "shards": 2}, "task": {"name": "mlp", "hidden": (3,)}, "partition_key": "x"}
    ledger.bind(ours, create=True)
    ledger.bind(ours, create=False)
    ledger.bind(ours | {"task": {"name": "mlp", "hidden": [3]}}, create=True)  # JSON has no tuples
    with pytest.raises(StorageMismatchError) as error:
        ledger.bind(
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


def test_a_storage_without_a_lake_can_be_claimed_anew(ledger):
    ledger.bind({"seed": 0}, create=True, replace=True)
    ledger.bind({"seed": 1}, create=True, replace=True)
    ledger.bind({"seed": 1}, create=False)
    with pytest.raises(StorageMismatchError, match="seed: storage has 1, the configuration 0"):
        ledger.bind({"seed": 0}, create=True)
