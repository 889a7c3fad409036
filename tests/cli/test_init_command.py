"""`hybridmu init` and the configuration that commands take when none is named."""

import json

import pytest
from typer.testing import CliRunner

from hybridmu.cli.main import app
from tests.support import make_table


def run(*arguments):
    return CliRunner().invoke(app, [*map(str, arguments)], prog_name="hybridmu")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_table(tmp_path / "rows.parquet", 60)
    return tmp_path


def test_a_file_is_written_once_and_the_next_step_is_told(folder):
    done = run("init", "rows.parquet")
    assert done.exit_code == 0, done.output
    assert "hybridmu train -c hybridmu.yaml" in done.output
    before = (folder / "hybridmu.yaml").read_text()
    again = run("init", "rows.parquet", "--json")
    assert again.exit_code == 2
    assert "there already" in json.loads(again.stdout)["what"]
    assert (folder / "hybridmu.yaml").read_text() == before


def test_as_json_it_says_what_columns_were_taken_for(folder):
    done = run("init", "rows.parquet", "-o", "c.yaml", "--json")
    found = json.loads(done.stdout)
    assert found["written"] == "c.yaml"
    assert found["columns"]["label"] == "label"
    assert (folder / "c.yaml").exists()


def test_a_table_that_is_not_there_leaves_no_file(folder):
    done = run("init", "none.parquet", "--json")
    assert done.exit_code == 2
    assert not (folder / "hybridmu.yaml").exists()


def test_label_and_target_exclude_each_other(folder):
    done = run("init", "rows.parquet", "--label", "label", "--target", "x", "--json")
    assert json.loads(done.stdout)["error"] == "ConfigError"


def test_commands_read_the_file_that_init_writes(folder, monkeypatch):
    assert "init TABLE" in run("status", "--json").stdout
    assert run("init", "rows.parquet").exit_code == 0
    assert json.loads(run("train", "--local", "--json").stdout)["version"] == 1
    assert json.loads(run("status", "--json").stdout)["version"] == 1
    (folder / "hybridmu.yaml").rename(folder / "other.yaml")
    monkeypatch.setenv("HYBRIDMU_CONFIG", "other.yaml")
    assert json.loads(run("status", "--json").stdout)["version"] == 1
