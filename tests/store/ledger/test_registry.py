from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybridmu.errors import LeaseLostError, StateError
from hybridmu.store.ledger import tables as t
from hybridmu.store.ledger.engine.opening import connect
from hybridmu.store.ledger.lease import Lease
from hybridmu.store.ledger.ledger import Ledger
from hybridmu.store.ledger.measurements import Measurements, record_costs
from hybridmu.store.ledger.registry import Registry
from hybridmu.store.ledger.replicas import Replicas
from hybridmu.types import CostObservation, RequestState, ShardOutcome, ShardPlan, SliceRecord
from tests.support import key, rows_of


@pytest.fixture
def registry(engine) -> Registry:
    return Registry(engine)


def outcome(shard: int, upto: int = 0, blob: str | None = "b", exact: bool = True, strategy="retrain") -> ShardOutcome:
    slices = (
        (SliceRecord(1, f"k{shard}1", "c1", 10), SliceRecord(2, f"k{shard}2", blob or "", 0)) if exact and blob else ()
    )
    return ShardOutcome("job", shard, strategy, blob, exact, upto, 10, 1, 30, 0.5, slices, checkpoints_read=1)


def plan(shard: int, error: float = 0.0) -> ShardPlan:
    return ShardPlan(shard, "retrain", 1, 2, 25, 0.5, 0.4, (0.3, 0.5), (), "time", ("why",), 0.0, error)


def test_there_is_no_version_before_training(engine, registry):
    assert registry.served() is None
    assert Replicas(engine).confirmed() == 0
    with pytest.raises(StateError, match="hybridmu train"):
        registry.version()


def test_training_is_published_once(registry, lease, engine):
    token = lease.acquire("me", 60)
    assert registry.publish_training(token, [outcome(0), outcome(1, blob=None)]) == 1
    assert registry.publish_training(token, [outcome(0, blob="other")]) == 1
    with pytest.raises(LeaseLostError):
        registry.publish_training(token + 1, [outcome(0)])
    version = registry.version()
    assert [(s.shard, s.blob, s.exact, s.removed_upto) for s in version.shards] == [
        (0, "b", True, 0),
        (1, None, True, 0),
    ]
    assert [(r.slice, r.lineage_key, r.blob) for r in version.shards[0].checkpoints] == [
        (1, "k01", "c1"),
        (2, "k02", "b"),
    ]
    assert Measurements(engine).costs() == [
        CostObservation("retrain", 30, 1, 0.5),
        CostObservation("retrain", 30, 2, 0.5),
    ]


@pytest.fixture
def trained(registry, lease) -> int:
    token = lease.acquire("me", 60)
    registry.publish_training(token, [outcome(shard) for shard in range(3)])
    return token


def test_publishing_moves_the_pointer_and_carries_the_rest_over(registry, ledger, engine, trained, progress):
    request = ledger.accept([key(1, 1), key(2, 1), key(3, 2)]).request_id
    progress.mark_planned(trained, [request], "round", 1)
    pairs = [
        (plan(1), outcome(1, 2, "new")),
        (plan(2, 0.25), outcome(2, 3, "approximate", exact=False, strategy="dpus")),
    ]
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
    rows = Measurements(engine).outcomes(request)
    assert [(r["shard"], r["strategy"], r["rule"], r["reasons"]) for r in rows] == [
        (1, "retrain", "time", ["why"]), (2, "dpus", "time", ["why"])
    ]  # fmt: skip
    assert (rows[0]["planned_visits"], rows[0]["sample_visits"], rows[0]["measured_seconds"]) == (25, 30, 0.5)
    again = [(plan(2, 0.5), outcome(2, 3, "more", exact=False, strategy="dpus"))]
    registry.publish(trained, "round2", [], again)
    assert registry.version().shards[2].error_spent == 0.75
    assert (ledger.request(request).exact_at, ledger.request(request).version_exact) == (None, None)
    registry.publish(trained, "round3", [], [(plan(2), outcome(2, 3, "exact"))])
    assert ledger.request(request).exact_at is not None
    assert ledger.request(request).version_exact == 4
    assert [r["strategy"] for r in Measurements(engine).outcomes(request)] == ["retrain", "dpus", "retrain"]
    assert (registry.version().shards[2].exact_upto, registry.version().shards[2].error_spent) == (3, 0.0)
    assert registry.version(1).shards == before  # versions do not change


def everything(engine) -> dict[str, list]:
    return {name: rows_of(engine, table) for name, table in t.metadata.tables.items()}


@pytest.mark.parametrize(
    ("token", "upto", "error"), [(-1, 9, LeaseLostError), (1, 9, LeaseLostError), (0, 3, StateError)]
)
@pytest.mark.sampled
def test_a_refused_publish_writes_nothing(registry, ledger, engine, trained, token, upto, error):
    request = ledger.accept([key(1, 1)]).request_id
    registry.publish(trained, "round", [], [(plan(1), outcome(1, 4))])
    before = everything(engine)
    with pytest.raises(error):
        registry.publish(trained + token, "round2", [request], [(plan(0), outcome(0, 9)), (plan(1), outcome(1, upto))])
    assert everything(engine) == before


def test_a_stolen_lease_stops_the_old_coordinator(registry, ledger, lease, engine, trained, progress):
    request = ledger.accept([key(1, 1)]).request_id
    registry.publish(trained, "round", [request], [(plan(1), outcome(1, 1))])
    lease.heartbeat(trained, -1)
    assert lease.acquire("thief", 60) == trained + 1
    before = everything(engine)
    with pytest.raises(LeaseLostError):
        registry.publish(trained, "round", [], [(plan(1), outcome(1, 4))])
    with pytest.raises(LeaseLostError):
        progress.mark_served(trained, 5)
    assert everything(engine) == before


def test_served_means_every_live_replica(engine, registry, ledger, trained, progress):
    replicas = Replicas(engine)
    requests = [ledger.accept([key(n, 1)]).request_id for n in (1, 2)]
    for number, request in enumerate(requests, start=1):
        registry.publish(trained, f"round{number}", [request], [(plan(1), outcome(1, number))])
    assert replicas.confirmed() == 3  # nobody else answers: the pointer
    replicas.register("slow", 0, 60)
    replicas.register("quick", 3, 60)
    assert (replicas.confirmed(), replicas.live()) == (0, {"slow": 0, "quick": 3})
    assert progress.mark_served(trained, replicas.confirmed()) == []
    replicas.register("slow", 2, 60)
    assert replicas.confirmed() == 2
    assert progress.mark_served(trained, 2) == [requests[0]]
    assert ledger.request(requests[0]).served_at is not None
    assert ledger.request(requests[1]).state is RequestState.APPLIED
    replicas.register("slow", 2, -1)  # expired: it took itself out
    assert (replicas.confirmed(), replicas.live()) == (3, {"quick": 3})
    replicas.register("ahead", 9, 60)
    assert replicas.confirmed() == 3
    replicas.unregister("quick")
    assert replicas.confirmed() == 3  # never beyond the pointer
    replicas.unregister("ahead")
    assert replicas.confirmed() == 3
    assert progress.mark_served(trained, 3) == [requests[1]]
    assert progress.mark_served(trained, 3) == []


def test_the_cost_window_is_bounded_and_newest_first(engine, trained):
    rows = [{"strategy": "dpus", "visits": n, "checkpoints": 1, "seconds": 1.0, "rows": 2 * n} for n in range(1, 405)]
    with engine.begin() as connection:
        connection.execute(t.costs.insert(), rows)
    costs = Measurements(engine).costs()
    assert [(c.visits, c.rows) for c in costs] == [(n, 2 * n) for n in range(404, 4, -1)]


def test_what_the_cost_model_learns_from_outcomes(engine):
    update = replace(outcome(0, exact=False, strategy="dpus"), rows_read=10)
    with engine.begin() as connection:
        record_costs(connection, [replace(outcome(0), rows_read=10), outcome(0), update])
    updated, again, first = Measurements(engine).costs()
    assert updated == CostObservation("dpus", 30, 1, 0.5, rows=10), "an update reads the live rows"
    assert again == CostObservation("retrain", 30, 2, 0.5), "a retrain has them in memory"
    assert first == CostObservation("retrain", 30, 2, 0.5, rows=10), "but for the first one of a process"


@pytest.mark.sampled
def test_a_round_may_have_more_requests_than_a_statement_takes_parameters(registry, ledger, engine, trained, progress):
    many = {"postgresql": 66_000, "sqlite": 33_000}[engine.dialect.name]  # they take 65,535 and 32,766
    with engine.begin() as connection:
        connection.exec_driver_sql(
            f"WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {many}) "
            "INSERT INTO requests (request_id, state, strategy, caller, keys, already_forgotten, ignored_unknown, "
            "received_at) SELECT 'r-' || i, 'RECEIVED', 'auto', '', 1, 0, 0, 0.0 FROM n"
        )
    names = [f"r-{number}" for number in range(1, many + 1)]
    registry.publish(trained, "round", names[1:], [(plan(1), outcome(1, 1))])
    registry.satisfy(trained, names)
    assert len(progress.mark_served(trained, 2)) == many
    assert {request.version_after for request in ledger.requests([RequestState.SERVED])} == {2}


@given(
    stones=st.lists(st.tuples(st.integers(0, 2), st.integers(1, 3)), min_size=1, max_size=12),
    marks=st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12)), min_size=3, max_size=3),
)
def test_revoked_rows_are_counted_against_both_watermarks(tmp_path_factory, stones, marks):
    engine = connect(f"sqlite:///{tmp_path_factory.mktemp('counts')}/l.sqlite3", create=True)
    ledger, registry, lease = Ledger(engine), Registry(engine), Lease(engine)
    token = lease.acquire("me", 60)
    registry.publish_training(token, [outcome(shard, min(marks[shard])) for shard in range(3)])
    for number, (shard, slice_) in enumerate(stones):
        ledger.accept([key(number, shard, slice_)])
    changed = [(plan(s), outcome(s, max(marks[s]), exact=False, strategy="dpus")) for s in range(3)]
    registry.publish(token, "round", [], changed)
    expected: dict[int, dict[int, list[int]]] = {}
    for seq, (shard, slice_) in enumerate(stones, start=1):
        exact, removed = min(marks[shard]), max(marks[shard])
        entry = expected.setdefault(shard, {}).setdefault(slice_, [0, 0, 0])
        entry[0] += seq <= exact
        entry[1] += seq > exact
        entry[2] += seq > removed
    found = {s: {i: list(counts) for i, counts in slices.items()} for s, slices in ledger.counts().items()}
    assert found == expected
    assert ledger.counts([1]) == {s: slices for s, slices in ledger.counts().items() if s == 1}
    engine.dispose()
