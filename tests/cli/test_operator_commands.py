"""The commands around a request's life: list, show, cancel, pause, holds; and what scripts get from wrong usage."""

from __future__ import annotations

import getpass
import json
import re
import shutil
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

import hybridmu
from hybridmu.cli.main import app
from hybridmu.runtime.coordinator.removal_planner import RemovalPlanner
from hybridmu.store.ledger import tables as t
from jobs import forget as forget_job
from tests.support import make_table, settings_dict


class Cli:
    """The command line over one configuration file."""

    def __init__(self, folder: Path) -> None:
        self.config = folder / "config.yaml"

    def run(self, *command: str):
        """Run `VERB… [arguments]` over the configuration."""
        local = ["--local"] if command[0] in {"forget", "run"} else []
        return CliRunner().invoke(app, [*command, "-c", str(self.config), *local])

    def json(self, *command: str):
        """Return the one JSON document of a command that succeeds."""
        done = self.run(*command, "--json")
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout)

    def says(self, *command: str) -> str:
        """Return what people read of a command that succeeds."""
        done = self.run(*command)
        assert done.exit_code == 0, done.output
        return done.stdout

    def refused(self, *command: str) -> dict:
        """Return the JSON document of a command that fails on purpose."""
        done = self.run(*command, "--json")
        assert done.exit_code == 2, done.output
        return json.loads(done.stdout)


def write_config(folder: Path, data: Path, **policy) -> None:
    raw = settings_dict(folder, data={"train": str(data / "train.parquet")}, sisa={"shards": 2, "slices": 2})
    raw["policy"] |= {"retention_seconds": 1e9, **policy}
    (folder / "config.yaml").write_text(yaml.safe_dump(raw))


@pytest.fixture(scope="module")
def template(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("template")
    make_table(folder / "train.parquet", 60)
    write_config(folder, folder)
    with hybridmu.connect(folder / "config.yaml", executor="local") as system:
        system.train()
    return folder


@pytest.fixture
def cli(template, tmp_path, request) -> Cli:
    shutil.copytree(template / "storage", tmp_path / "storage")
    write_config(tmp_path, template, **getattr(request, "param", {}))
    return Cli(tmp_path)


def test_requests_are_listed_by_state_and_caller(cli):
    assert cli.json("requests", "list") == []
    assert "no requests" in cli.says("requests", "list")
    mine = cli.json("forget", "--id", "1", "--wait")
    other = cli.json("forget", "--id", "2", "--caller", "portal", "--deadline", "90")
    found = cli.json("requests", "list")
    assert [(r["request_id"], r["state"], r["caller"]) for r in found] == [
        (mine["request_id"], "SERVED", getpass.getuser()), (other["request_id"], "RECEIVED", "portal")
    ]  # fmt: skip
    assert found[1]["deadline_at"] == pytest.approx(found[1]["received_at"] + 90)
    assert [r["keys"] for r in cli.json("requests", "list", "--state", "received", "--state", "FAILED")] == [1]
    assert cli.json("requests", "list", "--caller", "portal") == found[1:]
    assert cli.json("requests", "list", "--caller", "portal", "--state", "SERVED") == []
    text = cli.says("requests", "list")
    assert all(part in text for part in (mine["request_id"], other["request_id"], "portal", "after 90.0 s"))
    page = cli.json("requests", "list", "--limit", "1")
    assert (page["requests"], page["next_before"]) == (found[1:], 2)
    assert cli.json("requests", "list", "--before", "2") == {"requests": found[:1], "next_before": None}
    assert "older ones: --before 2" in cli.says("requests", "list", "--limit", "1")


def test_an_operator_follows_a_request_to_the_ones_whose_rows_it_names(cli):
    first = cli.json("forget", "--id", "1", "--caller", "a")["request_id"]
    joined = cli.json("forget", "--id", "1", "--caller", "b")
    assert (joined["caller"], joined["request_id"] == first) == ("b", False)
    assert first not in str(joined)
    assert cli.json("requests", "show", joined["request_id"])["relies_on"] == {first: None}
    assert f"rows of it are those of {first}" in cli.says("requests", "show", joined["request_id"])


def test_both_times_of_an_approximate_request_are_shown(cli):
    forgotten = cli.says("forget", "--id", "1", "--strategy", "dpus", "--deadline", "3600", "--wait")
    assert "owe an exact retrain; `hybridmu run` makes it by itself as soon as no request waits" in forgotten
    assert "before the deadline in 60 min" in forgotten
    assert "--strategy retrain" not in forgotten
    name = cli.json("requests", "list")[0]["request_id"]
    before = cli.json("requests", "show", name)
    assert (before["state"], before["exact_at"], len(before["owes_exact_repair"])) == ("SERVED", None, 1)
    assert 3000 < before["slack_seconds"] < 3600
    text = cli.says("requests", "show", name)
    assert "applied   after " in text
    assert "approximately, by version 2" in text
    assert "exact     not yet" in text
    assert "deadline  after 3600.0 s, due in 60 min" in text
    assert "owe an exact retrain" in text
    said = cli.says("status")
    assert re.search(r"owe an exact repair: \d \(due in 60 min\)", said)
    assert "next deadline: due in 60 min" in said
    assert "canaries" not in said
    assert "canaries" in cli.says("status", "--calibration")
    cli.json("run", "--until-idle")
    after = cli.json("requests", "show", name)
    assert after["applied_at"] == before["applied_at"] < after["exact_at"]
    assert (after["version_after"], after["version_exact"]) == (2, 3)
    assert [(s["strategy"], s["rule"]) for s in after["shards"]] == [("dpus", "request"), ("retrain", "repair")]
    assert len({s["round"] for s in after["shards"]}) == 2
    text = cli.says("requests", "show", name)
    assert ", by version 3" in text
    assert "round 2 of 2" in text
    assert "owe an exact retrain" not in text
    assert "purged    not yet" in text
    assert "owe an exact repair: none" in cli.says("status")


def failing_plans(monkeypatch, times: int) -> list[int]:
    """Let the planning of repairs fail so many times, as on a machine that is out of memory; return the tries."""
    plan, tries = RemovalPlanner.plan, []

    def crowded(planner, shards, strategy, *args, **fields):
        if strategy == "retrain":
            tries.append(len(tries))
            if len(tries) <= times:
                raise MemoryError
        return plan(planner, shards, strategy, *args, **fields)

    monkeypatch.setattr(RemovalPlanner, "plan", crowded)
    return tries


def test_run_until_idle_ends_when_repairs_are_done_though_planning_them_failed(cli, monkeypatch):
    name = cli.json("forget", "--id", "1", "--strategy", "dpus", "--wait")["request_id"]
    assert len(cli.json("status")["debts"]) == 1
    failing_plans(monkeypatch, 4)  # together and alone, twice
    assert "blocked" not in cli.json("run", "--until-idle")
    assert cli.json("status")["debts"] == []
    assert cli.json("requests", "show", name)["version_exact"] == 3


def test_run_until_idle_names_the_shards_whose_repair_can_not_be_had(cli, monkeypatch):
    cli.json("forget", "--id", "1", "--strategy", "dpus", "--wait")
    (debt,) = cli.json("status")["debts"]
    tries = failing_plans(monkeypatch, 1000)
    done = cli.run("run", "--until-idle", "--json")
    assert (done.exit_code, json.loads(done.stdout)["blocked"]) == (1, [debt["shard"]])
    assert f"the exact retrain failed of shard {debt['shard']}" in done.stderr
    assert len(tries) == 6, "three times, together and alone"
    assert cli.json("status")["debts"] == [debt]


@pytest.mark.parametrize(
    ("cli", "deadline", "says"),
    [
        ({"repair": "deadline"}, [], "when the shard's error budget is spent: there is no deadline"),
        ({"repair": "deadline"}, ["--deadline", "3600"], "by itself when it must, before the deadline in 60 min"),
        ({}, [], "by itself as soon as no request waits\n"),
    ],
    indirect=["cli"],
)
def test_the_message_says_when_the_repair_is_due(cli, deadline, says):
    assert says in cli.says("forget", "--id", "1", "--strategy", "dpus", "--wait", *deadline)


def test_an_exact_request_is_shown_without_a_debt(cli):
    name = cli.json("forget", "--id", "1", "--wait")["request_id"]
    text = cli.says("requests", "show", name)
    assert "exactly, by version 2" in text
    assert "deadline  none" in text
    assert "owe" not in text
    assert cli.refused("requests", "show", "r-unknown")["what"] == "there is no such request"


def test_a_request_is_taken_back(cli):
    name = cli.json("forget", "--id", "1", "--key", "k")["request_id"]
    done = cli.json("requests", "cancel", name)
    assert (done["state"], done["reason"]) == ("CANCELLED", f"cancelled by {getpass.getuser()}")
    assert "its rows are live" in cli.says("requests", "cancel", name)
    assert cli.json("status")["requests"]["CANCELLED"] == 1
    text = cli.says("requests", "show", name)
    assert f"because   cancelled by {getpass.getuser()}" in text
    assert "not yet" not in text
    assert cli.refused("forget", "--id", "1", "--key", "k")["error"] == "ConflictError"
    later = cli.json("forget", "--id", "1", "--wait")
    assert (later["state"], later["version_after"]) == ("SERVED", 2)
    assert cli.refused("requests", "cancel", later["request_id"])["got"] == "SERVED"
    assert cli.refused("requests", "cancel", "r-unknown")["error"] == "StateError"


def test_a_failed_request_is_taken_up_again_by_its_name(cli):
    name = cli.json("forget", "--id", "1")["request_id"]
    assert cli.refused("requests", "retry", name)["got"] == "RECEIVED"
    with hybridmu.connect(cli.config, executor="local") as system, system.database.engine.begin() as connection:
        connection.execute(t.requests.update().values(state="FAILED", reason="no luck", strategy="fast"))
    assert "one of auto, retrain" in cli.refused("requests", "retry", name, "--strategy", "fast")["expected"]
    assert "PLANNED: a coordinator" in cli.says("requests", "retry", name, "--strategy", "retrain")
    cli.says("run", "--until-idle")
    done = cli.json("requests", "show", name)
    assert done["state"] == "SERVED"
    assert [shard["strategy"] for shard in done["shards"]] == ["retrain"]


def test_a_pause_is_shown_until_it_ends(cli):
    made = cli.json("pause", "--reason", "backup [of disk]")
    assert (made["reason"], made["caller"]) == ("backup [of disk]", getpass.getuser())
    assert cli.json("status")["pause"] == made
    assert f"PAUSED by {getpass.getuser()}: backup [of disk]" in cli.says("status")
    assert cli.json("forget", "--id", "1")["state"] == "RECEIVED"
    assert cli.json("resume") == {"paused": False}
    assert cli.json("status")["pause"] is None
    assert "PAUSED" not in cli.says("status")
    assert cli.json("run", "--until-idle")["open_requests"] == 0


def test_holds_are_placed_shown_and_lifted(cli):
    name = cli.json("forget", "--id", "1")["request_id"]
    one, all_ = cli.json("hold", "--request", name, "--reason", "court"), cli.json("hold", "--reason", "audit")
    assert (one["request_id"], all_["request_id"]) == (name, None)
    assert (
        cli.json("holds") == cli.json("status")["holds"] == cli.json("requests", "show", name)["holds"] == [one, all_]
    )
    other = cli.json("forget", "--id", "2")["request_id"]
    assert cli.json("requests", "show", other)["holds"] == [all_]
    for command in (["holds"], ["status"], ["requests", "show", name]):
        text = cli.says(*command)
        assert f"legal hold {one['number']} on {name}, since " in text
        assert f"legal hold {all_['number']} on every request, since " in text
        assert ": court" in text
    assert cli.json("lift", str(one["number"])) == {"lifted": one["number"]}
    assert cli.json("holds") == [all_]
    assert cli.refused("lift", str(one["number"]))["what"] == f"there is no hold {one['number']}"
    assert "can't be held" in cli.refused("hold", "--request", "r-unknown", "--reason", "x")["what"]
    cli.says("lift", str(all_["number"]))
    assert "no holds" in cli.says("holds")


def test_limits_count_per_caller(cli):
    raw = yaml.safe_load(cli.config.read_text())
    cli.config.write_text(yaml.safe_dump({**raw, "admission": {"open_requests": 1}}))
    cli.json("forget", "--id", "1", "--caller", "portal")
    found = cli.refused("forget", "--id", "2", "--caller", "portal")
    assert (found["error"], "'portal'" in found["what"]) == ("AdmissionError", True)
    assert cli.json("forget", "--id", "2")["caller"] == getpass.getuser()


@pytest.mark.parametrize("seconds", ["0", "-5", "inf", "nan"])
def test_a_deadline_lies_ahead(cli, seconds):
    assert cli.refused("forget", "--id", "1", f"--deadline={seconds}")["error"] == "RequestError"
    assert cli.json("requests", "list") == []


def test_where_nothing_is_known_there_is_nothing_to_leave_out(cli):
    for arguments in (["--ignore-unknown"], []):
        found = cli.refused("forget", "--id", "nope", "--id", "nor this", *arguments)
        assert found["what"] == "none of the ids and groups is known"
        assert found["unknown"] == ["nope", "nor this"]
        assert "ignore-unknown" not in found["remedy"]
    some = cli.refused("forget", "--id", "nope", "--id", "1")
    assert (some["what"], "--ignore-unknown" in some["remedy"]) == ("1 id(s) or group(s) are unknown", True)


WRONG = [
    (["pause", "-c", "x.yaml"], "Missing option", "hybridmu pause --help"),
    (["forget", "-c", "x.yaml", "--nope"], "No such option", "hybridmu forget --help"),
    (["forget", "-c", "x.yaml", "--deadline", "soon"], "Invalid value for '--deadline'", "hybridmu forget --help"),
    (["requests", "list", "-c", "x.yaml", "--state", "LOST"], "Invalid value for '--state'", "requests list --help"),
    (["requests", "show"], "Missing argument", "requests show --help"),
    (["requests", "burn"], "No such command 'burn'", "requests --help"),
    (["burn"], "No such command 'burn'", "--help"),
    (["lift", "-c", "x.yaml", "one"], "Invalid value for 'NUMBER'", "lift --help"),
]


@pytest.mark.parametrize(
    ("command", "says", "remedy"), WRONG, ids=lambda x: "-".join(x) if isinstance(x, list) else None
)
def test_wrong_usage_is_a_json_document_too(command, says, remedy):
    done = CliRunner().invoke(app, [*command, "--json"], prog_name="hybridmu")
    assert done.exit_code == 2
    assert done.stdout.count("\n") == 1
    found = json.loads(done.stdout)
    assert found["error"] == "UsageError"
    assert says.lower() in found["what"].lower()
    assert remedy in found["remedy"]
    assert "Usage: " in done.stderr, "people get their words as well"
    plain = CliRunner().invoke(app, command, prog_name="hybridmu")
    assert (plain.exit_code, plain.stdout) == (2, "")


@pytest.mark.parametrize("command", [["--help"], ["requests", "--help"], ["forget", "--help", "--json"]])
def test_help_is_no_error(command):
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0
    assert "Usage: " in done.stdout


def test_the_job_has_the_new_options(cli, monkeypatch, tmp_path, capsys):
    ids = tmp_path / "ids.txt"
    ids.write_text("1\n2\n")
    arguments = [
        "-c",
        str(cli.config),
        "--ids",
        str(ids),
        "--caller",
        "portal",
        "--deadline",
        "90",
        "--local",
        "--json",
    ]
    monkeypatch.setattr("sys.argv", ["jobs/forget.py", *arguments])
    with pytest.raises(SystemExit) as done:
        forget_job.main()
    assert done.value.code == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["caller"], found["keys"], found["seconds_to_deadline"]) == ("portal", 2, 90)
