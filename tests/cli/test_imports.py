"""Imports of the command line: a verb loads what it needs, and PyTorch, Ray and the like only where they are used."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import hybridmu
from tests.support import make_table, settings_dict

# Each takes longer to import than most verbs take altogether.
HEAVY = {"torch", "ray", "pandas", "matplotlib", "fastapi", "alembic", "sklearn", "scipy"}
TABLES = {"pyarrow", "sqlalchemy", "yaml", "cryptography"}
REQUESTS = [
    ["requests", "list"],
    ["requests", "show", "{request}"],
    ["requests", "cancel", "{cancelled}"],
    ["forget", "--id", "3"],
]
CONTROLS = [["status"], ["holds"], ["hold", "--reason", "court"], ["pause", "--reason", "disks"], ["ingests", "list"]]
KEYS = [["tokens", "list"], ["keys", "show"], ["certificate", "list"], ["certificate", "find", "--id", "3"]]


def loaded(*verbs: list[str]) -> dict[str, set[str]]:
    """Return verb → modules that are imported when it ends, of verbs that one process runs after each other."""
    code = f"""
import json, sys
from hybridmu.cli.start import main
for words in {list(verbs)!r}:
    try:
        main(words)
    except SystemExit as end:
        assert end.code in {{0, 1, None}}, (words, end.code)  # `certificate find` finds none
    print(json.dumps([" ".join(words[:2]), *sorted(sys.modules)]), file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = (json.loads(line) for line in done.stderr.splitlines() if line.startswith("["))
    return {verb: set(modules) for verb, *modules in found}


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> tuple[str, dict[str, str]]:
    """The configuration of a trained system, and its requests."""
    folder: Path = tmp_path_factory.mktemp("trained")
    make_table(folder / "train.parquet", 40)
    config = settings_dict(folder, sisa={"shards": 2, "slices": 2, "epochs": 1})
    (folder / "c.yaml").write_text(yaml.safe_dump(config))
    with hybridmu.connect(config, executor="local") as system:
        system.train()
        names = {name: system.forget(ids=[row])["request_id"] for name, row in (("request", 1), ("cancelled", 2))}
    return str(folder / "c.yaml"), names


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_the_list_of_commands_loads_no_command(option):
    (found,) = loaded([option]).values()
    assert found & (HEAVY | TABLES | {"numpy", "pydantic"}) == set()
    assert {name for name in found if name.startswith("hybridmu.")} == {
        "hybridmu.cli",
        *(f"hybridmu.cli.{name}" for name in ("command_group", "interrupts", "main", "start", "verbs")),
    }


def test_help_of_a_command_loads_neither_tables_nor_a_database():
    for verb, found in loaded(["forget", "--help"], ["status", "--help"], ["requests", "--help"]).items():
        assert found & (HEAVY | TABLES) == set(), verb


@pytest.mark.parametrize("verbs", [REQUESTS, CONTROLS, KEYS], ids=["requests", "controls", "keys"])
def test_what_looks_at_requests_loads_no_model(trained, verbs):
    config, names = trained
    for verb, found in loaded(*([*(w.format(**names) for w in words), "-c", config] for words in verbs)).items():
        assert found & HEAVY == set(), verb
        assert "hybridmu.runtime.workers.context" not in found, verb


def test_what_works_with_models_loads_them_and_no_cluster(trained):
    (found,) = loaded(["plan", "--id", "4", "-c", trained[0]]).values()
    assert "torch" in found
    assert found & {"ray", "matplotlib", "fastapi", "alembic"} == set()
