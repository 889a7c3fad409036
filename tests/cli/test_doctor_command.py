"""`hybridmu doctor`: a sound system has nothing wrong, and each kind of damage is told with a remedy."""

import json

import pytest
import yaml
from typer.testing import CliRunner

import hybridmu
from hybridmu.cli.main import app
from hybridmu.system import examination
from tests.support import make_table, settings_dict


def doctor(path):
    done = CliRunner().invoke(app, ["doctor", "-c", str(path), "--json"], prog_name="hybridmu")
    found = json.loads(done.stdout)
    assert done.exit_code == (1 if found["wrong"] else 0)
    return {one["about"]: one for one in found["findings"]}


@pytest.fixture
def configured(tmp_path):
    make_table(tmp_path / "train.parquet", 60)
    raw = settings_dict(tmp_path, sisa={"shards": 2, "slices": 2, "epochs": 1})
    path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump(raw))
    return path


@pytest.fixture
def trained(configured):
    with hybridmu.connect(configured, executor="local") as system:
        system.train()
    return configured


def test_a_sound_system_has_nothing_wrong(trained):
    found = doctor(trained)
    assert {one["state"] for one in found.values()} == {"ok"}
    assert {"versions", "extras", "configuration", "storage", "task", "ledger", "clocks", "keys", "coordinator"} <= set(
        found
    )
    assert found["coordinator"]["says"] == "none runs"


def test_words_for_people_end_with_the_sum(trained):
    done = CliRunner().invoke(app, ["doctor", "-c", str(trained)], prog_name="hybridmu")
    assert done.exit_code == 0
    assert "nothing is wrong" in done.output


def test_before_the_first_training_it_names_the_next_step(configured):
    found = doctor(configured)
    assert (found["ledger"]["state"], found["ledger"]["remedy"]) == ("note", "hybridmu train")
    assert not (configured.parent / "storage").exists() or not list((configured.parent / "storage").rglob("*.sqlite3"))


def test_a_wrong_configuration_ends_it(tmp_path):
    (tmp_path / "c.yaml").write_text("data: {train: x}\nnope: 1\n")
    found = doctor(tmp_path / "c.yaml")
    assert found["configuration"]["state"] == "wrong"
    assert "ledger" not in found


def test_a_task_that_can_t_be_had_is_told_and_the_rest_goes_on(trained):
    raw = yaml.safe_load(trained.read_text())
    raw["task"] = {"name": "no.such:Task"}
    trained.write_text(yaml.safe_dump(raw))
    found = doctor(trained)
    assert found["task"]["state"] == "wrong"
    assert "storage" in found


def test_a_lost_ledger_is_told(trained):
    (path,) = trained.parent.rglob("ledger.sqlite3")
    path.unlink()
    assert doctor(trained)["ledger"]["state"] == "wrong"


def test_lost_keys_are_told(trained):
    with hybridmu.connect(trained, executor="local") as system:
        system.forget(ids=[1])
    assert doctor(trained)["keys"]["state"] == "ok"
    for path in trained.parent.rglob("*-keys/*"):
        path.unlink()
    assert doctor(trained)["keys"]["state"] == "wrong"


def test_waiting_requests_without_a_coordinator_are_noted(trained):
    with hybridmu.connect(trained, executor="local") as system:
        system.forget(ids=[1])
        system.pause(reason="maintenance", caller="ops")
    found = doctor(trained)
    assert (found["coordinator"]["state"], found["pause"]["state"]) == ("note", "note")


def test_clocks_that_differ_are_told(trained, monkeypatch):
    now = examination.time.time()
    monkeypatch.setattr(examination.time, "time", lambda: now + 60)
    assert doctor(trained)["clocks"]["state"] == "wrong"


def test_storage_that_others_may_read_is_told(trained):
    storage = trained.parent / "storage"
    storage.chmod(0o755)
    assert doctor(trained)["modes"]["state"] == "wrong"
