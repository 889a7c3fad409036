"""A ledger restored from a backup catches up with its storage before anything goes on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

import hybridmu
from hybridmu.errors import CorruptBlobError, StateError
from hybridmu.faults import observe
from hybridmu.store.certificates import Certificates
from hybridmu.types import RequestState
from hybridmu.verifier.checks import check_chain
from tests.support import flipped, make_table, settings_dict


@pytest.fixture
def config(tmp_path):
    make_table(tmp_path / "train.parquet", 90)
    return settings_dict(tmp_path, sisa={"shards": 3}, policy={"verify_share": 0.0})


def blobs(system):
    return {sub.shard: sub.blob for sub in system.registry.version().shards}


def back_up(system, path):
    system.close()
    with system.database.engine.connect() as connection:
        connection.connection.driver_connection.execute(f"VACUUM INTO '{path}'")


def restore(config, path):
    ledger = Path(config["storage_url"]) / "ledger.sqlite3"
    for suffix in ("", "-wal", "-shm"):
        ledger.with_name(ledger.name + suffix).unlink(missing_ok=True)
    ledger.write_bytes(path.read_bytes())


@pytest.mark.slow
def test_an_older_ledger_refuses_to_start_until_it_has_caught_up(config, tmp_path):
    with hybridmu.connect(config, executor="local") as system:
        system.train()
        early = system.forget(ids=[1])["request_id"]
        back_up(system, tmp_path / "backup")
        gone = system.forget(ids=[2, 3], key="k", wait=True)["request_id"]
        system.run(until_idle=True)
        late = system.forget(ids=[4, 5], strategy="retrain", wait=True)["request_id"]
        before, version = blobs(system), system.registry.version().version
        assert system.ledger.request(gone).state is RequestState.PURGED
        certificates = len(Certificates(system.site.storage).numbers())
    restore(config, tmp_path / "backup")
    with hybridmu.connect(config, executor="local") as system:
        with pytest.raises(StateError, match="older than its storage"):
            system.run(until_idle=True)
        assert system.ledger.tombstones() != {}
        found = system.replay()
        assert found == {"requests": 2, "tombstones": 4, "version": version, "unsettled": []}
        assert system.replay() == {"requests": 0, "tombstones": 0, "version": version, "unsettled": []}
        restored = system.ledger.request(gone)
        assert (restored.state, restored.planned_at is None) == (RequestState.PURGED, False)
        assert system.ledger.request(early).state is RequestState.PURGED  # as its certificate says
        assert system.forget(ids=[2, 3], key="k")["request_id"] == gone
        assert system.ledger.request(late).state is RequestState.PLANNED
        system.run(until_idle=True)
        assert system.ledger.request(late).state is RequestState.PURGED
        assert blobs(system) == before
        assert len(Certificates(system.site.storage).numbers()) == certificates + 1
        assert system.verify()["exact_claims_hold"]


def test_a_ledger_that_lost_a_version_only_refuses_too(config, tmp_path):
    with hybridmu.connect(config, executor="local") as system:
        system.train()
        request = system.forget(ids=[1], strategy="retrain")["request_id"]
        coordinator = system.session.coordination.acquire()
        coordinator.step(0.0)
        coordinator.step(0.0)
        back_up(system, tmp_path / "backup")
        system.wait(request)
        before = blobs(system)
    restore(config, tmp_path / "backup")
    with hybridmu.connect(config, executor="local") as system:
        if system.registry.served() == 1:
            with pytest.raises(StateError, match="older than its storage"):
                system.run(until_idle=True)
            system.replay()
        system.run(until_idle=True)
        assert blobs(system) == before


def held_and_purged(config):
    """A request that a hold keeps, and one of the same shard that is purged."""
    with hybridmu.connect(config, executor="local") as system:
        system.train()
        held = system.forget(ids=[1], strategy="retrain", wait=True)["request_id"]
        system.hold("court", held)
        system.run(until_idle=True)
    return held


@pytest.mark.slow
def test_a_ledger_of_the_same_version_that_lacks_a_purge_refuses_too(config, tmp_path):
    """No version was published since the backup: certificates and purges tell the two apart."""
    held = held_and_purged(config)
    with hybridmu.connect(config, executor="local") as system:
        back_up(system, tmp_path / "backup")
        system.lift(1)
        system.run(until_idle=True)
        version = system.registry.version().version
        assert system.ledger.request(held).certificate == 1
    restore(config, tmp_path / "backup")
    with hybridmu.connect(config, executor="local") as system:
        for call in (lambda: system.run(until_idle=True), lambda: system.forget(ids=[2]), system.status):
            with pytest.raises(StateError, match="certificate 1 is not known"):
                call()
        found = system.replay()
        assert found["version"] == version
        assert (system.ledger.request(held).state, system.ledger.request(held).certificate) == (RequestState.PURGED, 1)
        system.run(until_idle=True)
        system.forget(ids=[2], strategy="retrain", wait=True)
        system.run(until_idle=True)
        documents = Certificates(system.site.storage).all()
        assert [document["number"] for document in documents] == [1, 2]
        assert len({document["request"]["id"] for document in documents}) == 2


def test_a_ledger_that_lacks_only_a_purge_without_a_certificate_refuses(config, tmp_path):
    """The rows are gone, and the coordinator died before it said so."""
    held = held_and_purged(config)
    with hybridmu.connect(config, executor="local") as system:
        back_up(system, tmp_path / "backup")
        system.lift(1)
        seen = []
        observe(lambda name: seen.append(name) or (name == "purge.looked" and stop()))
        with pytest.raises(KeyboardInterrupt):
            system.run(until_idle=True)
        observe(None)
    restore(config, tmp_path / "backup")
    with hybridmu.connect(config, executor="local") as system:
        with pytest.raises(StateError, match=r"change\(s\) of tables missing"):
            system.run(until_idle=True)
        system.replay()
        system.run(until_idle=True)
        assert system.ledger.request(held).state is RequestState.SERVED


def stop() -> None:
    observe(None)
    raise KeyboardInterrupt


@pytest.mark.slow
def test_missing_certificates_are_not_issued_again(config):
    with hybridmu.connect(config, executor="local") as system:
        system.train()
        for row in (1, 2):
            system.forget(ids=[row], strategy="retrain", wait=True)
            system.run(until_idle=True)
        storage = system.site.storage
    kept = storage.read("certificates/00000002.json")
    storage.delete("certificates/00000002.json")
    with hybridmu.connect(config, executor="local") as system:
        with pytest.raises(StateError, match="number 2 is not there"):
            system.forget(ids=[3])
        storage.write("certificates/00000002.json", kept)
        system.forget(ids=[3], strategy="retrain", wait=True)
        system.run(until_idle=True)
        assert Certificates(storage).numbers() == [1, 2, 3]


@pytest.mark.slow
def test_certificates_that_left_the_house_keep_their_numbers_when_everything_is_restored(config, tmp_path):
    storage = Path(config["storage_url"])

    def forget(row: int) -> None:
        with hybridmu.connect(config, executor="local") as system:
            system.forget(ids=[row], strategy="retrain", wait=True)
            system.run(until_idle=True)

    with hybridmu.connect(config, executor="local") as system:
        system.train()
    forget(1)
    shutil.copytree(storage, tmp_path / "backup")
    forget(2)
    kept = (storage / "certificates" / "00000002.json").read_bytes()
    shutil.rmtree(storage)
    shutil.copytree(tmp_path / "backup", storage)
    (storage / "certificates" / "00000002.json").write_bytes(kept)  # as docs/operations.md asks for
    with hybridmu.connect(config, executor="local") as system:
        with pytest.raises(StateError, match="certificate 2 is not known"):
            system.forget(ids=[3])
        system.replay()
    forget(2)
    documents = [json.loads(path.read_bytes()) for path in sorted((storage / "certificates").iterdir())]
    assert [document["number"] for document in documents] == [1, 2, 3]
    assert check_chain(documents).ok


@pytest.mark.parametrize("name", ["state.json", "seals.json", "entry"])
@pytest.mark.sampled
def test_no_flipped_bit_of_the_journal_goes_unnoticed(config, name):
    with hybridmu.connect(config, executor="local") as system:
        system.train()
        system.forget(ids=[1], wait=True)
        journal, storage = system.database.journal(system.site.storage), system.site.storage
    names = [info.name for info in storage.list("journal")]
    [file] = [f for f in names if f.endswith(name)] or [min(set(names) - {"journal/state.json", "journal/seals.json"})]
    whole = storage.read(file)
    for position in range(0, 8 * len(whole), 7):
        with open(storage.path(file), "wb") as target:
            target.write(flipped(whole, position))
        with pytest.raises(CorruptBlobError, match="is damaged"):
            journal.check()


def test_a_ledger_as_new_as_its_storage_starts_at_once(config):
    with hybridmu.connect(config, executor="local") as system:
        system.train()
        system.forget(ids=[1], wait=True)
    with hybridmu.connect(config, executor="local") as system:
        system.run(until_idle=True)
        system.close()
        assert system.replay()["requests"] == 0


@pytest.mark.slow
def test_no_key_of_a_purged_row_stays_in_the_journal(config):
    with hybridmu.connect(config, executor="local") as system:
        system.train()
        system.forget(ids=[1, 2], wait=True)
        keys = [stone.key.hex() for stones in system.ledger.tombstones().values() for stone in stones]
        files = [info.name for info in system.site.storage.list("journal")]
        assert any(key.encode() in system.site.storage.read(name) for key in keys for name in files)
        system.run(until_idle=True)
        files = [info.name for info in system.site.storage.list("journal")]
        assert not any(key.encode() in system.site.storage.read(name) for key in keys for name in files)
