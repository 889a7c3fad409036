"""The lease and its fence, whatever the clock does."""

from __future__ import annotations

import dataclasses

import pytest

from hybridmu.errors import LeaseLostError
from hybridmu.store.ledger import tables as t
from hybridmu.store.ledger.lease import Lease
from hybridmu.store.ledger.measurements import Measurements
from hybridmu.store.ledger.registry import Registry
from hybridmu.types import ShardOutcome, ShardPlan
from tests.support import curve, key


def test_the_lease_of_a_dead_holder_ends_though_the_clock_was_set_back(lease, clock):
    token = lease.acquire("dead", 15)
    clock(-3600)
    assert lease.acquire("next", 15) is None, "it may be alive"
    clock(14)
    assert lease.acquire("next", 15) is None
    clock(2)
    assert lease.acquire("next", 15) == token + 1


def test_whoever_follows_a_dead_holder_does_not_wait_for_the_clock(lease, clock):
    lease.acquire("dead", 15)
    clock(-3600)
    assert lease.holder() == "dead"
    assert lease.holder(15) == "dead"
    clock(16)
    assert lease.holder(15) is None


def test_a_living_holder_keeps_its_lease_though_the_clock_was_set_back(lease, clock):
    token = lease.acquire("alive", 15)
    clock(-3600)
    for _ in range(5):
        lease.heartbeat(token, 15)
        assert lease.acquire("next", 15) is None
        clock(10)
    assert lease.holder() == "alive"


def test_a_stale_coordinator_writes_nothing(ledger, engine, clock, progress):
    lease, registry = Lease(engine), Registry(engine)
    old = lease.acquire("old", 15)
    first = ShardOutcome("j", 0, "retrain", "b0", True, 0, 9, 1, 10, 1.0, head="h")
    registry.publish_training(old, [first])
    Measurements(engine).add_curves(old, [curve(keys=(b"k" * 16,))])
    request = ledger.accept([key(1)]).request_id
    clock(3600)  # ahead: the lease seems to have run out
    assert lease.acquire("new", 15) == old + 1
    clock(-3600)
    plan = ShardPlan(0, "retrain", 1, 1, 10, 1.0, 1.0, (1.0, 1.0), (), "workload", ())
    outcome = dataclasses.replace(first, blob="b1", upto=1)
    with engine.begin() as connection:
        before = {table.name: list(connection.execute(table.select())) for table in t.metadata.sorted_tables}
    for write in (
        lambda: lease.heartbeat(old, 15),
        lambda: progress.take(old, None),
        lambda: progress.mark_planned(old, [request], "round", 1),
        lambda: progress.mark_failed(old, [request], "because"),
        lambda: registry.satisfy(old, [request]),
        lambda: registry.publish(old, "round", [request], [(plan, outcome)]),
        lambda: registry.publish_training(old, [outcome]),
        lambda: Measurements(engine).add_curves(old, [curve()]),
        lambda: Measurements(engine).drop_curves(old, [b"k" * 16]),
    ):
        with pytest.raises(LeaseLostError, match=f"token {old}"):
            write()
    lease.release(old)
    with engine.begin() as connection:
        assert before == {table.name: list(connection.execute(table.select())) for table in t.metadata.sorted_tables}
    assert registry.publish(old + 1, "round", [request], [(plan, outcome)]) == 2
