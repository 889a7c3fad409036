"""The README tells the truth: its commands run, its configurations parse, and it is short."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from hybridmu.config import Settings, left_out
from tests.support import HANG_SECONDS

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", README, flags=re.DOTALL)


def block(language, needle):
    return next(text for kind, text in BLOCKS if kind == language and needle in text)


@pytest.mark.slow
def test_the_commands_run_as_written(tmp_path):
    commands = [line.split("#")[0].strip() for line in block("bash", "hybridmu train").splitlines() if line.strip()]
    assert len(commands) >= 6
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "HYBRIDMU_STORAGE_URL": str(tmp_path / "storage"),
        "RAY_AUTH_MODE": "disabled",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    }
    for command in commands:
        done = subprocess.run(
            command.split(),
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            timeout=HANG_SECONDS,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        assert done.stdout.strip(), command


@pytest.mark.slow
def test_the_notebook_snippet_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HYBRIDMU_STORAGE_URL", str(tmp_path / "storage"))
    monkeypatch.chdir(ROOT)
    exec(compile(block("python", "hybridmu.connect"), "README.md", "exec"), {})
    assert capsys.readouterr().out.strip().splitlines()[-1] == "True"


def test_the_configuration_parses():
    shortest, more = (yaml.safe_load(block("yaml", key)) for key in ("storage_url", "deadline_seconds"))
    assert left_out(Settings.parse(shortest))["optimizer"]
    assert Settings.parse(shortest | more).policy.deadline_seconds == 60


def test_it_is_short():
    assert len(README.splitlines()) <= 150


def test_the_set_up_commands_are_make_targets():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    for name in re.findall(r"make ([a-z-]+)", README):
        assert name in targets


@pytest.mark.parametrize(
    "name", ["jobs/train.py", "jobs/run.py", "serve/config.yaml", "cluster.yaml", "docs/exactness.md"]
)
def test_named_files_exist(name):
    assert name in README
    assert (ROOT / name).exists()
