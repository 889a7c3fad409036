from __future__ import annotations

import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml
from typer.testing import CliRunner

from hybridmu.cli.main import app
from tests.support import make_table, settings_dict

ROWS, GROUPS = 90, 12


class Cli:
    """The command line over one configuration file."""

    def __init__(self, folder: Path) -> None:
        self.config = folder / "config.yaml"

    def run(self, verb: str, *arguments: str, input: str | None = None, config: Path | None = None):
        local = ["--local"] if verb in {"train", "forget", "run"} else []
        command = [verb, "-c", str(config or self.config), *local, *arguments]
        return CliRunner().invoke(app, command, input=input)

    def json(self, verb: str, *arguments: str, input: str | None = None) -> dict:
        """Run a verb that succeeds, and return the one JSON document on its standard output."""
        done = self.run(verb, *arguments, "--json", input=input)
        assert done.exit_code == 0, done.output
        assert done.stdout.count("\n") == 1
        return json.loads(done.stdout)

    def refused(self, verb: str, *arguments: str, **options) -> dict:
        """Run a verb that fails on purpose, and return its JSON document."""
        done = self.run(verb, *arguments, "--json", **options)
        assert done.exit_code == 2, done.output
        document = json.loads(done.stdout)
        assert f"error {document['error']}: {document['what']}" in done.stderr
        assert "Traceback" not in done.stderr
        return document


def write_config(folder: Path, data: Path, grouped: bool = True, **overrides) -> None:
    make = {"train": str(data / "train.parquet"), "test": str(data / "test.parquet"), "features": ["x0", "x1"]}
    raw = settings_dict(folder, data=make | ({"group": "person"} if grouped else {}), **overrides)
    raw["sisa"] |= {"shards": 3, "slices": 2, "epochs": 2}
    (folder / "config.yaml").write_text(yaml.safe_dump(raw))


def build(folder: Path, grouped: bool) -> Path:
    make_table(folder / "train.parquet", ROWS, groups=GROUPS)
    make_table(folder / "test.parquet", 30, groups=GROUPS, seed=1, start=1000)
    write_config(folder, folder, grouped)
    trained = Cli(folder).json("train")
    assert (trained["version"], trained["shards"], trained["rows"]) == (1, 3, {"train": ROWS, "test": 30})
    assert (trained["classes"], trained["classes_inferred"], trained["calibrated"]) == ([0, 1, 2], True, False)
    return folder


@pytest.fixture(scope="module")
def templates(tmp_path_factory) -> dict[bool, Path]:
    return {grouped: build(tmp_path_factory.mktemp("template"), grouped) for grouped in (True, False)}


@pytest.fixture
def cli(templates, tmp_path, request) -> Cli:
    """A trained system of its own, copied: the configuration does not depend on where storage is."""
    grouped = getattr(request, "param", True)
    shutil.copytree(templates[grouped] / "storage", tmp_path / "storage")
    write_config(tmp_path, templates[grouped], grouped)
    return Cli(tmp_path)


@pytest.fixture
def people(templates) -> list[str]:
    """The person of every training row."""
    return pq.read_table(templates[True] / "train.parquet")["person"].to_pylist()


def test_status_says_where_things_stand(cli):
    found = cli.json("status")
    assert (found["version"], found["voters"], found["coordinator"]) == (1, 3, None)
    assert [(s["shard"], s["exact"], s["owes_exact_repair"]) for s in found["shards"]] == [
        (n, True, False) for n in range(3)
    ]
    assert set(found["requests"].values()) == {0}


def test_training_warns_of_empty_slices_beside_its_result(templates, tmp_path):
    write_config(tmp_path, templates[True])
    crowded = yaml.safe_load((tmp_path / "config.yaml").read_text())
    crowded["sisa"] |= {"shards": 5, "slices": 6}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(crowded))
    done = Cli(tmp_path).run("train")
    assert done.exit_code == 0, done.output
    said = " ".join(done.stderr.split())
    assert "warning: " in said
    assert f"{GROUPS} values of data.group (person) are too few for 5 shards of 6 slices" in said
    assert "warning" not in done.stdout
    assert len(Cli(tmp_path).json("train")["warnings"]) == 1, "for machines it is in the document"


def test_train_again_changes_nothing(cli):
    found = cli.json("train")
    assert (found["version"], found["already_trained"]) == (1, True)
    assert "already trained" in cli.run("train").stdout


def test_plan_changes_nothing_and_forget_does_what_it_said(cli):
    planned = cli.json("plan", "--id", "5", "--id", "77", "--group", "p3")
    assert cli.json("status")["requests"]["RECEIVED"] == 0
    assert {shard["strategy"] for shard in planned["shards"]} == {"retrain"}
    assert all(shard["rule"] == "availability" and shard["reasons"] for shard in planned["shards"])
    done = cli.json("forget", "--id", "5", "--id", "77", "--group", "p3", "--wait")
    assert (done["state"], done["keys"], done["version_before"], done["version_after"]) == ("SERVED", 3, 1, 2)
    assert sorted((s["shard"], s["first_slice"], s["revoked"], s["sample_visits"]) for s in planned["shards"]) == [
        (s["shard"], s["first_slice"], s["revoked"], s["sample_visits"]) for s in done["shards"]
    ]
    assert done["seconds_to_served"] >= done["seconds_to_applied"] > 0
    status = cli.json("status")
    assert (status["version"], status["requests"]["SERVED"]) == (2, 1)
    assert status["last_requests"][0]["request_id"] == done["request_id"]


@pytest.mark.slow
def test_verify_one_shard(cli):
    cli.json("forget", "--id", "5", "--wait")
    found = cli.json("verify", "--shard", "1")
    assert [(s["shard"], s["exact"], s["bitwise_equal"]) for s in found["shards"]] == [(1, True, True)]
    assert (found["exact_claims_hold"], found["bitwise_equal"], found["exact_shards"]) == (True, True, 1)


def test_predict(cli, tmp_path):
    rows = [{"x0": 0.5, "x1": -1.0, "ignored": "x"}, {"x0": 2.0, "x1": 0.0}]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    found = cli.json("predict", str(tmp_path / "rows.json"))
    assert found == cli.json("predict", "-", input=json.dumps(rows))
    assert found["version"] == 1
    for prediction in found["predictions"]:
        chances = prediction["probabilities"]
        assert sum(chances.values()) == pytest.approx(1, abs=1e-5)
        assert str(prediction["label"]) == max(chances, key=chances.__getitem__)
    assert "'x1' is missing" in cli.refused("predict", "-", input='[{"x0": 1}]')["what"]
    assert cli.refused("predict", "-", input="[")["error"] == "RequestError"
    assert cli.refused("predict", "/no/such/rows.json")["error"] == "FileNotFoundError"
    assert "no rows" in cli.refused("predict", "-", input="[]")["what"]


@pytest.mark.parametrize("verb", ["train", "status", "plan", "forget"])
def test_without_json_people_can_read_it(cli, verb):
    arguments = ["--id", "3"] if verb in {"plan", "forget"} else []
    done = cli.run(verb, *arguments)
    assert done.exit_code == 0
    with pytest.raises(json.JSONDecodeError):
        json.loads(done.stdout)
    expected = {
        "train": "version: 1",
        "status": "version 1, 3 voter(s)",
        "plan": "shard ",
        "forget": "RECEIVED: 1 key(s)",
    }
    assert expected[verb] in done.stdout


@pytest.mark.parametrize("from_stdin", [True, False])
def test_ids_from_a_list(cli, tmp_path, from_stdin):
    text = "3\n\n  17 \n44\n"
    (tmp_path / "ids.txt").write_text(text)
    done = cli.json("forget", "--ids", "-" if from_stdin else str(tmp_path / "ids.txt"), "--id", "5", input=text)
    assert (done["keys"], done["state"]) == (4, "RECEIVED")
    planned = cli.json("plan", "--groups", "-", input="p1\np2\n")
    assert sum(shard["revoked"] for shard in planned["shards"]) >= 2
    assert cli.refused("forget", "--ids", "/no/such/list")["error"] == "FileNotFoundError"


def untouched(cli: Cli) -> bool:
    status = cli.json("status")
    return status["version"] == 1 and sum(status["requests"].values()) == 0


REFUSED = [
    (["--id", "12345"], "UnknownKeysError", ["12345"]),
    (["--id", "5", "--id", "-4", "--id", "x"], "UnknownKeysError", ["-4", "x"]),
    (["--group", "nobody"], "UnknownKeysError", ["nobody"]),
    (["--id", "5", "--group", "nobody"], "UnknownKeysError", ["nobody"]),
    (["--id", "x", "--ignore-unknown"], "UnknownKeysError", ["x"]),
    ([], "RequestError", None),
    (["--id", "5", "--strategy", "magic"], "ConfigError", None),
]
EVERYTHING = [
    ([f"--group=p{n}" for n in range(GROUPS)], "WouldEmptyError", None),
    ([f"--id={n}" for n in range(ROWS)], "WouldEmptyError", None),
]
CASES = [("forget", *case) for case in REFUSED + EVERYTHING] + [("plan", *case) for case in REFUSED]


@pytest.mark.parametrize(("verb", "arguments", "error", "says"), CASES)
def test_what_is_refused_changes_nothing(cli, verb, arguments, error, says):
    found = cli.refused(verb, *arguments)
    assert (found["error"], found.get("unknown")) == (error, says)
    assert untouched(cli)


def test_unknown_ids_can_be_left_out_on_purpose(cli):
    done = cli.json("forget", "--id", "5", "--id", "x", "--group", "nobody", "--ignore-unknown")
    assert (done["keys"], done["ignored_unknown"]) == (1, 2)


@pytest.mark.parametrize("cli", [False], indirect=True)
def test_groups_of_an_ungrouped_table(cli):
    found = cli.refused("forget", "--group", "p1")
    assert (found["error"], found["what"]) == ("DataError", "this table has no groups")
    assert untouched(cli)
    assert cli.json("forget", "--id", "5", "--wait")["version_after"] == 2


@pytest.mark.parametrize("again", [["--id", "5"], ["--id", "5", "--key", "other"], ["--id", "5", "--strategy", "dpus"]])
def test_what_is_forgotten_already_gives_the_same_request_and_no_work(cli, again):
    first = cli.json("forget", "--id", "5", "--wait")
    assert cli.json("plan", *again)["shards"] == [] if "--key" not in again else True
    second = cli.json("forget", *again, "--wait")
    assert (second["request_id"], second["version_after"]) == (first["request_id"], 2)
    assert (cli.json("status")["version"], cli.json("status")["requests"]["SERVED"]) == (2, 1)


def test_only_what_is_new_is_removed(cli, people):
    first = cli.json("forget", "--group", "p3", "--wait")
    inside = [f"--id={n}" for n in range(ROWS) if people[n] == "p3"]
    outside = [f"--id={n}" for n in range(ROWS) if people[n] != "p3"][:2]
    again = cli.json("forget", *inside, "--wait")
    assert (again["state"], again["already_forgotten"]) == (first["state"], len(inside))
    assert cli.json("status")["version"] == 2
    done = cli.json("forget", "--group", "p3", inside[0], *outside, "--wait")
    assert (done["keys"], done["already_forgotten"], done["version_after"]) == (2, 2, 3)
    assert sum(shard["revoked"] for shard in done["shards"]) == 2


def test_a_repeated_key_is_one_request_and_another_payload_a_conflict(cli):
    first = cli.json("forget", "--id", "5", "--id", "6", "--key", "k")
    again = cli.json("forget", "--id", "6", "--id", "5", "--key", "k")
    assert again == first
    found = cli.refused("forget", "--id", "7", "--key", "k")
    assert (found["error"], "'k'" in str(found)) == ("ConflictError", False), "a key may hold an id"
    assert cli.json("forget", "--id", "5", "--id", "6", "--key", "k", "--wait")["request_id"] == first["request_id"]
    assert cli.json("status")["requests"]["SERVED"] == 1


def test_run_until_idle_serves_what_waits(cli):
    request = cli.json("forget", "--id", "5")
    assert (request["state"], cli.json("run", "--until-idle")["open_requests"]) == ("RECEIVED", 0)
    assert cli.json("status")["requests"]["PURGED"] == 1


VERBS = [["train"], ["plan", "--id", "5"], ["forget", "--id", "5"], ["status"], ["verify"], ["predict", "-"]]


@pytest.mark.parametrize("command", VERBS, ids=lambda command: command[0])
def test_storage_of_another_configuration(cli, command):
    raw = yaml.safe_load(cli.config.read_text())
    raw["sisa"]["seed"] = 99
    cli.config.write_text(yaml.safe_dump(raw))
    found = cli.run(*command, "--json", input='[{"x0": 1, "x1": 1}]')
    assert found.exit_code == 2, found.output
    assert json.loads(found.stdout)["error"] == "StorageMismatchError"
    assert "sisa.seed: storage has 0, the configuration 99" in found.stderr


@pytest.mark.parametrize("command", VERBS, ids=lambda command: command[0])
def test_a_missing_configuration_file(tmp_path, command):
    found = Cli(tmp_path).refused(*command, config=tmp_path / "no-such.yaml")
    assert (found["error"], "no-such.yaml" in found["what"]) == ("ConfigError", True)


@pytest.mark.parametrize("command", VERBS[1:], ids=lambda command: command[0])
def test_before_training(tmp_path, templates, command):
    write_config(tmp_path, templates[True])
    assert Cli(tmp_path).refused(*command, input="[{}]")["error"] == "StateError"


def test_a_failed_training_can_be_corrected(tmp_path, templates):
    shutil.copy(templates[True] / "test.parquet", tmp_path)
    write_config(tmp_path, tmp_path)
    assert Cli(tmp_path).refused("train")["error"] == "DataError"  # there is no training table
    shutil.copy(templates[True] / "train.parquet", tmp_path)
    write_config(tmp_path, tmp_path, optimizer={"lr": 0.2})
    assert Cli(tmp_path).json("train")["version"] == 1


def test_data_list_and_unknown_dataset():
    listed = CliRunner().invoke(app, ["data", "list", "--json"])
    assert {"digits", "mnist5k"} <= json.loads(listed.stdout).keys()
    unknown = CliRunner().invoke(app, ["data", "get", "nothing", "--json"])
    assert (unknown.exit_code, json.loads(unknown.stdout)["error"]) == (2, "ConfigError")
