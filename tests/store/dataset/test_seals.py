"""A damaged, older, foreign or misplaced file of the lake is refused before a row of it is used."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

import hybridmu
from hybridmu.errors import CorruptBlobError, HybridMUError, StateError, StorageError
from hybridmu.faults import observe
from hybridmu.store.dataset.layout import Manifest
from hybridmu.store.storage.sealed_json import sealed, unsealed
from tests.support import flipped, local_system, make_table

POLICY = {"verify_share": 0.0, "calibrate": False}


@dataclass(frozen=True)
class World:
    """A small trained system, and where its files lie."""

    folder: Path

    def open(self) -> hybridmu.System:
        return local_system(
            self.folder,
            data={"train": str(self.folder / "train.parquet"), "group": "person", "validation_fraction": 0.2},
            sisa={"shards": 2, "slices": 2, "epochs": 1},
            policy=POLICY,
        )

    @property
    def lake(self) -> Path:
        return self.folder / "storage" / "lake"

    def purge(self, *ids: int) -> None:
        with self.open() as system:
            system.forget(ids=list(ids), strategy="retrain", wait=True)
            system.run(until_idle=True)

    def state(self, system: hybridmu.System) -> list[str]:
        return [str(request["state"]) for request in system.requests()]


@pytest.fixture
def world(tmp_path) -> World:
    made = World(tmp_path)
    make_table(tmp_path / "train.parquet", 60, groups=30)
    with made.open() as system:
        system.train()
    return made


def older_tables(world: World, backup: Path) -> None:
    shutil.copytree(backup / "g0000" / "train", world.lake / "g0000" / "train", dirs_exist_ok=True)


def older_folder(world: World, backup: Path) -> None:
    shutil.rmtree(world.lake)
    shutil.copytree(backup, world.lake)


def swapped_tables(world: World, _: Path) -> None:
    first, second = sorted((world.lake / "g0000" / "train").iterdir())
    kept = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(kept)


def swapped_with_validation(world: World, _: Path) -> None:
    held_out = min((world.lake / "g0000" / "validation").iterdir())
    for name in (world.lake / "g0000" / "train").iterdir():
        shutil.copy(held_out, name)


def without_a_row(world: World, _: Path) -> None:
    rewritten(world, lambda table: table.slice(1))


def with_a_row_twice(world: World, _: Path) -> None:
    rewritten(world, lambda table: table.take([0, *range(len(table))]))


def of_another_system(world: World, _: Path) -> None:
    other = World(world.folder / "other")
    other.folder.mkdir()
    make_table(other.folder / "train.parquet", 60, groups=30, seed=1)
    with other.open() as system:
        system.train()
    shutil.rmtree(world.lake / "g0000")
    shutil.copytree(other.lake / "g0000", world.lake / "g0000")


def missing(world: World, _: Path) -> None:
    for name in (world.lake / "g0000" / "train").iterdir():
        name.unlink()


DAMAGES = [older_tables, older_folder, swapped_tables, swapped_with_validation]
DAMAGES += [without_a_row, with_a_row_twice, of_another_system, missing]


def rewritten(world: World, change: Callable[[Any], Any]) -> None:
    """Write whole tables with other rows, sealed as the product does."""
    from hybridmu.store.storage.parquet import publish_parquet, writing
    from hybridmu.store.storage.storage import Storage

    storage = Storage(str(world.folder / "storage"))
    for path in sorted((world.lake / "g0000" / "train").iterdir()):
        table = change(pq.read_table(path))
        with storage.staging() as staging:
            pq.write_table(table, staging / "x.parquet", **writing(table.schema))
            publish_parquet(storage, staging / "x.parquet", str(path.relative_to(world.folder / "storage")))


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.sampled
def test_a_table_that_is_not_the_recorded_one_never_trains(world, damage):
    shutil.copytree(world.lake, world.folder / "backup")
    tables = [pq.read_table(path)["id"].to_pylist() for path in sorted((world.lake / "g0000" / "train").iterdir())]
    world.purge(*(ids[0] for ids in tables))
    damage(world, world.folder / "backup")
    with world.open() as system:
        for ids in tables:
            with suppress(HybridMUError):  # what is looked up is refused when the request is made
                system.forget(ids=[ids[1]], strategy="retrain")
        with suppress(HybridMUError):
            system.run(until_idle=True)
        states = world.state(system)
        assert set(states[1:]) <= {"FAILED", "RECEIVED", "PLANNED"}
        with pytest.raises(StorageError, match="lake/g0000/train"):
            system.verify()


def test_an_older_index_is_refused_when_somebody_is_looked_up(world):
    shutil.copytree(world.lake / "g0000" / "index", world.folder / "backup")
    world.purge(3)
    shutil.copytree(world.folder / "backup", world.lake / "g0000" / "index", dirs_exist_ok=True)
    with world.open() as system, pytest.raises(StorageError, match=r"index/id-0000\d.parquet .* not the file"):
        system.forget(ids=[3])


def test_a_missing_index_is_damage_and_no_unknown_id(world):
    shutil.rmtree(world.lake / "g0000" / "index")
    with world.open() as system, pytest.raises(StorageError, match="is missing"):
        system.forget(ids=[3])


def test_the_file_as_it_was_last_written_is_what_helps(world):
    world.purge(3)
    shutil.copytree(world.lake, world.folder / "backup")
    without_a_row(world, world.lake)
    with world.open() as system:
        with suppress(HybridMUError):
            system.forget(ids=[40], strategy="retrain")
            system.run(until_idle=True)
        shutil.copytree(world.folder / "backup", world.lake, dirs_exist_ok=True)
        system.forget(ids=[40], strategy="retrain", key="again", wait=True)
        system.run(until_idle=True)
        assert "PURGED" in world.state(system)[1:]


@pytest.mark.slow
def test_an_older_copy_mends_a_table_without_what_was_purged_since(world):
    shutil.copytree(world.lake, world.folder / "backup")
    tables = [pq.read_table(path)["id"].to_pylist() for path in sorted((world.lake / "g0000" / "train").iterdir())]
    world.purge(*(ids[0] for ids in tables))
    with world.open() as system:
        shutil.rmtree(world.lake / "g0000")
        files = [path.relative_to(world.folder / "backup") for path in (world.folder / "backup").rglob("*.parquet")]
        other = next(path for path in files if "train" in path.parts)
        with pytest.raises(StorageError, match="nothing was changed"):
            system.mend("lake/g0000/validation/shard-00001.parquet", world.folder / "backup" / other)
        for path in sorted(files, key=lambda path: "index" in path.parts):  # tables say what an index may name
            system.mend(f"lake/{path}", world.folder / "backup" / path)
        system.site.lake.check(*system.site.lake.every_file())
        system.forget(ids=[tables[0][1]], strategy="retrain", wait=True)
        system.run(until_idle=True)
        assert world.state(system) == ["PURGED", "PURGED"]


def test_no_flipped_bit_of_the_manifest_goes_unnoticed(world):
    path = world.lake / "manifest.json"
    whole = path.read_bytes()
    for position in range(8 * len(whole)):
        with pytest.raises(CorruptBlobError, match=r"manifest\.json is damaged"):
            Manifest.from_bytes(flipped(whole, position))
    for other in (
        b"",
        whole[:-1],
        whole[: len(whole) // 2],
        whole + b" ",
        whole.decode().encode("utf-16"),
        b"[" * 9999,
    ):
        with pytest.raises(CorruptBlobError, match=r"manifest\.json is damaged"):
            Manifest.from_bytes(other)
    assert json.loads(whole)["seal"]
    path.write_bytes(flipped(whole, 4000))
    with world.open() as system, pytest.raises(CorruptBlobError, match="put back this file"):
        system.forget(ids=[3])


def test_an_older_manifest_is_refused(world):
    kept = (world.lake / "manifest.json").read_bytes()
    make_table(world.folder / "new.parquet", 20, groups=30, seed=1, start=100)
    with world.open() as system:
        system.ingest(world.folder / "new.parquet", wait=True)
    (world.lake / "manifest.json").write_bytes(kept)
    with world.open() as system, pytest.raises(StorageError, match=r"manifest\.json .* not the file"):
        system.forget(ids=[3])
    (world.lake / "manifest.json").unlink()
    with world.open() as system, pytest.raises(StateError, match="its storage has lost its rows"):
        system.train()


def test_a_lost_manifest_is_not_made_anew(world):
    (world.lake / "manifest.json").unlink()
    with world.open() as system, pytest.raises(StateError, match="its storage has lost its rows"):
        system.train()


class _Killed(BaseException):
    """What a kill would do to this process."""


@pytest.fixture
def killed() -> Iterator[Callable[[str, int], None]]:
    """`killed(point, hit)`: the process ends at that hit of a fault point."""

    def arm(point: str, hit: int = 1) -> None:
        seen = []

        def at(name: str) -> None:
            seen.append(name)
            if seen.count(point) == hit and name == point:
                observe(None)
                raise _Killed

        observe(at)

    yield arm
    observe(None)


POINTS = ["seal.commit", "seal.committed", "sealed.commit", "sealed.committed", "purge.index", "purge.rows"]


@pytest.mark.parametrize("point", POINTS)
@pytest.mark.sampled
def test_a_purge_that_is_killed_anywhere_is_finished(world, killed, point):
    with world.open() as system:
        system.forget(ids=[3], strategy="retrain", wait=True)
    killed(point)
    system = world.open()
    with pytest.raises(_Killed):
        system.run(until_idle=True)
    system.close()
    with world.open() as system:
        system.run(until_idle=True)
        assert world.state(system) == ["PURGED"]
        assert system.database.seals.unconfirmed() == {}
        system.site.lake.check(*system.site.lake.every_file())


@pytest.mark.parametrize("point", ["seal.committed", "ingest.manifest", "grow.commit", "grow.committed"])
@pytest.mark.sampled
def test_an_ingestion_that_is_killed_anywhere_is_finished(world, killed, point):
    make_table(world.folder / "new.parquet", 20, groups=30, seed=1, start=100)
    with world.open() as system:
        system.ingest(world.folder / "new.parquet")
    killed(point)
    system = world.open()
    with pytest.raises(_Killed):
        system.run(until_idle=True)
    system.close()
    with world.open() as system:
        system.run(until_idle=True)
        assert [new["state"] for new in system.ingests()] == ["SERVED"]
        assert system.database.seals.unconfirmed() == {}


def test_a_storage_of_an_older_release_is_recorded_once(world):
    """It has no seals, neither in its files nor in its ledger."""
    undo(world)
    with world.open() as system:
        system.train()
        known = system.database.seals.content()[1]
    assert {"lake/manifest.json", "lake/g0000/train/shard-00000.parquet"} <= known.keys()
    world.purge(3)


def test_a_storage_of_an_older_release_whose_rows_are_others_is_not_recorded(world):
    undo(world)
    without_a_row(world, world.lake)
    with world.open() as system, pytest.raises(StorageError, match="not those that its sub-model was trained on"):
        system.train()


def undo(world: World) -> None:
    with world.open() as system, system.database.engine.begin() as connection:
        connection.exec_driver_sql("DELETE FROM seals")
        connection.exec_driver_sql("DELETE FROM meta WHERE key = 'changes'")
    path = world.lake / "manifest.json"
    raw = json.loads(path.read_bytes())
    del raw["seal"]
    path.write_bytes(json.dumps(raw).encode())
    (world.folder / "storage" / "journal" / "seals.json").unlink()
    for entry in (world.folder / "storage" / "lineage").rglob("*"):
        if entry.is_file():
            entry.write_bytes(entry.read_bytes().partition(b" ")[0])


def test_a_sealed_document_is_read_as_it_was_written():
    document = {"a": [1, {"seal": "x"}], "b": None}
    assert unsealed(sealed(document), "x", ("a",), "") == document
    assert unsealed(json.dumps(document).encode(), "x", ("a",), "", older=("a", "b")) == document
    for older in (("a",), None):
        with pytest.raises(CorruptBlobError):
            unsealed(json.dumps(document).encode(), "x", ("a",), "", older=older)


def test_a_sealed_document_of_another_kind_is_refused():
    with pytest.raises(CorruptBlobError, match="no member 'c'"):
        unsealed(sealed({"a": 1}), "x", ("a", "c"), "")
