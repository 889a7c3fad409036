"""Files of another system, of another name or of an older backup never decide what a ledger takes over from storage."""

from __future__ import annotations

import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

import hybridmu
from hybridmu.errors import CorruptBlobError, HybridMUError, StateError
from hybridmu.store.certificates import Certificates
from hybridmu.store.ledger.journal.journal_files import SEALS, STATE
from hybridmu.store.storage.sealed_json import sealed
from hybridmu.types import RequestState
from tests.store.ledger.test_journal import restore
from tests.support import make_table, settings_dict


def life(folder: Path, *rounds: list[int]) -> dict[str, Any]:
    """Return the configuration of a system that purged what each round names, with snapshots of its storage."""
    folder.mkdir()
    make_table(folder / "train.parquet", 60)
    config = settings_dict(folder, sisa={"shards": 2}, policy={"verify_share": 0.0, "calibrate": False})
    snapshot(config, folder / "snap-0", train=True)
    for number, ids in enumerate(rounds, start=1):
        with hybridmu.connect(config, executor="local") as system:
            system.forget(ids=ids, strategy="retrain", wait=True)
            system.run(until_idle=True)
        snapshot(config, folder / f"snap-{number}")
    return config


def snapshot(config: dict[str, Any], place: Path, *, train: bool = False) -> None:
    if train:
        with hybridmu.connect(config, executor="local") as system:
            system.train()
    storage = Path(config["storage_url"])
    with closing(sqlite3.connect(storage / "ledger.sqlite3")) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    shutil.copytree(storage, place)


@pytest.fixture(scope="module")
def lives(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path, Path]:
    folder = tmp_path_factory.mktemp("lives")
    config = life(folder / "a", [1], [2])
    life(folder / "b", [7], [10], [20])
    return config, folder / "a", folder / "b" / "snap-3"


@pytest.fixture
def ours(lives: tuple[dict[str, Any], Path, Path]) -> tuple[dict[str, Any], Path, Path]:
    config, folder, _ = lives
    shutil.rmtree(config["storage_url"])
    shutil.copytree(folder / "snap-2", config["storage_url"])
    return lives


def entries(storage: Path) -> list[Path]:
    return sorted(set((storage / "journal").iterdir()) - {storage / STATE, storage / SEALS})


def refused(config: dict[str, Any], error: type[HybridMUError], match: str) -> None:
    """Check that a coordinator and a replay refuse, that neither advises the replay, and that nothing was changed."""
    ledger = Path(config["storage_url"]) / "ledger.sqlite3"
    before = dump(ledger)
    for call in ("run", "replay"):
        with hybridmu.connect(config, executor="local") as system, pytest.raises(error, match=match) as refusal:
            system.run(until_idle=True) if call == "run" else system.replay()
        assert "ledger replay" not in refusal.value.remedy or "once more" in refusal.value.remedy
    assert dump(ledger) == before


def dump(ledger: Path) -> list[str]:
    with closing(sqlite3.connect(ledger)) as connection:
        return list(connection.iterdump())


def works(config: dict[str, Any]) -> None:
    with hybridmu.connect(config, executor="local") as system:
        name = system.forget(ids=[40], strategy="retrain", wait=True)["request_id"]
        system.run(until_idle=True)
        assert system.ledger.request(name).state is RequestState.PURGED
        assert system.ledger.request(name).certificate == 3


@pytest.mark.parametrize("name", [STATE, SEALS, "entry", "certificates/00000003.json"])
@pytest.mark.sampled
def test_files_of_another_system_are_refused_and_nothing_is_imported(ours, name):
    config, _, other = ours
    storage = Path(config["storage_url"])
    name = entries(other)[0].relative_to(other).as_posix() if name == "entry" else name
    kept = (storage / name).read_bytes() if (storage / name).exists() else None
    shutil.copy(other / name, storage / name)
    refused(config, StateError, "not of this chain" if name.startswith("cert") else "is of another system")
    (storage / name).unlink() if kept is None else (storage / name).write_bytes(kept)
    works(config)


def nameless(path: Path) -> bytes:
    """Return a document of the journal as an earlier release wrote it."""
    document = json.loads(path.read_bytes())
    new = {"file", "system", "certificate", "seal"}
    return sealed({name: value for name, value in document.items() if name not in new})


@pytest.mark.parametrize("name", [STATE, SEALS, "entry"])
def test_what_does_not_say_whose_it_is_must_not_contradict(ours, name):
    config, _, other = ours
    storage = Path(config["storage_url"])
    for file in entries(other) if name == "entry" else [other / name]:
        (storage / "journal" / file.name).write_bytes(nameless(file))
    refused(config, StateError, "contradicts the ledger")


def test_a_nameless_record_of_another_system_does_not_make_the_ledger_a_damaged_one(ours):
    config, _, other = ours
    storage = Path(config["storage_url"])
    document = json.loads(nameless(other / STATE))
    shards = [{**row, "version": 1} for row in document["shards"]]
    (storage / STATE).write_bytes(sealed({**document, "version": 1, "shards": shards}))
    why = pytest.raises(StateError, match="does not say of which system")
    with hybridmu.connect(config, executor="local") as system, why as refusal:
        system.run(until_idle=True)
    assert "move it out" in refusal.value.remedy
    (storage / STATE).unlink()
    works(config)


def test_a_journal_of_an_earlier_release_is_taken_and_written_anew(ours):
    config, folder, _ = ours
    storage = Path(config["storage_url"])
    files = [storage / STATE, storage / SEALS, *entries(storage)]
    for path in files:
        path.write_bytes(nameless(path))
    restore(config, folder / "snap-1" / "ledger.sqlite3")
    with hybridmu.connect(config, executor="local") as system:
        assert system.replay()["requests"] == 1
    assert {json.loads(path.read_bytes())["file"] for path in files} == {str(x.relative_to(storage)) for x in files}
    works(config)


@pytest.mark.parametrize("name", [STATE, SEALS, "entry"])
@pytest.mark.parametrize("older", [False, True])
def test_a_sealed_file_under_the_name_of_another_is_refused(ours, name, older):
    config, _, _ = ours
    storage = Path(config["storage_url"])
    files = {STATE: storage / STATE, SEALS: storage / SEALS, "entry": entries(storage)[0]}
    for source in files:
        if source != name:
            kept = files[name].read_bytes()
            files[name].write_bytes(nameless(files[source]) if older else files[source].read_bytes())
            refused(config, CorruptBlobError, "is damaged" if older else r"is damaged|copy of another file")
            files[name].write_bytes(kept)


def test_an_entry_under_the_name_of_another_is_refused_and_files_of_others_are_passed_over(ours):
    config, _, _ = ours
    storage = Path(config["storage_url"])
    first, second = entries(storage)
    copy = first.with_name("f" * 32 + ".json")
    shutil.copy(first, copy)
    refused(config, CorruptBlobError, "copy of another file")
    copy.unlink()
    shutil.copy(storage / STATE, storage / "journal" / "copy of state.json")
    shutil.copy(second, storage / "journal" / "copy.json")
    works(config)


def test_no_number_is_given_twice_when_ledger_and_certificates_are_older_than_the_journal(ours):
    config, folder, _ = ours
    storage = Path(config["storage_url"])
    for backup in ("snap-0", "snap-1"):
        shutil.rmtree(storage)
        shutil.copytree(folder / "snap-2", storage)
        restore(config, folder / backup / "ledger.sqlite3")
        shutil.rmtree(storage / "certificates")
        if (folder / backup / "certificates").exists():
            shutil.copytree(folder / backup / "certificates", storage / "certificates")
        with hybridmu.connect(config, executor="local") as system:
            for call in (system.replay, lambda: system.forget(ids=[40]), lambda: system.run(until_idle=True)):
                with pytest.raises(StateError, match="certificates are missing") as refusal:
                    call()
                assert "put them back" in refusal.value.remedy
    shutil.copytree(folder / "snap-2" / "certificates", storage / "certificates", dirs_exist_ok=True)
    with hybridmu.connect(config, executor="local") as system:
        system.replay()
        assert [request.certificate for request in system.ledger.requests()] == [1, 2]
    works(config)
    with hybridmu.connect(config, executor="local") as system:
        names = [document["request"]["id"] for document in Certificates(system.site.storage).all()]
    assert len(set(names)) == len(names) == 3


def test_a_certificate_of_another_course_of_life_closes_nothing(ours):
    """The ledger gave its number 2 to another request than the one in storage."""
    config, _, _ = ours
    ledger = Path(config["storage_url"]) / "ledger.sqlite3"
    with closing(sqlite3.connect(ledger)) as connection, connection:
        connection.execute("UPDATE requests SET certificate = 3 - certificate")
    before = dump(ledger)
    with hybridmu.connect(config, executor="local") as system, pytest.raises(StateError, match="not the one"):
        system.replay()
    assert dump(ledger) == before


def test_a_ledger_that_went_on_before_it_had_caught_up_is_not_half_restored(ours):
    config, folder, _ = ours
    restore(config, folder / "snap-1" / "ledger.sqlite3")
    ledger = Path(config["storage_url"]) / "ledger.sqlite3"
    with closing(sqlite3.connect(ledger)) as connection, connection:
        connection.execute("UPDATE requests SET seq = 2")
    refused(config, StateError, "contradicts the ledger")
