"""Approval by a second person in a whole system: asked, seen, approved, fulfilled and certified."""

from __future__ import annotations

import json

import pyarrow.parquet as pq
import pytest
import yaml
from typer.testing import CliRunner

from hybridmu.cli.main import app
from hybridmu.errors import RequestError, StateError
from hybridmu.store.ledger import tables as t
from tests.store.ledger.test_journal import back_up, restore
from tests.support import local_system, make_table, rows_of, settings_dict, table

SMALL = {"sisa": {"shards": 2, "slices": 2, "epochs": 1}, "policy": {"retention_seconds": 0.0, "verify_share": 0.0}}
RULE = {"admission": {"approval_rows": 1}}


@pytest.fixture
def system(tmp_path):
    make_table(tmp_path / "train.parquet", 60, groups=12)
    with local_system(tmp_path, data={"group": "person"}, **SMALL, **RULE) as made:
        made.train()
        yield made


def people(system):
    """Return the person of every row that is left."""
    lake = system.site.lake
    lake.refresh()
    files = [file for shard in range(lake.shards) for file in lake.files("train", shard)]
    return [name for file in files for name in pq.read_table(lake.storage.path(file))["person"].to_pylist()]


def test_two_people_forget_one_to_the_certificate(system):
    before = system.registry.version().version
    assert "another caller has to approve it" in system.plan(groups=["p1"]).explain()
    request = system.forget(groups=["p1"], strategy="retrain", caller="ann", deadline_seconds=3600, wait=True)
    assert (request["state"], request["seconds_to_deadline"]) == ("PROPOSED", pytest.approx(3600))
    name, rows = request["request_id"], request["approval"]["rows"]
    assert rows > 1
    system.run(until_idle=True)
    assert system.report(name)["state"] == "PROPOSED", "no coordinator begins it, and none waits for it"
    assert system.registry.version().version == before
    assert [one["request_id"] for one in system.status()["approvals"]] == [name]
    with pytest.raises(StateError, match="another caller's approval"):
        system.wait(name)
    with pytest.raises(RequestError, match="somebody else"):
        system.approve(name, "ann")
    approved = system.approve(name, "ben")
    assert (approved["state"], approved["approval"]["approved_by"]) == ("RECEIVED", "ben")
    system.run(until_idle=True)
    done = system.report(name)
    assert (done["state"], done["caller"], done["approval"]["approved_by"]) == ("PURGED", "ann", "ben")
    assert done["approval"]["rows"] == rows
    assert system.certificate(name)["request"]["id"] == name
    assert system.verify()["exact_claims_hold"]
    assert system.status()["approvals"] == []


def test_what_is_below_the_rule_goes_at_once_and_removes_nothing_of_what_waits(system):
    waits = system.forget(groups=["p1"], strategy="retrain", caller="ann")["request_id"]
    one = system.forget(ids=[3], strategy="retrain", caller="ann")
    assert one["state"] == "RECEIVED"
    assert one["approval"] is None
    system.run(until_idle=True)
    assert system.report(one["request_id"])["state"] == "PURGED"
    assert system.report(waits)["state"] == "PROPOSED"
    assert "p1" in people(system), "its rows are where they were"


def test_rows_that_came_in_before_the_approval_go_as_well(system, tmp_path):
    name = system.forget(groups=["p1"], strategy="retrain", caller="ann")["request_id"]
    more = table(12, groups=2, seed=3, start=500)
    pq.write_table(more, tmp_path / "more.parquet")
    system.ingest(tmp_path / "more.parquet")
    system.run(until_idle=True)
    system.approve(name, "ben")
    system.run(until_idle=True)
    assert system.report(name)["state"] == "PURGED"
    left = people(system)
    assert "p1" in more["person"].to_pylist()
    assert "p1" not in left
    assert len(left) > 60 - 12, "the others stay"


def test_a_ledger_from_before_the_approval_catches_up(tmp_path):
    make_table(tmp_path / "train.parquet", 60, groups=12)
    options = {"data": {"group": "person"}, **SMALL, **RULE}
    with local_system(tmp_path, **options) as system:
        system.train()
        name = system.forget(groups=["p1"], strategy="retrain", caller="ann", key="k")["request_id"]
        back_up(system, tmp_path / "backup")
        system.approve(name, "ben")
        system.run(until_idle=True)
        done = system.report(name)
        assert done["state"] == "PURGED"
    restore({"storage_url": str(tmp_path / "storage")}, tmp_path / "backup")
    with local_system(tmp_path, **options) as system:
        with pytest.raises(StateError, match="older than its storage"):
            system.run(until_idle=True)
        system.replay()
        again = system.report(name)
        assert (again["state"], again["certificate"]) == ("PURGED", done["certificate"])
        assert again["approval"]["approved_by"] == "ben", "who approved it is not lost"
        system.run(until_idle=True)
        assert system.forget(groups=["p1"], strategy="retrain", caller="ann", key="k")["request_id"] == name


def test_the_end_of_the_system_ends_what_waits(system):
    name = system.forget(groups=["p1"], caller="ann")["request_id"]
    system.close()
    system.decommission("over", "ops")
    assert rows_of(system.database.engine, t.approvals) == []
    assert str(system.ledger.request(name).state) == "PURGED"


def test_the_commands_and_the_doctor(tmp_path):
    make_table(tmp_path / "train.parquet", 60, groups=12)
    raw = settings_dict(tmp_path, data={"group": "person"}, **SMALL, **RULE)
    config = tmp_path / "c.yaml"
    config.write_text(yaml.safe_dump(raw))
    with local_system(tmp_path, data={"group": "person"}, **SMALL, **RULE) as system:
        system.train()

    def run(*words, code=0):
        done = CliRunner().invoke(app, [*words, "-c", str(config)])
        assert done.exit_code == code, done.output
        return done.stdout

    said = run("forget", "--group", "p1", "--caller", "ann", "--wait", "--local")
    name = said.split()[0]
    assert f"{name} PROPOSED" in said
    assert f"requests approve {name}" in said
    assert "somebody else than ann" in said
    assert f"waits for an approval: {name} of ann" in run("status")
    assert "another caller has to" in run("requests", "show", name)
    findings = {one["about"]: one for one in json.loads(run("doctor", "--json"))["findings"]}
    assert findings["approvals"]["state"] == "note"
    assert "approved by" in run("requests", "approve", name)
    assert "approved  by " in run("requests", "show", name)
    mine = json.loads(run("forget", "--group", "p2", "--json"))["request_id"]
    run("requests", "approve", mine, code=2)
    assert json.loads(run("requests", "cancel", mine, "--json"))["state"] == "CANCELLED"
