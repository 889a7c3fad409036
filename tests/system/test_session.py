"""The right to coordinate, what following means, and the parts of a system."""

import inspect
import threading

import pytest

import hybridmu
from hybridmu.runtime.coordinator import leadership
from hybridmu.store.ledger.engine.opening import connect
from hybridmu.store.ledger.lease import Lease
from hybridmu.system import parts
from hybridmu.system.system import System
from tests.support import until
from tests.system.test_exactness import SGD, config_for, write_table


@pytest.fixture
def trained(tmp_path):
    table = tmp_path / "train.parquet"
    ids = write_table(table, 30, string_ids=False, groups=0)
    config = config_for(tmp_path, table, shards=2, slices=2, epochs=2, batch=4, optimizer=SGD, groups=0)
    with hybridmu.connect(config, executor="local") as system:
        system.train()
    return config, ids


def test_the_lease_of_a_killed_coordinator_runs_out(trained, monkeypatch):
    config, _ = trained
    monkeypatch.setattr(leadership, "LEASE_SECONDS", 1.0)
    with hybridmu.connect(config, executor="local") as system:
        assert system.lease.acquire("a coordinator that was killed", 1.0) is not None
        assert system.run(until_idle=True).open_requests == 0


def test_a_live_coordinator_is_not_pushed_aside(trained, monkeypatch):
    config, _ = trained
    monkeypatch.setattr(leadership, "LEASE_SECONDS", 0.6)
    lease = Lease(connect(hybridmu.Settings.parse(config).database))
    token = lease.acquire("alive", 2.0)
    stop = threading.Event()

    def renew():
        while not stop.wait(0.1):
            lease.heartbeat(token, 2.0)

    thread = threading.Thread(target=renew)
    thread.start()
    try:
        with (
            hybridmu.connect(config, executor="local") as system,
            pytest.raises(hybridmu.HybridMUError, match="another coordinator is running"),
        ):
            system.run(until_idle=True)
    finally:
        stop.set()
        thread.join()


def test_waiting_follows_a_coordinator_that_took_over(trained):
    config, ids = trained
    with hybridmu.connect(config, executor="local") as first, hybridmu.connect(config, executor="local") as second:
        first.run(until_idle=True)  # first holds the lease now
        request = first.forget(ids=[ids[0]])
        with second.ledger._write.begin() as connection:  # as if first had been away for longer than its lease
            connection.exec_driver_sql("update leases set expires_at = 0")
        taking_over = threading.Thread(target=lambda: second.run(until_idle=True))
        taking_over.start()
        until(lambda: second.lease.holder() is not None or not taking_over.is_alive())
        # The one that took over may have purged it before this one looks again.
        assert first.wait(request["request_id"]).state in {"SERVED", "PURGED"}
        taking_over.join()


def test_every_verb_is_defined_in_one_part():
    verbs = {name for name, _ in inspect.getmembers(System, inspect.isfunction) if not name.startswith("_")}
    classes = [part.load() for part in vars(parts).values() if isinstance(part, parts.Part)]
    defined = [name for part in classes for name, _ in inspect.getmembers(part, inspect.isfunction) if name[0] != "_"]
    assert sorted(defined) == sorted(verbs - {"close"})
    for name in sorted(verbs):
        assert inspect.signature(getattr(System, name)).parameters["self"]
        assert getattr(System, name).__doc__
