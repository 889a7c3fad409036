"""Forgetting everything."""

from __future__ import annotations

import pytest

import hybridmu
from hybridmu.errors import StateError
from hybridmu.serving.replica import Replica
from hybridmu.store.ledger import tables as t
from hybridmu.store.ownership import MARKER
from hybridmu.types import RequestState
from tests.support import make_table, rows_of, settings_dict


@pytest.fixture
def system(tmp_path):
    make_table(tmp_path / "train.parquet", 60)
    with hybridmu.connect(settings_dict(tmp_path, sisa={"shards": 2}), executor="local") as system:
        system.train()
        yield system


def test_nothing_but_certificates_and_the_guard_stays(system):
    done = system.forget(ids=[1], strategy="retrain", wait=True)["request_id"]
    system.run(until_idle=True)
    waiting = system.forget(ids=[2])["request_id"]
    system.close()
    keys = [stone.key for stones in system.ledger.tombstones().values() for stone in stones]
    result = system.decommission("the contract ended", caller="someone")
    assert result["certificates_kept"] == 1
    names = [info.name for info in system.site.storage.list() if "ledger.sqlite3" not in info.name]
    assert names == ["certificates/00000001.json", MARKER]
    for table in (t.tombstones, t.version_shards, t.serving, t.needs, t.costs, t.idempotency):
        assert rows_of(system.database.engine, table) == []
    assert {system.ledger.request(name).state for name in (done, waiting)} == {RequestState.PURGED}
    data = system.site.storage.read("ledger.sqlite3")
    assert keys
    assert not any(key in data for key in keys)
    again = hybridmu.connect(system.settings, executor="local")
    for verb in (again.train, again.status, lambda: again.forget(ids=[3]), lambda: again.plan(ids=[3])):
        with pytest.raises(StateError, match="was decommissioned"):
            verb()
    assert again.decommission("once more")["files_deleted"] == 0


def test_a_hold_forbids_it(system):
    system.close()
    system.controls.hold(None, "a court asked", "someone")
    with pytest.raises(StateError, match="legal hold"):
        system.decommission("over")
    assert system.registry.served() == 1


def test_keys_that_somebody_put_into_storage_forbid_it(system):
    system.forget(ids=[1], strategy="retrain", wait=True)
    system.run(until_idle=True)
    system.close()
    keys = system.settings.keys_folder
    for path in keys.iterdir():
        system.site.storage.write(f"copies/{path.name}", path.read_bytes())
    with pytest.raises(StateError, match="keys lie in storage"):
        system.decommission("over")
    assert system.registry.served() is not None
    for path in keys.iterdir():
        system.site.storage.delete(f"copies/{path.name}")
    assert system.decommission("over")["certificates_kept"] == 1


def test_a_working_coordinator_forbids_it(system):
    system.run(until_idle=True)
    with pytest.raises(StateError, match="coordinator is at work"):
        system.decommission("over")


def test_a_replica_stops_answering(system):
    replica = Replica(system.settings, "one")
    with replica.answering():
        pass
    system.close()
    with system.database.engine.begin() as connection:
        connection.execute(t.serving.delete())
    with pytest.raises(StateError, match="decommissioned"):
        replica.refresh()
    assert not replica.healthy
    with pytest.raises(StateError), replica.answering():
        pass
    assert system.replicas.live() == {}


def test_what_a_crash_left_half_done_is_finished(system, monkeypatch):
    system.close()
    real = type(system.site.storage).delete_folder

    def dies(storage, name):
        if name == "lineage":
            raise KeyboardInterrupt
        real(storage, name)

    monkeypatch.setattr(type(system.site.storage), "delete_folder", dies)
    with pytest.raises(KeyboardInterrupt):
        system.decommission("over")
    monkeypatch.undo()
    assert system.decommission("over")["certificates_kept"] == 0
    assert [info.name for info in system.site.storage.list() if "ledger.sqlite3" not in info.name] == [MARKER]


def test_a_successor_that_was_decommissioned_is_not_told_to_go_on(system):
    system.database.links.succeeds("another model")
    system.close()
    system.decommission("over")
    with hybridmu.connect(system.settings, executor="local") as again, pytest.raises(StateError) as error:
        again.train()
    assert "was decommissioned" in str(error.value)
    assert "reshard" not in str(error.value)
