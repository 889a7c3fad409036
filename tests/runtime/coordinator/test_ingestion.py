"""New data in a trained system equals training from scratch on the final table with the same history, bit for bit.

The oracle is tests/reference.py, which knows generations from docs/exactness.md and shares no code with the package.
"""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import hybridmu
from hybridmu import faults
from hybridmu.errors import ConflictError, DataError, HybridMUError, RequestError, StateError
from hybridmu.runtime.coordinator import ingestion as growth
from hybridmu.runtime.workers.shard_worker import ShardWorker
from hybridmu.system.key_resolution import KeyResolution
from hybridmu.types import IngestState, RequestState
from tests.system.test_exactness import OPTIMIZERS, SGD, assert_equal_to_reference, config_for, write_table


@dataclass
class Trained:
    """A trained system, and the history of its table as the oracle takes it."""

    folder: Path
    system: hybridmu.System
    config: dict[str, Any]
    table: Path
    groups: int = 0
    later: list[tuple[Path, int, int]] = field(default_factory=list)
    next_id: int = 1000

    def new(self, rows: int, **options: Any) -> tuple[Path, list]:
        """Write a table of new rows."""
        path = self.folder / f"new-{self.next_id}.parquet"
        ids = write_table(path, rows, groups=self.groups, seed=self.next_id, start=self.next_id, **options)
        self.next_id += rows
        return path, ids

    def ingest(self, rows: int, **options: Any) -> list:
        """Bring new rows in and note them in the history."""
        path, ids = self.new(rows, string_ids=False)
        report = self.system.ingest(path, wait=True, **options)
        assert report["state"] == "SERVED"
        self.later.append((path, report["slices"], report["epochs"]))
        return ids

    def check(self, ids=(), groups=()) -> None:
        assert_equal_to_reference(self.system, self.config, self.table, ids, groups, self.later)

    def shard_of(self, row: int) -> int:
        return KeyResolution(self.system.session).resolve([row], [], False)[0][0].shard


@pytest.fixture
def trained(tmp_path):
    table = tmp_path / "train.parquet"
    write_table(table, 40, string_ids=False, groups=0)
    config = config_for(tmp_path, table, shards=3, slices=2, epochs=3, batch=4, optimizer=SGD, groups=0)
    with hybridmu.connect(config, executor="local") as system:
        system.train()
        yield Trained(tmp_path, system, config, table)


# ---------------------------------------------------------------------- exactness


@settings(max_examples=10, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow], database=None)
@given(data=st.data())
@pytest.mark.slow
def test_any_sequence_of_ingestions_and_requests_is_exact(data):
    groups = data.draw(st.sampled_from([0, 4]), label="groups")
    optimizer = data.draw(st.sampled_from(OPTIMIZERS), label="optimizer")
    folder = Path(tempfile.mkdtemp())
    try:
        table = folder / "train.parquet"
        live = write_table(table, data.draw(st.integers(1, 30)), string_ids=False, groups=groups)
        shape = {"shards": data.draw(st.integers(1, 3)), "slices": data.draw(st.integers(1, 3))}
        config = config_for(folder, table, epochs=2, batch=3, optimizer=optimizer, groups=groups, **shape)
        gone_ids: set = set()
        gone_groups: set = set()
        with hybridmu.connect(config, executor="local") as system:
            system.train()
            world = Trained(folder, system, config, table, groups)
            everyone = set(live)
            for _ in range(data.draw(st.integers(1, 4), label="steps")):
                if data.draw(st.booleans(), label="ingest"):
                    options = {
                        "slices": data.draw(st.integers(1, 3)),
                        "epochs": data.draw(st.sampled_from([None, 1, 2])),
                    }
                    # Rows of forgotten groups are among them, and are skipped.
                    everyone |= set(world.ingest(data.draw(st.integers(1, 8)), **options))
                else:
                    ids = data.draw(st.lists(st.sampled_from(sorted(everyone)), min_size=1, max_size=6), label="ids")
                    asked = data.draw(st.lists(st.sampled_from(["u0", "u1"]), max_size=1)) if groups else []
                    try:
                        system.forget(ids=ids, groups=asked, strategy="retrain", wait=True, ignore_unknown=True)
                    except RequestError:  # of rows that were skipped alone, or of all that are left
                        continue
                    gone_ids, gone_groups = gone_ids | set(ids), gone_groups | set(asked)
                world.check(gone_ids, gone_groups)
            revoked = {n: {(x.kind, x.key) for x in found} for n, found in system.ledger.tombstones().items()}
            assert system.guard.count(system.site.lake, revoked) == 0
    finally:
        shutil.rmtree(folder)


def test_only_new_slices_are_trained_and_old_keys_stay(trained):
    before = trained.system.registry.version()
    ids = trained.ingest(9, slices=2, epochs=3)
    trained.check()
    manifest = trained.system.site.lake.manifest
    assert (manifest.slices, manifest.epochs[2:]) == (4, (3, 3))
    after = trained.system.registry.version()
    assert after.version == 2
    touched = {trained.shard_of(row) for row in ids}
    assert touched == {0, 1, 2}
    for old, new in zip(before.shards, after.shards, strict=True):
        assert new.checkpoints[:2] == old.checkpoints
        assert (new.generations, len(new.checkpoints), new.head) == (2, 4, old.head)
    outcomes = trained.system.measurements.costs()[: len(touched)]
    rows = [sum(manifest.rows["train"][shard]) for shard in range(3)]
    assert sum(outcome.visits for outcome in outcomes) <= 6 * sum(rows)


@pytest.mark.slow
def test_a_shard_without_new_rows_is_left_alone(trained):
    path, ids = trained.new(1, string_ids=False)
    before = trained.system.registry.version().shards
    report = trained.system.ingest(path, wait=True)
    trained.later.append((path, 1, report["epochs"]))
    shard = trained.shard_of(ids[0])
    for old, new in zip(before, trained.system.registry.version().shards, strict=True):
        assert (old == new) == (new.shard != shard)
    trained.check()
    other = next(row for row in pq.read_table(trained.table)["id"].to_pylist() if trained.shard_of(row) != shard)
    plan = trained.system.plan(ids=[other], strategy="retrain").shards[0]
    found = trained.system.forget(ids=[other], strategy="retrain", wait=True)["shards"][0]
    assert found["planned_visits"] == found["sample_visits"] == plan.sample_visits
    trained.check([other])


@pytest.mark.slow
def test_when_all_it_brought_is_forgotten_it_is_as_if_it_had_never_come(trained):
    before = [sub.blob for sub in trained.system.registry.version().shards]
    ids = trained.ingest(8, slices=2)
    assert [sub.blob for sub in trained.system.registry.version().shards] != before
    report = trained.system.forget(ids=ids, strategy="retrain", wait=True)
    assert [sub.blob for sub in trained.system.registry.version().shards] == before
    assert sum(shard["sample_visits"] for shard in report["shards"]) == 0
    trained.check(ids)


def test_an_empty_shard_joins_the_vote(tmp_path):
    table = tmp_path / "train.parquet"
    write_table(table, 2, string_ids=False, groups=0)
    config = config_for(tmp_path, table, shards=6, slices=2, epochs=2, batch=4, optimizer=SGD, groups=0)
    with hybridmu.connect(config, executor="local") as system:
        system.train()
        assert sum(sub.blob is None for sub in system.registry.version().shards) >= 4
        world = Trained(tmp_path, system, config, table)
        world.ingest(30)
        assert all(sub.blob for sub in system.registry.version().shards)
        world.check()


@pytest.mark.slow
def test_a_person_has_rows_in_slices_of_several_generations(tmp_path):
    table = tmp_path / "train.parquet"
    write_table(table, 40, string_ids=False, groups=4)
    config = config_for(tmp_path, table, shards=2, slices=3, epochs=2, batch=4, optimizer=SGD, groups=4)
    with hybridmu.connect(config, executor="local") as system:
        system.train()
        world = Trained(tmp_path, system, config, table, groups=4)
        world.ingest(20, slices=2)
        world.ingest(20)
        keys = KeyResolution(system.session).resolve([], ["u2"], False)[0]
        assert len({key.shard for key in keys}) == 1
        assert len({key.slice for key in keys}) == 3
        report = system.forget(groups=["u2"], strategy="retrain", wait=True)
        assert report["keys"] == 1
        assert [s["planned_visits"] == s["sample_visits"] for s in report["shards"]] == [True]
        world.check((), ["u2"])
        done = system.run(until_idle=True)
        assert done.open_requests == 0
        assert system.report(report["request_id"])["state"] == "PURGED"
        world.check((), ["u2"])


@pytest.mark.slow
def test_validation_rows_are_held_out_of_new_data_by_the_same_hash(tmp_path):
    table = tmp_path / "train.parquet"
    write_table(table, 60, string_ids=False, groups=0)
    config = config_for(tmp_path, table, shards=2, slices=2, epochs=2, batch=4, optimizer=SGD, groups=0)
    config["data"]["validation_fraction"] = 0.4
    with hybridmu.connect(config, executor="local") as system:
        system.train()
        world = Trained(tmp_path, system, config, table)
        world.ingest(40)
        rows = system.site.lake.manifest.generations[1].rows
        counts = {split: sum(map(sum, shards)) for split, shards in rows.items()}
        assert counts["train"] + counts["validation"] == 40
        assert 5 < counts["validation"] < 35
        assert sum(len(system.site.lake.rows("validation", shard, set())) for shard in (0, 1)) > counts["validation"]
        world.ingest(8, slices=2, epochs=3)
        system.forget(ids=[3, 10, 7003, 7010], strategy="retrain", wait=True)
        report = system.verify()  # in fresh processes
        assert report["bitwise_equal"] is True
        assert (report["guarded_rows_in_lake"], report["guard_entries_lost"]) == (0, 0)


def test_an_approximate_shard_is_repaired_by_the_way(tmp_path):
    table = tmp_path / "train.parquet"
    ids = write_table(table, 40, string_ids=False, groups=0)
    config = config_for(tmp_path, table, shards=2, slices=2, epochs=2, batch=4, optimizer=SGD, groups=0)
    config["policy"] |= {"repair": "deadline", "retention_seconds": 1e9}
    with hybridmu.connect(config, executor="local") as system:
        system.train()
        request = system.forget(ids=ids[:6], strategy="dpus", wait=True)["request_id"]
        assert not all(sub.exact for sub in system.registry.version().shards)
        world = Trained(tmp_path, system, config, table)
        world.ingest(12)
        world.check(ids[:6])
        assert system.report(request)["exact_at"] is not None


# ---------------------------------------------------------------------- what is refused


def changed(name: str, values) -> Any:
    def change(made: pa.Table) -> pa.Table:
        return made.set_column(made.column_names.index(name), name, values(len(made)))

    return change


REFUSED = {
    "an id twice": (lambda t: pa.concat_tables([t, t.slice(0, 1)]), "duplicate ids"),
    "another class": (changed("label", lambda n: pa.array(["maybe"] * n)), "outside the classes"),
    "labels of another type": (changed("label", lambda n: pa.array([1] * n)), "label"),
    "a feature of another type": (changed("a", lambda n: pa.array(["x"] * n)), "'a' has another type"),
    "ids of another type": (changed("id", lambda n: pa.array([f"r{i}" for i in range(n)])), "'id' has another type"),
    "NaN": (changed("b", lambda n: pa.array([float("nan")] * n)), "NaN"),
    "a missing column": (lambda t: t.drop_columns(["c"]), "lacks columns ['c']"),
    "no rows": (lambda t: t.slice(0, 0), "no rows"),
}


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.sampled
def test_rows_that_can_not_be_used_change_nothing(trained, case):
    change, says = REFUSED[case]
    path, _ = trained.new(6, string_ids=False)
    pq.write_table(change(pq.read_table(path)), path)
    with pytest.raises(DataError) as error:
        trained.system.ingest(path)
    assert says in str(error.value)
    assert trained.system.ingests() == []
    assert trained.system.site.storage.list("incoming") == []


def test_ids_that_are_there_or_on_their_way_are_refused_as_a_whole(trained):
    first, _ = trained.new(6, string_ids=False)
    waiting = trained.system.ingest(first)
    mixed = pa.concat_tables([pq.read_table(first).slice(0, 1), pq.read_table(trained.new(3, string_ids=False)[0])])
    pq.write_table(mixed, trained.folder / "mixed.parquet")
    with pytest.raises(DataError, match="already"):
        trained.system.ingest(trained.folder / "mixed.parquet")  # one waits
    trained.system.wait_for_rows(waiting["ingest_id"])
    with pytest.raises(DataError, match="hybridmu correct"):
        trained.system.ingest(trained.folder / "mixed.parquet")  # one is there
    with pytest.raises(DataError, match="already"):
        trained.system.ingest(trained.table)
    assert len(trained.system.ingests()) == 1


@pytest.mark.parametrize("options", [{"slices": 0}, {"epochs": 0}])
def test_slices_and_epochs_are_positive(trained, options):
    with pytest.raises(RequestError, match="is out of range"):
        trained.system.ingest(trained.new(3, string_ids=False)[0], **options)


def test_nothing_comes_in_before_training(tmp_path):
    table = tmp_path / "train.parquet"
    write_table(table, 10, string_ids=False, groups=0)
    config = config_for(tmp_path, table, shards=2, slices=2, epochs=2, batch=4, optimizer=SGD, groups=0)
    with hybridmu.connect(config, executor="local") as system, pytest.raises(StateError, match="hybridmu train"):
        system.ingest(table)
    assert not (tmp_path / "storage").exists()


def test_the_same_key_names_the_same_ingestion(trained):
    path, _ = trained.new(5, string_ids=False)
    first = trained.system.ingest(path, key="k", wait=True)
    assert trained.system.ingest(path, key="k")["ingest_id"] == first["ingest_id"]
    for other, options in ((path, {"slices": 2}), (trained.new(5, string_ids=False)[0], {})):
        with pytest.raises(ConflictError):
            trained.system.ingest(other, key="k", **options)
    with pytest.raises(ConflictError):
        trained.system.forget(ids=[3], key="k")
    assert len(trained.system.ingests()) == 1


# ---------------------------------------------------------------------- crashes and failures


class Crash(KeyboardInterrupt):  # what a task raises else is told as its own error, and tried again
    """Stands for the end of the process."""


POINTS = ["ingest.cleared", "ingest.published", "ingest.manifest", "grow.commit", "grow.committed", "file.deleted",
          "grown.commit", "grown.committed", "publish.commit", "publish.committed", "lineage.recorded"]  # fmt: skip


@pytest.mark.parametrize(("point", "hit"), [*((point, 1) for point in POINTS), ("ingest.published", 3)])
@pytest.mark.sampled
def test_an_interrupted_ingestion_goes_on_after_a_restart(trained, point, hit):
    path, ids = trained.new(10, string_ids=False)
    new = trained.system.ingest(path, slices=2)
    seen = []

    def crash() -> None:
        seen.append(point)
        raise Crash

    faults.arm(point, hit, crash)
    try:
        trained.system.wait_for_rows(new["ingest_id"])
    except Crash:
        pass
    finally:
        faults.observe(None)
        trained.system.close()
    assert seen
    with hybridmu.connect(trained.config, executor="local") as again:
        again.wait_for_rows(new["ingest_id"])
        trained.system = again
        trained.later.append((path, 2, new["epochs"]))
        trained.check()
        assert again.site.storage.list("incoming") == []
        assert len(again.site.lake.manifest.generations) == 2
        report = again.ingestion(new["ingest_id"])
        assert (report["state"], report["rows"], report["generation"]) == ("SERVED", 10, 1)
        request = again.forget(ids=ids[:2], strategy="retrain", wait=True)
        assert request["state"] == "SERVED"
        trained.check(ids[:2])


@pytest.mark.slow
def test_a_ledger_from_an_older_backup_learns_of_the_rows(trained):
    ledger = trained.folder / "storage" / "ledger.sqlite3"
    trained.system.close()
    with sqlite3.connect(ledger) as old, sqlite3.connect(trained.folder / "backup.sqlite3") as backup:
        old.backup(backup)
    ids = trained.ingest(9, slices=2)
    name = trained.system.ingests()[0]["ingest_id"]
    trained.system.close()
    trained.system.database.engine.dispose()
    with sqlite3.connect(trained.folder / "backup.sqlite3") as backup, sqlite3.connect(ledger) as old:
        backup.backup(old)
    with hybridmu.connect(trained.config, executor="local") as again:
        with pytest.raises(StateError, match="older than its storage"):
            again.ingests()
        again.replay()
        again.run(until_idle=True)
        (found,) = again.ingests()
        assert (found["ingest_id"], found["state"], found["rows"], found["generation"]) == (name, "SERVED", 9, 1)
        trained.system = again
        trained.check()
        again.forget(ids=ids[:1], strategy="retrain", wait=True)
        trained.check(ids[:1])


def test_a_copy_that_nobody_names_goes_after_a_while(trained, monkeypatch):
    storage = trained.system.site.storage
    storage.write("incoming/i-0123456789abcdef.parquet", b"half of something")
    trained.ingest(3)
    assert [info.name for info in storage.list("incoming")] == ["incoming/i-0123456789abcdef.parquet"]
    monkeypatch.setattr("hybridmu.store.dataset.waiting_rows._ORPHAN_SECONDS", 0.0)
    trained.ingest(3)
    assert storage.list("incoming") == []


def test_of_two_that_race_with_the_same_ids_one_comes_in(trained, monkeypatch):
    path, _ = trained.new(6, string_ids=False)
    monkeypatch.setattr(
        "hybridmu.runtime.coordinator.row_intake.refuse_known", lambda *_: None
    )  # each looked before the other came
    first, second = (trained.system.ingest(path) for _ in range(2))
    trained.system.wait_for_rows(first["ingest_id"])
    with pytest.raises(HybridMUError, match="ids of the new table are in the system already"):
        trained.system.wait_for_rows(second["ingest_id"])
    trained.later.append((path, 1, first["epochs"]))
    trained.check()
    assert [new["generation"] for new in trained.system.ingests()] == [1, None]
    assert trained.system.site.storage.list("incoming") == []


@pytest.mark.slow
def test_a_shard_that_fails_is_tried_again_and_forgetting_goes_on(trained, monkeypatch):
    real = ShardWorker.retrain
    broken = {0}

    def retrain(worker, job):
        if worker.shard in broken:
            raise HybridMUError("no luck")
        return real(worker, job)

    monkeypatch.setattr(ShardWorker, "retrain", retrain)
    path, ids = trained.new(12, string_ids=False)
    new = trained.system.ingest(path)
    trained.system.run(until_idle=True)
    report = trained.system.ingestion(new["ingest_id"])
    assert (report["state"], report["generation"]) == ("RECEIVED", 1)
    assert "shard 0: no luck" in report["reason"]
    behind = [sub.shard for sub in trained.system.registry.version().shards if sub.generations == 1]
    assert behind == [0]
    assert trained.system.verify()["exact_claims_hold"] is True  # each shard against what it was made of
    row = next(row for row in ids if trained.shard_of(row) == 1)
    assert trained.system.forget(ids=[row], strategy="retrain", wait=True)["state"] == "SERVED"
    broken.clear()
    monkeypatch.setattr(growth, "_RETRY_SECONDS", 0.0)
    trained.system.session.coordination.driver._growth._not_before.clear()
    trained.system.wait_for_rows(new["ingest_id"])
    trained.later.append((path, 1, new["epochs"]))
    trained.check([row])


def test_a_request_may_bring_the_new_rows_of_its_shard_along(trained, monkeypatch):
    """A forgotten row that was never trained on needs no ingest round of its own."""
    path, ids = trained.new(12, string_ids=False)
    real = ShardWorker.retrain
    monkeypatch.setattr(ShardWorker, "retrain", lambda worker, job: (_ for _ in ()).throw(HybridMUError("no luck")))
    new = trained.system.ingest(path)
    trained.system.run(until_idle=True)
    monkeypatch.setattr(ShardWorker, "retrain", real)
    gone = ids[:6]
    report = trained.system.forget(ids=gone, strategy="retrain", wait=True)
    assert all(s["planned_visits"] == s["sample_visits"] for s in report["shards"])
    trained.system.session.coordination.driver._growth._not_before.clear()
    trained.system.wait_for_rows(new["ingest_id"])
    trained.later.append((path, 1, new["epochs"]))
    trained.check(gone)
    trained.system.run(until_idle=True)
    assert trained.system.report(report["request_id"])["state"] == "PURGED"
    trained.check(gone)


def test_requests_and_ingestions_take_turns(trained):
    coordinator = trained.system.session.coordination.acquire()
    rows = pq.read_table(trained.table)["id"].to_pylist()
    real, coordinator.executor.poll = coordinator.executor.poll, lambda *_: []  # nothing finishes
    first = trained.system.ingest(trained.new(6, string_ids=False)[0])
    second = trained.system.ingest(trained.new(6, string_ids=False)[0])
    coordinator.step(0.0)
    made = lambda new: trained.system.ingestion(new["ingest_id"])["generation"]  # noqa: E731
    assert (made(first), made(second)) == (1, None)
    coordinator.executor.poll = real
    request = trained.system.forget(ids=[rows[0]], strategy="retrain")["request_id"]
    while made(second) is None:
        coordinator.step(0.0)
    assert trained.system.report(request)["version_before"] is not None  # it was begun before the second one
    trained.system.wait_for_rows(second["ingest_id"])
    assert trained.system.wait(request).state is RequestState.SERVED


def test_nothing_comes_in_while_paused(trained):
    trained.system.pause("maintenance")
    new = trained.system.ingest(trained.new(4, string_ids=False)[0])
    for _ in range(3):
        trained.system.session.coordination.acquire().step(0.0)
    assert trained.system.ingestion(new["ingest_id"])["generation"] is None
    trained.system.resume()
    trained.system.wait_for_rows(new["ingest_id"])


def test_another_process_sees_the_new_rows(trained):
    with hybridmu.connect(trained.config, executor="local") as other:
        assert other.plan(ids=[3]).shards  # it has read the manifest
        ids = trained.ingest(5)
        trained.system.close()
        assert other.forget(ids=ids[:1], strategy="retrain", wait=True)["state"] == "SERVED"
        trained.system = other
        trained.check(ids[:1])


def test_rows_on_their_way_can_not_be_forgotten_yet(trained):
    path, ids = trained.new(4, string_ids=False)
    new = trained.system.ingest(path)
    with pytest.raises(StateError, match="still being ingested"):
        trained.system.forget(ids=ids[:1])
    trained.system.wait_for_rows(new["ingest_id"])
    assert trained.system.forget(ids=ids[:1], wait=True)["state"] == "SERVED"


def test_a_damaged_copy_fails_the_ingestion_and_nothing_else(trained):
    new = trained.system.ingest(trained.new(300, string_ids=False)[0])
    copy = Path(trained.system.site.storage.path(new["source"]))
    data = bytearray(copy.read_bytes())
    data[len(data) // 3] ^= 1
    copy.write_bytes(data)
    trained.system.run(until_idle=True)
    report = trained.system.ingestion(new["ingest_id"])
    assert report["generation"] is None
    assert report["state"] in {IngestState.FAILED, IngestState.RECEIVED}
    assert report["reason"]
    trained.check()
