"""Copies of new rows that wait in storage: another copy than the one that was accepted never comes in."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

import hybridmu
from hybridmu import faults
from hybridmu.runtime.coordinator.ingestion import Growth
from hybridmu.store.storage.parquet import publish_parquet, writing
from tests.support import flipped
from tests.system.test_exactness import SGD, assert_equal_to_reference, config_for, write_table


class World:
    """A trained system, and tables of rows that are not in it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.table = folder, folder / "train.parquet"
        self.ids = write_table(self.table, 40, string_ids=False, groups=0)
        self.config = config_for(folder, self.table, shards=2, slices=2, epochs=2, batch=4, optimizer=SGD, groups=0)
        self.system = self.open()
        self.system.train()

    def open(self) -> hybridmu.System:
        self.system = hybridmu.connect(self.config, executor="local")
        return self.system

    def new(self, start: int, rows: int = 8) -> Path:
        path = self.folder / f"new-{start}.parquet"
        write_table(path, rows, string_ids=False, groups=0, seed=start, start=start)
        return path

    def copy(self, report: dict) -> Path:
        return Path(self.system.site.storage.path(report["source"]))

    def seals(self) -> set[str]:
        """Return the names of recorded copies, in the ledger and in the journal."""
        kept = json.loads(self.system.site.storage.read("journal/seals.json"))["seals"]
        names = {*self.system.database.seals.content()[1], *kept}
        return {name for name in names if name.startswith("incoming/")}


@pytest.fixture
def world(tmp_path):
    made = World(tmp_path)
    yield made
    made.system.close()


def swapped(world: World, copy: Path, other: Path) -> None:
    kept = copy.read_bytes()
    shutil.copy(other, copy)
    other.write_bytes(kept)


def with_another_label(world: World, copy: Path, _: Path) -> None:
    made = pq.read_table(copy)
    labels = made["label"].to_pylist()
    column = pa.array(labels[1:] + labels[:1], made.schema.field("label").type)
    made = made.set_column(made.column_names.index("label"), "label", column)
    storage = world.system.site.storage
    with storage.staging() as staging:  # a whole file, sealed as the product does
        pq.write_table(made, staging / "x.parquet", **writing(made.schema))
        publish_parquet(storage, staging / "x.parquet", f"incoming/{copy.name}")


def with_a_flipped_bit(_: World, copy: Path, __: Path) -> None:
    copy.write_bytes(flipped(copy.read_bytes(), copy.stat().st_size // 3 * 8))


def lost(_: World, copy: Path, __: Path) -> None:
    copy.unlink()


CHANGES = [swapped, with_another_label, with_a_flipped_bit, lost]


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.sampled
def test_another_copy_never_comes_in(world, change):
    first, second = (world.system.ingest(world.new(start)) for start in (100, 200))
    change(world, world.copy(first), world.copy(second))
    world.system.run(until_idle=True)
    reports = [world.system.ingestion(new["ingest_id"]) for new in (first, second)]
    ours = [] if change is swapped else [(world.new(200), 1, second["epochs"])]
    assert [report["state"] for report in reports] == ["FAILED", "SERVED" if ours else "FAILED"]
    assert "send the rows again" in reports[0]["reason"]
    assert_equal_to_reference(world.system, world.config, world.table, later=ours)
    assert world.system.site.storage.list("incoming") == []
    # The same rows may come again.
    assert world.system.ingest(world.new(100), wait=True)["state"] == "SERVED"
    later = [*ours, (world.new(100), 1, first["epochs"])]
    assert_equal_to_reference(world.system, world.config, world.table, later=later)


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.sampled
def test_another_copy_of_corrected_rows_holds_up_no_purge(world, change):
    other = world.system.ingest(world.new(100))
    report = world.system.correct(corrected(world))
    change(world, world.copy(report["ingestion"]), world.copy(other))
    world.system.run(until_idle=True)
    assert world.system.report(report["request_id"])["state"] == "PURGED"
    assert world.system.ingestion(report["ingestion"]["ingest_id"])["state"] == "FAILED"
    later = [] if change is swapped else [(world.new(100), 1, other["epochs"])]
    assert_equal_to_reference(world.system, world.config, without(world), later=later)


def test_nothing_is_recorded_of_a_copy_that_waits_no_more(world):
    new = world.system.ingest(world.new(100))
    assert set(world.system.database.seals.known([new["source"]])) == {new["source"]}
    world.system.run(until_idle=True)
    world.system.forget(ids=[703], wait=True)
    world.system.run(until_idle=True)
    assert world.seals() == set()


def test_equal_copies_of_two_systems_have_other_seals(world, tmp_path):
    """A seal is keyed: it tells nobody without the storage whether a guess of a row is right."""
    (tmp_path / "other").mkdir()
    other = World(tmp_path / "other")
    found = []
    for place in (world, other):
        new = place.system.ingest(place.new(100, rows=1))
        found.append(place.system.database.seals.known([new["source"]])[new["source"]])
    other.system.close()
    assert not found[0] & found[1]


class Crash(BaseException):
    """Stands for the end of the process."""


POINTS = ["seal.commit", "seal.committed", "file.renamed", "sealed.commit", "sealed.committed"]


@pytest.mark.parametrize("point", POINTS)
@pytest.mark.sampled
def test_a_copy_whose_rewriting_is_killed_anywhere_is_finished(world, monkeypatch, point):
    report = world.system.correct(corrected(world))
    world.system.forget(ids=[world.ids[0]])
    name, real, crashes = report["ingestion"]["ingest_id"], Growth.forget_waiting, []

    def crash() -> None:
        crashes.append(point)
        raise Crash

    def armed(growth: Growth, token: int) -> tuple[str, ...]:
        if not crashes:
            faults.arm(point, 1, crash)
        return real(growth, token)

    monkeypatch.setattr(Growth, "forget_waiting", armed)
    world.system.close()
    world.open()
    with pytest.raises(Crash):
        world.system.wait_for_rows(name)
    faults.observe(None)
    world.system.close()
    world.open().wait_for_rows(name)
    assert world.system.ingestion(name)["state"] == "SERVED"
    assert world.system.database.seals.unconfirmed() == {}
    left = world.folder / "left.parquet"
    made = pq.read_table(corrected(world))
    pq.write_table(made.filter(pc.not_equal(made["id"], world.ids[0])), left)
    assert_equal_to_reference(
        world.system, world.config, without(world), later=[(left, 1, report["ingestion"]["epochs"])]
    )


def corrected(world: World) -> Path:
    """Write whole rows of three ids, with another feature."""
    made = pq.read_table(world.table)
    made = made.filter(pc.is_in(made["id"], pa.array(world.ids[:3])))
    made = made.set_column(made.column_names.index("a"), "a", pc.add(made["a"], pa.scalar(1.0, pa.float32())))
    path = world.folder / "corrected.parquet"
    pq.write_table(made, path)
    return path


def without(world: World) -> Path:
    """Write the first table without those rows."""
    made = pq.read_table(world.table)
    path = world.folder / "without.parquet"
    pq.write_table(made.filter(pc.invert(pc.is_in(made["id"], pa.array(world.ids[:3])))), path)
    return path
