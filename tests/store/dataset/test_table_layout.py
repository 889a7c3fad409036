"""Values stand in rows alone: in what is read in, after a purge, and in storages that an earlier release made."""

from __future__ import annotations

import io
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from typer.testing import CliRunner

import hybridmu
from hybridmu import faults
from hybridmu.cli.main import app
from hybridmu.errors import HybridMUError
from hybridmu.runtime.purge.table_rewrite import outdated
from hybridmu.store.dataset.layout import LAYOUT
from hybridmu.store.storage.parquet import publish_parquet, read_parquet
from hybridmu.store.storage.parquet_pages import ParquetParts
from hybridmu.types import RequestState
from tests.scenes.purged_system import POLICY, World
from tests.system.test_exactness import SGD, config_for

ROWS, PEOPLE = 60, 12


def source(folder: Path) -> tuple[dict, Path]:
    """A table as pandas writes it: every text a category, and an index among the metadata."""
    made = pa.table({
        "id": pa.array([f"record-{n:06d}" for n in range(ROWS)]),
        "user": pa.array([f"person-{n % PEOPLE:04d}" for n in range(ROWS)]).dictionary_encode(),
        "city": pa.array([f"city-of-person-{n % PEOPLE:04d}" for n in range(ROWS)]).dictionary_encode(),
        "x": pa.array([float(n * 7 % 11) for n in range(ROWS)], pa.float32()),
        "label": pa.array([n % 2 for n in range(ROWS)]),
    })
    table = folder / "train.parquet"
    pq.write_table(made.replace_schema_metadata({"pandas": '{"index_columns": ["record-000003"]}'}), table)
    config = config_for(folder, table, shards=3, slices=2, epochs=2, batch=8, optimizer=SGD, groups=0)
    config["data"] = {"train": str(table), "test_fraction": 0, "id": "id", "group": "user", "label": "label"}
    config["policy"] = POLICY
    return config, table


def values_anywhere(storage: Path) -> dict[str, bytes]:
    """Table → its bytes, and those of its pages once they are decompressed."""
    found = {}
    for file in sorted(storage.rglob("*.parquet")):
        parts = ParquetParts(io.BytesIO(file.read_bytes()))
        pages = [page.data for chunk in parts.chunks() for page in parts.pages(chunk)]
        found[str(file.relative_to(storage))] = file.read_bytes() + b"".join(pages)
    return found


def as_an_earlier_release_left_it(system: hybridmu.System) -> None:
    """Write every table with the dictionaries of its source: values of all rows, whatever the rows are."""
    lake = system.site.lake
    for name in sorted(lake.names()):
        if not lake.storage.exists(name):
            continue
        made = read_parquet(lake.storage, name).replace_schema_metadata(None)
        for column, of in (("user", "person"), ("city", "city-of-person")):
            if column in made.schema.names:
                every = pa.array([f"{of}-{n:04d}" for n in range(PEOPLE)])
                places = pa.array([every.to_pylist().index(value) for value in made[column].to_pylist()], pa.int32())
                values = pa.DictionaryArray.from_arrays(places, every)
                made = made.set_column(made.schema.names.index(column), column, values)
        with lake.storage.staging() as folder:
            pq.write_table(made, folder / "t", row_group_size=5)
            publish_parquet(lake.storage, folder / "t", name)
    lake.storage.delete(LAYOUT)


@pytest.fixture
def old(tmp_path):
    """A storage of an earlier release; one person was purged by it, and is still in every table."""
    config, table = source(tmp_path)
    with hybridmu.connect(config, executor="local") as system:
        system.train()
        world = World(system, config, table)
        name = world.forget(groups=["person-0003"])
        world.run()
        world.assert_certified(name)
        as_an_earlier_release_left_it(system)
    assert sum(b"person-0003" in data for data in values_anywhere(world.storage).values()) >= 3
    return config, table


@pytest.mark.slow
def test_a_purged_person_is_in_no_dictionary(tmp_path):
    config, table = source(tmp_path)
    with hybridmu.connect(config, executor="local") as system:
        system.train()
        world = World(system, config, table)
        name = world.forget(groups=["person-0003"])
        world.run()
        world.assert_certified(name)
        for file, data in values_anywhere(world.storage).items():
            assert b"person-0003" not in data, file
            assert b"record-000003" not in data, file
        assert system.verify()["exact_claims_hold"] is True
        assert outdated(system.site.lake) == []


def test_the_plan_says_what_is_rewritten_and_changes_nothing(old):
    config, _ = old
    with hybridmu.connect(config, executor="local") as system:
        before = system.site.storage.list()
        plan = system.upgrade()
        tables = [file.name for file in before if file.name.endswith(".parquet")]
        assert (plan.tables, plan.lost) == (len(tables), 0)
        assert f"{len(tables)} table file(s) of an earlier release are rewritten once" in plan.explain()
        assert system.site.storage.list() == before


@pytest.mark.slow
def test_the_next_coordinator_rewrites_them_once(old):
    config, table = old
    with hybridmu.connect(config, executor="local") as system:
        weights = [sub.blob for sub in system.registry.version().shards]
        world = World(system, config, table)
        world.gone_groups.add("person-0003")
        world.run()
        assert not any(b"person-0003" in data for data in values_anywhere(world.storage).values())
        assert [sub.blob for sub in system.registry.version().shards] == weights
        assert system.upgrade().tables == 0
        before = system.site.storage.list("lake")
    with hybridmu.connect(config, executor="local") as system:
        world = World(system, config, table)
        world.run()
        assert system.site.storage.list("lake") == before
        name = world.forget(groups=["person-0005"])
        world.run()
        world.assert_certified(name)
        assert system.verify()["exact_claims_hold"] is True
        assert not any(b"person-0005" in data for data in values_anywhere(world.storage).values())


@pytest.mark.parametrize("point", ["file.move", "file.moved", "file.opened"])
@pytest.mark.parametrize("hit", [1, 4])
@pytest.mark.sampled
def test_a_rewriting_that_is_broken_off_goes_on(old, point, hit):
    config, _ = old

    class Killed(BaseException):
        pass

    def die() -> None:
        raise Killed

    with hybridmu.connect(config, executor="local") as system:
        faults.arm(point, 1 if point == "file.opened" else hit, die)
        try:
            with pytest.raises(Killed):
                system.rewrite_tables()
        finally:
            faults.observe(None)
    with hybridmu.connect(config, executor="local") as system:
        left = len(outdated(system.site.lake))
        assert system.rewrite_tables() == left
        assert (system.rewrite_tables(), outdated(system.site.lake)) == (0, [])
        assert system.site.storage.exists(LAYOUT)
        assert system.verify()["exact_claims_hold"] is True


@pytest.mark.slow
def test_no_certificate_is_signed_while_a_table_keeps_values_apart(old, monkeypatch):
    config, table = old
    monkeypatch.setattr("hybridmu.runtime.coordinator.table_layout.is_current", lambda lake: True)
    with hybridmu.connect(config, executor="local") as system:
        world = World(system, config, table)
        name = world.forget(groups=["person-0005"])
        world.run()
        assert world.state(name) is RequestState.SERVED
        assert "keep values of rows that are gone" in (world.request(name).reason or "")
        assert len(world.certificates) == 1


def test_a_damaged_table_keeps_only_itself_from_being_rewritten(old):
    config, _ = old
    with hybridmu.connect(config, executor="local") as system:
        every = outdated(system.site.lake)
        file = Path(config["storage_url"]) / every[0]
        whole = file.read_bytes()
        file.write_bytes(whole[:-20])
        with pytest.raises(HybridMUError, match="damaged"):
            system.rewrite_tables()
        assert not system.site.storage.exists(LAYOUT)
        file.write_bytes(whole)
        assert outdated(system.site.lake) == every[:1]
        assert system.rewrite_tables() == 1


def test_the_command_rewrites_them(old, tmp_path):
    config, _ = old
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(config))

    def run(*words: str) -> str:
        return " ".join(CliRunner().invoke(app, ["upgrade", "-c", str(file), *words]).output.split())

    assert "table file(s) of an earlier release are rewritten once" in run("--plan")
    assert "were rewritten. Nothing is trained again." in run()
    assert run() == "Every table is as this release writes them."
    assert "add --plan" in run("--with", "torch=9.9")
