"""The commands around new data: ingest, correct, readmit, ingests, guard."""

from __future__ import annotations

import getpass
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import hybridmu
from tests.cli.test_operator_commands import Cli, write_config
from tests.support import make_table, replaced


@pytest.fixture(scope="module")
def template(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("template")
    make_table(folder / "train.parquet", 60)
    write_config(folder, folder, retention_seconds=0)
    with hybridmu.connect(folder / "config.yaml", executor="local") as system:
        system.train()
        system.forget(ids=[7], strategy="retrain", wait=True)
        system.run(until_idle=True)
    return folder


@pytest.fixture
def cli(template, tmp_path) -> Cli:
    for name in ("storage", "storage-keys"):
        shutil.copytree(template / name, tmp_path / name)
    write_config(tmp_path, template, retention_seconds=0)
    return Cli(tmp_path)


@pytest.fixture
def new(tmp_path) -> str:
    """Ten new rows, and one of a forgotten id."""
    made = make_table(tmp_path / "new.parquet", 11, start=100)
    pq.write_table(replaced(made, "id", pa.array([*range(100, 110), 7])), tmp_path / "new.parquet")
    return str(tmp_path / "new.parquet")


def test_ingest_says_what_came_in(cli, new):
    said = cli.says("ingest", new)
    assert "RECEIVED: 10 row(s) in 1 slice(s) of 2 epoch(s), 1 skipped" in said
    assert "hybridmu run" in said
    cli.run("run", "--until-idle")
    (found,) = cli.json("ingests", "list")
    assert (found["state"], found["caller"], found["version"], found["generation"]) == (
        "SERVED",
        getpass.getuser(),
        3,
        1,
    )
    assert found["ingest_id"] in cli.says("ingests", "list")


def test_ingest_and_wait(cli, new):
    done = cli.json(
        "ingest", new, "--slices", "2", "--epochs", "1", "--key", "k", "--caller", "me", "--wait", "--local"
    )
    assert (done["state"], done["slices"], done["epochs"], done["caller"]) == ("SERVED", 2, 1, "me")
    again = cli.json("ingest", new, "--slices", "2", "--epochs", "1", "--key", "k", "--caller", "me")
    assert again["ingest_id"] == done["ingest_id"]
    assert cli.refused("ingest", new)["what"].startswith("ids of the new table are in the system already")


def test_no_ingestions(cli):
    assert cli.says("ingests", "list") == "no ingestions\n"


def test_correct(cli, tmp_path, template):
    made = pq.read_table(template / "train.parquet").slice(10, 2)
    pq.write_table(replaced(made, "x0", pa.array([0.5, 0.5], pa.float32())), tmp_path / "corrected.parquet")
    said = cli.says("correct", str(tmp_path / "corrected.parquet"))
    assert "RECEIVED: 2 row(s) are forgotten" in said
    assert "come in once the old ones are PURGED" in said
    done = cli.run("run", "--until-idle")
    assert done.exit_code == 0, done.output
    assert [(i["state"], i["rows"]) for i in cli.json("ingests", "list")] == [("SERVED", 2)]


def test_readmit(cli, new):
    assert cli.refused("readmit", "--id", "8", "--reason", "why")["what"] == "1 id(s) or group(s) are not forgotten"
    assert cli.json("readmit", "--id", "7", "--reason", "asked for") == {"readmitted": 1}
    assert cli.json("ingest", new, "--wait", "--local")["rows"] == 11


@pytest.mark.slow
def test_a_lost_guard_key(cli, new, tmp_path):
    key = next(iter(cli.json("keys", "show")["guard"]["key_ids"]))
    (tmp_path / "storage-keys" / "guard-0001.hex").unlink()
    refused = cli.refused("ingest", new)
    assert f"hybridmu guard accept-loss {key}" in refused["remedy"]
    assert "can't be checked" in cli.says("verify")
    assert cli.json("guard", "accept-loss", key, "--reason", "burnt") == {"key_id": key, "given_up": 1}
    assert cli.json("ingest", new)["skipped"] == 0
