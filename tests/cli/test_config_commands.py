"""`hybridmu config schema`: the document that editors read."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from jsonschema import Draft202012Validator

from hybridmu.config.schema import settings_schema
from tests.support import HANG_SECONDS

_PLUGIN = """
from hybridmu.core.learners.sliced_sgd import SlicedSgd  # any learner will do
from hybridmu.plugins import register_learner


class Named(SlicedSgd):
    name = "mine"


register_learner(Named)
"""


def schema(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Return what the command does in a process of its own, so that a plugin's names stay there."""
    command = [sys.executable, "-c", "from hybridmu.cli.start import main; main()", "config", "schema", *options]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=HANG_SECONDS, check=False
    )


def test_it_is_the_schema_for_people_and_programs(tmp_path: Path) -> None:
    shown, printed = schema(tmp_path), schema(tmp_path, "--json")
    document = json.loads(shown.stdout)
    assert document == json.loads(printed.stdout)
    # Other tests of this process may have registered kinds: their names would be in the schema that it makes.
    assert document["properties"].keys() == settings_schema()["properties"].keys()
    assert shown.stdout.count("\n") > 100
    assert printed.stdout.count("\n") == 1


def test_names_of_plugins_are_in_it(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(_PLUGIN)
    (tmp_path / "config.yaml").write_text("plugins: [own]\nsisa: {shards: not yet known}\n")
    raw = {"data": {"train": "t.parquet"}, "learner": {"name": "mine"}, "storage_url": "s"}
    (error,) = Draft202012Validator(json.loads(schema(tmp_path, "--json").stdout)).iter_errors(raw)
    assert list(error.absolute_path) == ["learner", "name"]
    found = schema(tmp_path, "-c", "config.yaml", "--json")
    assert found.returncode == 0, found.stderr
    assert list(Draft202012Validator(json.loads(found.stdout)).iter_errors(raw)) == []


def test_a_plugin_that_is_not_there_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("plugins: [own]\n")
    found = schema(tmp_path, "-c", "config.yaml", "--json")
    assert found.returncode == 2
    assert "own" in json.loads(found.stdout)["what"]
