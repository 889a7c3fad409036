"""Every version is measured once; what goes wrong with that hurts nothing else."""

from __future__ import annotations

import json

import pytest

from hybridmu.runtime.coordinator import evaluator as module
from hybridmu.runtime.workers.update_worker import Updater
from hybridmu.types import RequestState
from tests.support import local_system, make_table, table, write


@pytest.fixture
def folder(tmp_path):
    make_table(tmp_path / "train.parquet", 120)
    write(tmp_path, table(40, start=1000, seed=1), "test.parquet")
    return tmp_path


def open_(folder, **overrides):
    return local_system(folder, data={"test": str(folder / "test.parquet")}, **overrides)


def test_training_deletions_and_new_rows_bring_a_version_its_figures(folder):
    with open_(folder) as system:
        trained = system.train()
        first = trained["quality"]["test"]
        assert (trained["quality"]["version"], first["rows"], len(first["sub_models"])) == (1, 40, 4)
        assert 0.5 < first["ensemble"]["accuracy"] <= 1.0
        done = system.forget(ids=[3], wait=True)
        assert done["quality"]["before"] == trained["quality"]
        assert done["quality"]["after"]["version"] == done["version_after"] == 2
        gone = system.forget(ids=[1003], wait=True)
        assert gone["quality"]["after"]["test"]["rows"] == 39
        assert system.status()["quality"] == gone["quality"]["after"]
        system.run(until_idle=True)
        write(folder, table(20, start=500, seed=2), "more.parquet")
        system.ingest(str(folder / "more.parquet"))
        system.run(until_idle=True)
        assert system.status()["quality"]["version"] == system.status()["version"] == 4
        assert system.evaluate()["splits"]["test"]["ensemble"] == system.status()["quality"]["test"]["ensemble"]
        json.dumps(system.status())


def test_a_plan_says_what_earlier_deletions_changed(folder):
    with open_(folder) as system:
        system.train()
        assert system.plan(ids=[5]).quality.changes == ()
        assert "no deletion was measured yet" in system.plan(ids=[5]).explain()
        system.forget(ids=[3], wait=True)
        expected = system.plan(ids=[5]).quality
        before, after = (system.database.evaluations.of([n])[n].first.ensemble["accuracy"] for n in (1, 2))
        assert (expected.accuracy, expected.changes) == (after, (after - before,))
        assert "on test rows now" in system.plan(ids=[5]).explain()


def test_a_job_that_fails_is_tried_again_and_then_left(folder, monkeypatch):
    tried = []

    def fail(self, job):
        tried.append(job.version)
        raise ValueError("row 17")

    monkeypatch.setattr(Updater, "evaluate", fail)
    with open_(folder) as system:
        trained = system.train()
        assert tried == [1] * 3
        assert trained["quality"] == {"version": 1}
        done = system.forget(ids=[3], wait=True)
        assert (done["state"], done["quality"]["after"]) == (str(RequestState.SERVED), {"version": 2})
        monkeypatch.undo()
        done = system.forget(ids=[4], wait=True)
        assert done["quality"]["after"]["test"]["rows"] == 40
        assert set(system.database.evaluations.of([1, 2, 3])) == {1, 2, 3}


def test_an_evaluation_begun_before_a_crash_is_made_after_it(folder, monkeypatch):
    class Crash(KeyboardInterrupt):
        pass

    def crash(self, job):
        raise Crash

    monkeypatch.setattr(Updater, "evaluate", crash)
    with open_(folder) as system, pytest.raises(Crash):
        system.train()
    monkeypatch.undo()
    with open_(folder) as system:
        assert system.status()["version"] == 1
        assert system.status()["quality"] is None
        system.run(until_idle=True)
        assert system.status()["quality"]["version"] == 1


def test_versions_that_came_quickly_are_all_measured_the_newest_first(folder, monkeypatch):
    asked = []
    evaluate = Updater.evaluate
    monkeypatch.setattr(Updater, "evaluate", lambda self, job: asked.append(job.version) or evaluate(self, job))
    with open_(folder, policy={"retention_seconds": 1e9}) as system:
        system.train()
        driver = system.session.coordination.acquire()
        monkeypatch.setattr(driver._evaluator, "begin", lambda *_, **__: None)
        for row in (1, 2, 3):
            system.forget(ids=[row])
            while system.status()["requests"][RequestState.SERVED] < row:
                driver.step(0.0)
        monkeypatch.undo()
        monkeypatch.setattr(Updater, "evaluate", lambda self, job: asked.append(job.version) or evaluate(self, job))
        system.run(until_idle=True)
        assert asked == [1, 4, 3, 2]


@pytest.mark.parametrize("budget", [99.0, 0.0], ids=["idle", "spent"])
def test_who_waits_for_figures_finds_no_repair_begun(folder, budget):
    """The next deletion would wait for the shard."""
    with open_(folder, policy={"quality_budget": budget}) as system:
        system.train()
        done = system.forget(ids=[3], strategy="dpus", wait=True)
        assert done["quality"]["after"]["version"] == 2
        assert done["owes_exact_repair"]
        assert not system.session.coordination.acquire()._rounds.rounds
        system.run(until_idle=True)
        assert system.registry.debts() == {}


def test_requests_come_first_for_a_minute(folder, monkeypatch):
    with open_(folder) as system:
        system.train()
        driver = system.session.coordination.acquire()
        found = driver._evaluator
        system.forget(ids=[3], wait=True)
        found._settled = None
        monkeypatch.setattr(module.Evaluations, "lacking", lambda self: 2)
        queued = []
        found._queue = queued.append
        clock = [1000.0]
        monkeypatch.setattr(module.time, "monotonic", lambda: clock[0])
        found.begin(2, urgent=True)
        clock[0] += 59
        found.begin(2, urgent=True)
        assert queued == []
        clock[0] += 2
        found.begin(2, urgent=True)
        assert [job.version for job in queued] == [2]


def test_nothing_is_measured_when_nothing_is_held_out_or_nobody_wants_it(folder):
    with local_system(folder) as system:
        assert system.train()["quality"] is None
        assert not system.run(until_idle=True).evaluating
    with open_(folder, evaluation={"every_version": False}, storage_url=str(folder / "other")) as system:
        assert system.train()["quality"] is None
        assert system.forget(ids=[3], wait=True)["quality"] == {"before": None, "after": None, "exact": None}
        assert system.evaluate()["splits"]["test"]["rows"] == 40


def test_a_shard_that_lost_its_rows_has_no_figure_and_the_others_do(folder):
    with open_(folder, sisa={"shards": 3}) as system:
        system.train()
        rows = [row["id"] for row in table(120).to_pylist()]
        from hybridmu.store.dataset.key_lookup import Lookup

        found, _ = Lookup(system.site.lake).find([("id", row) for row in rows])
        mine = [row for row, key in zip(rows, found, strict=True) if key.shard == 1]
        done = system.forget(ids=mine, wait=True)
        shards = [sub["shard"] for sub in done["quality"]["after"]["test"]["sub_models"]]
        assert shards == [0, 2]


def test_training_ends_with_the_quality_and_leaves_the_calibration_to_the_coordinator(folder):
    policy = {"calibrate": True, "light_seconds": 0.0, "time_ratio": 1e-9}
    with open_(folder, policy=policy) as system:
        trained = system.train()
        assert trained["quality"]["version"] == 1
        assert trained["calibration"]["state"] == "waiting"
        assert not system.measurements.curves()
        system.run(until_idle=True)
        assert system.measurements.curves()
