"""`hybridmu doctor`: a sound system has nothing wrong, and each kind of damage is told with a remedy."""

import json

import pytest
import yaml
from typer.testing import CliRunner

import hybridmu
from hybridmu.cli.main import app
from hybridmu.system import examination
from tests.scenes.webhook_receiver import SECRET, receiver
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


@pytest.fixture
def hooked(trained, monkeypatch):
    """The configuration of a trained system, with a receiver that listens."""
    monkeypatch.setenv("HOOK_SECRET", SECRET)
    with receiver() as there:
        raw = yaml.safe_load(trained.read_text())
        raw["webhooks"] = {"crm": {"url": there.url, "secret": "env:HOOK_SECRET", "give_up_hours": 1e-7}}
        trained.write_text(yaml.safe_dump(raw))
        yield trained, there


def test_a_receiver_is_looked_at_and_sent_nothing(hooked):
    path, there = hooked
    found = doctor(path)
    assert {about: one["state"] for about, one in found.items() if "webhook" in about} == {
        "webhook crm: secret": "ok",
        "webhook crm: reach": "ok",
    }
    assert "without TLS" in found["webhook crm: reach"]["says"]
    assert there.received == []
    assert "of=us" not in json.dumps(found), "what follows the host may be a secret"
    assert SECRET not in json.dumps(found)


def test_what_waits_and_what_was_given_up_is_told(hooked):
    path, there = hooked
    there.answers = lambda _: 503
    with hybridmu.connect(path, executor="local") as system:
        system.forget(ids=[1])
        found = doctor(path)
        assert found["webhook crm: backlog"]["state"] == "ok"
        assert "1 event(s) wait" in found["webhook crm: backlog"]["says"]
        assert found["webhooks"]["says"] == "nobody sends"
        system.send_webhooks(once=True)
        found = doctor(path)["webhook crm: backlog"]
        assert (found["state"], "the last failure: HTTP 503" in found["says"]) == ("note", True)
        while not system.webhooks()["dead"]:  # the second try comes some seconds after the first
            system.send_webhooks(once=True)
    found = doctor(path)["webhook crm: backlog"]
    assert found["state"] == "wrong"
    assert "1 event(s) were given up" in found["says"]
    assert "webhooks retry --receiver crm" in found["remedy"]
    there.answers = lambda _: 204
    with hybridmu.connect(path, executor="local") as system:
        system.retry_webhooks("crm")
        system.send_webhooks(once=True)
    assert doctor(path)["webhook crm: backlog"]["says"] == "it was told everything"


def test_a_receiver_that_is_down_or_a_secret_that_lacks_is_wrong(hooked, monkeypatch):
    path, there = hooked
    monkeypatch.delenv("HOOK_SECRET")
    raw = yaml.safe_load(path.read_text())
    raw["webhooks"]["desk"] = {"url": "http://127.0.0.1:1/hook", "secret": f"file:{path.parent / 'none'}"}
    raw["webhooks"]["far"] = {"url": there.url.replace("http:", "https:"), "secret": "env:HOOK_SECRET"}
    path.write_text(yaml.safe_dump(raw))
    found = doctor(path)
    for about in ("crm: secret", "desk: secret", "desk: reach", "far: reach"):
        assert found[f"webhook {about}"]["state"] == "wrong", about
    assert "whsec_" in found["webhook crm: secret"]["remedy"]
    assert "nobody listens there" in found["webhook desk: reach"]["says"]
    assert "TLS" in found["webhook far: reach"]["says"]
    assert found["webhook crm: reach"]["state"] == "ok"


def test_events_of_a_receiver_that_was_taken_out_are_noted(hooked):
    path, _ = hooked
    with hybridmu.connect(path, executor="local") as system:
        system.forget(ids=[1])
    raw = yaml.safe_load(path.read_text())
    raw["webhooks"] = {}
    path.write_text(yaml.safe_dump(raw))
    found = doctor(path)["webhook crm"]
    assert (found["state"], found["remedy"]) == ("note", "hybridmu webhooks drop crm, or put it back")
