from __future__ import annotations

import time
from pathlib import Path

import pytest
import sqlalchemy as sa
import torch

from hybridmu.errors import (
    ConfigError,
    ConflictError,
    CorruptBlobError,
    LeaseLostError,
    RequestError,
    StateError,
    StorageMismatchError,
)
from hybridmu.store import tables as t
from hybridmu.store.blobs import Blobs, Storage, open_fs
from hybridmu.store.ledger import Ledger
from hybridmu.store.registry import Registry
from hybridmu.types import (
    Calibration,
    CalibrationBucket,
    CostObservation,
    RequestState,
    ResolvedKey,
    ShardOutcome,
    ShardPlan,
    SliceRecord,
)

# ---------------------------------------------------------------------- blobs


@pytest.fixture
def blobs(tmp_path) -> Blobs:
    return Blobs(Storage(str(tmp_path / "s")))


def state(value: float = 1.0) -> dict[str, torch.Tensor]:
    return {"w": torch.full((3, 2), value), "n": torch.tensor(7), "t": torch.arange(6.0).reshape(2, 3).T}


def file_of(blobs: Blobs, name: str) -> Path:
    return Path(blobs.storage.path(f"blobs/{name[:2]}/{name}.safetensors"))


def test_blobs_are_named_by_their_content(blobs):
    name = blobs.put(state())
    stamp = file_of(blobs, name).stat().st_mtime_ns
    assert blobs.put(state()) == name
    assert file_of(blobs, name).stat().st_mtime_ns == stamp  # written once
    assert blobs.put(state(2.0)) != name
    loaded = blobs.get(name)
    assert loaded.keys() == state().keys()
    assert all(torch.equal(loaded[key], value) and loaded[key].dtype == value.dtype for key, value in state().items())
    assert list((Path(blobs.storage.root)).rglob("*.tmp")) == []


def flip(data: bytes) -> bytes:
    return data[:-3] + bytes([data[-3] ^ 1]) + data[-2:]


@pytest.mark.parametrize(
    ("spoil", "says"),
    [(flip, "does not match"), (lambda d: d[:-4], "does not match"), (lambda d: b"", "does not match"), (None, "is missing")],
)
def test_a_spoiled_blob_is_never_used(blobs, spoil, says):
    name = blobs.put(state())
    blobs.record("ab" * 24, name)
    path = file_of(blobs, name)
    path.write_bytes(spoil(path.read_bytes())) if spoil else path.unlink()
    with pytest.raises(CorruptBlobError, match=says):
        blobs.get(name)
    assert blobs.load("ab" * 24) is None
    assert blobs.find("ab" * 24) is None  # dropped, so that it is built again
    assert not path.exists()
    assert blobs.put(state()) == name
    blobs.record("ab" * 24, name)
    assert torch.equal(blobs.load("ab" * 24)["w"], state()["w"])


def test_lineage_is_a_map_apart(blobs):
    name = blobs.put(state())
    assert blobs.find(name) is None
    blobs.record("cd" * 24, name)
    assert blobs.find("cd" * 24) == name
    assert blobs.find("ce" * 24) is None
    assert blobs.load("ce" * 24) is None


@pytest.mark.parametrize("form", ["path", "uri"])
def test_storage_publishes_whole_files(tmp_path, form):
    root = tmp_path / "a b"
    storage = Storage(str(root) if form == "path" else root.as_uri())
    storage.write("x/y.bin", b"1")
    storage.write("x/y.bin", b"22")
    assert (root / "x/y.bin").read_bytes() == storage.read("x/y.bin") == b"22"
    assert [p.name for p in (root / "x").iterdir()] == ["y.bin"]
    assert (storage.exists("x/y.bin"), storage.exists("x"), storage.exists("z")) == (True, False, False)
    storage.delete("x/y.bin")
    storage.delete("x/y.bin")
    storage.delete_folder("x")
    storage.delete_folder("x")
    assert not (root / "x").exists()


@pytest.mark.parametrize("url", ["nosuch://x/y", "s3:/%%"])
def test_unknown_file_systems(url):
    with pytest.raises(ConfigError, match="can't open"):
        open_fs(url)


# ---------------------------------------------------------------------- ledger


@pytest.fixture
def engine(tmp_path):
    return t.connect(f"sqlite:///{tmp_path / 'deep' / 'ledger.sqlite3'}")


@pytest.fixture
def ledger(engine) -> Ledger:
    return Ledger(engine)


def key(number: int, shard: int = 0, slice_: int = 1, kind: str = "id") -> ResolvedKey:
    return ResolvedKey(kind, number.to_bytes(16, "big"), shard, slice_, 1)


def rows_of(engine, table) -> list:
    with engine.begin() as connection:
        return list(connection.execute(table.select()))


def test_accept_commits_the_request_with_its_tombstones(ledger, engine, tmp_path):
    before = time.time()
    request = ledger.accept(
        [key(1), key(2, 3), key(2, 1, kind="group")], strategy="dpus", deadline_seconds=60, already_forgotten=4,
        ignored_unknown=5,
    )  # fmt: skip
    assert (request.state, request.strategy, request.keys) == (RequestState.RECEIVED, "dpus", 3)
    assert (request.already_forgotten, request.ignored_unknown) == (4, 5)
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
    assert ledger.covering([key(1)]) == first
    assert ledger.covering([key(1), key(3)]) == second  # the newest
    assert ledger.covering([key(9, shard=4)]) is None
    assert ledger.requests() == [first, second]
    with pytest.raises(RequestError, match="empty"):
        ledger.accept([])


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
    buckets = (CalibrationBucket("dpus", 1, 0.05, 0.3, 0.01, -0.002, 12), CalibrationBucket("dpus-optimised", 3, 0.1, 0.5, 0.2, 0.0))
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
        ledger.bind({"sisa": {"seed": 9, "shards": 2}, "task": {"name": "mlp"}, "partition_key": "x", "new": 1}, create=True)
    for line in ("sisa.seed: storage has 0, the configuration 9", "task.hidden: storage has [3], the configuration None",
                 "new: storage has None, the configuration 1"):  # fmt: skip
        assert line in error.value.got
    assert "shards" not in error.value.got
    assert "partition_key" not in error.value.got


# ---------------------------------------------------------------------- registry


@pytest.fixture
def registry(engine) -> Registry:
    return Registry(engine)


def outcome(shard: int, upto: int = 0, blob: str | None = "b", exact: bool = True, strategy="retrain") -> ShardOutcome:
    slices = (SliceRecord(1, f"k{shard}1", "c1", 10), SliceRecord(2, f"k{shard}2", blob or "", 0)) if exact and blob else ()
    return ShardOutcome("job", shard, strategy, blob, exact, upto, 10, 1, 30, 0.5, slices, checkpoints_read=1)


def plan(shard: int, error: float = 0.0) -> ShardPlan:
    return ShardPlan(shard, "retrain", 1, 2, 25, 0.5, 0.4, (0.3, 0.5), (), "time", ("why",), 0.0, error)


def test_there_is_no_version_before_training(registry):
    assert registry.served() is None
    assert registry.confirmed() == 0
    with pytest.raises(StateError, match="hybridmu train"):
        registry.version()


def test_training_is_published_once(registry, ledger):
    assert registry.publish_training([outcome(0), outcome(1, blob=None)]) == 1
    assert registry.publish_training([outcome(0, blob="other")]) == 1
    version = registry.version()
    assert [(s.shard, s.blob, s.exact, s.removed_upto) for s in version.shards] == [(0, "b", True, 0), (1, None, True, 0)]
    assert [(r.slice, r.lineage_key, r.blob) for r in version.shards[0].checkpoints] == [(1, "k01", "c1"), (2, "k02", "b")]
    assert ledger.costs() == [CostObservation("retrain", 30, 1, 0.5), CostObservation("retrain", 30, 2, 0.5)]


@pytest.fixture
def trained(registry, ledger) -> int:
    registry.publish_training([outcome(shard) for shard in range(3)])
    return ledger.acquire("me", 60)


def test_publishing_moves_the_pointer_and_carries_the_rest_over(registry, ledger, trained):
    request = ledger.accept([key(1, 1), key(2, 1), key(3, 2)]).request_id
    ledger.mark_planned(trained, [request], "round", 1)
    pairs = [(plan(1), outcome(1, 2, "new")), (plan(2, 0.25), outcome(2, 3, "approximate", exact=False, strategy="dpus"))]
    assert registry.publish(trained, "round", [request], pairs) == registry.served() == 2
    before, after = registry.version(1).shards, registry.version().shards
    assert registry.version(2).shards == after
    assert after[0] == before[0]
    assert [(s.blob, s.exact, s.removed_upto, s.exact_upto, s.error_spent) for s in after] == [
        ("b", True, 0, 0, 0.0), ("new", True, 2, 2, 0.0), ("approximate", False, 3, 0, 0.25)
    ]  # fmt: skip
    assert after[2].checkpoints == before[2].checkpoints  # those of the last exact run
    found = ledger.request(request)
    assert (found.state, found.version_before, found.version_after) == (RequestState.APPLIED, 1, 2)
    assert found.applied_at is not None
    rows = ledger.outcomes(request)
    assert [(r["shard"], r["strategy"], r["rule"], r["reasons"]) for r in rows] == [
        (1, "retrain", "time", ["why"]), (2, "dpus", "time", ["why"])
    ]  # fmt: skip
    assert (rows[0]["planned_visits"], rows[0]["sample_visits"], rows[0]["measured_seconds"]) == (25, 30, 0.5)
    again = [(plan(2, 0.5), outcome(2, 3, "more", exact=False, strategy="dpus"))]
    registry.publish(trained, "round2", [], again)
    assert registry.version().shards[2].error_spent == 0.75
    registry.publish(trained, "round3", [], [(plan(2), outcome(2, 3, "exact"))])
    assert (registry.version().shards[2].exact_upto, registry.version().shards[2].error_spent) == (3, 0.0)
    assert registry.version(1).shards == before  # versions do not change


def everything(engine) -> dict[str, list]:
    return {name: rows_of(engine, table) for name, table in t.metadata.tables.items()}


@pytest.mark.parametrize(("token", "upto", "error"), [(-1, 9, LeaseLostError), (1, 9, LeaseLostError), (0, 3, StateError)])
def test_a_refused_publish_writes_nothing(registry, ledger, engine, trained, token, upto, error):
    request = ledger.accept([key(1, 1)]).request_id
    registry.publish(trained, "round", [], [(plan(1), outcome(1, 4))])
    before = everything(engine)
    with pytest.raises(error):
        registry.publish(trained + token, "round2", [request], [(plan(0), outcome(0, 9)), (plan(1), outcome(1, upto))])
    assert everything(engine) == before


def test_a_stolen_lease_stops_the_old_coordinator(registry, ledger, engine, trained):
    ledger.heartbeat(trained, -1)
    assert ledger.acquire("thief", 60) == trained + 1
    before = everything(engine)
    with pytest.raises(LeaseLostError):
        registry.publish(trained, "round", [], [(plan(1), outcome(1, 4))])
    with pytest.raises(LeaseLostError):
        ledger.mark_served(trained, 5)
    assert everything(engine) == before


def test_served_means_every_live_replica(registry, ledger, trained):
    requests = [ledger.accept([key(n, 1)]).request_id for n in (1, 2)]
    for number, request in enumerate(requests, start=1):
        registry.publish(trained, f"round{number}", [request], [(plan(1), outcome(1, number))])
    assert registry.confirmed() == 3  # nobody else answers: the pointer
    registry.register("slow", 0, 60)
    registry.register("quick", 3, 60)
    assert (registry.confirmed(), registry.replicas()) == (0, {"slow": 0, "quick": 3})
    assert ledger.mark_served(trained, registry.confirmed()) == []
    registry.register("slow", 2, 60)
    assert registry.confirmed() == 2
    assert ledger.mark_served(trained, 2) == [requests[0]]
    assert ledger.request(requests[0]).served_at is not None
    assert ledger.request(requests[1]).state is RequestState.APPLIED
    registry.register("slow", 2, -1)  # expired: it took itself out
    assert (registry.confirmed(), registry.replicas()) == (3, {"quick": 3})
    registry.register("ahead", 9, 60)
    assert registry.confirmed() == 3
    registry.unregister("quick")
    registry.unregister("ahead")
    assert registry.confirmed() == 3
    assert ledger.mark_served(trained, 3) == [requests[1]]
    assert ledger.mark_served(trained, 3) == []


def test_the_cost_window_is_bounded_and_newest_first(registry, ledger, engine, trained):
    rows = [{"strategy": "dpus", "visits": n, "checkpoints": 1, "seconds": 1.0} for n in range(1, 405)]
    with engine.begin() as connection:
        connection.execute(t.costs.insert(), rows)
    costs = ledger.costs()
    assert [c.visits for c in costs] == list(range(404, 4, -1))
