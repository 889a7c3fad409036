"""Optional dependencies: a life without any of them, and errors that name the extra."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import tomllib
from itertools import pairwise
from pathlib import Path

import pytest

from hybridmu.errors import MissingExtraError
from hybridmu.extras import EXTRAS, extra
from tests.support import HANG_SECONDS

ROOT = Path(__file__).parents[1]
# What only extras install; grpc and protobuf come with Ray, jinja2 with torch.
_ABSENT = ["boto3", "fastapi", "h11", "matplotlib", "mlxtend", "psycopg", "simpy", "sklearn", "starlette", "uvicorn"]
_LIFE = """
import json, sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ABSENT:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

ABSENT = json.loads(sys.argv[1])
sys.meta_path.insert(0, Absent())
from hybridmu.cli.main import app
for line in json.loads(sys.argv[2]):
    try:
        code = app(line.split(), standalone_mode=False)
    except SystemExit as end:
        code = end.code
    print("CODE", code or 0, line, file=sys.stderr)
"""


def test_every_extra_is_one_of_the_package() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(EXTRAS) | {"postgres", "s3"} == set(declared) - {"browser", "dev", "docs", "sbom"}


def test_what_is_there_is_imported() -> None:
    with extra("simulate"):
        import simpy
    assert simpy


def test_what_is_missing_names_its_extra() -> None:
    with pytest.raises(MissingExtraError, match="simpy is not installed") as refused, extra("report", "simulate"):
        raise ModuleNotFoundError("No module named 'simpy.core'", name="simpy.core")
    assert refused.value.remedy == "pip install 'hybridmu[report,simulate]'"


def test_another_missing_module_is_no_extra() -> None:
    with pytest.raises(ModuleNotFoundError, match="theirs"), extra("simulate"):
        raise ModuleNotFoundError("No module named 'theirs'", name="theirs")


def test_estimators_name_the_extra_that_they_need(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("hybridmu.estimator")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "sklearn", None)
    monkeypatch.setitem(sys.modules, "sklearn.base", None)
    with pytest.raises(MissingExtraError, match=r"hybridmu\[sklearn\]"):
        importlib.import_module("hybridmu.estimator")


@pytest.mark.slow
def test_a_whole_life_without_extras(tmp_path: Path, make_table, settings_dict) -> None:
    make_table(120)
    config = tmp_path / "config.json"  # JSON is YAML
    config.write_text(json.dumps(settings_dict(sisa={"shards": 2, "slices": 2, "epochs": 2})))
    works = ["train --local", "forget --id 17 --wait --local", "verify", "run --until-idle --local", "status"]
    lines = [f"{line} -c {config}" for line in works]
    fails = {
        f"size -c {config} --requests-per-day 5 --deadline 1h": "hybridmu[simulate]",
        f"audit -c {config} --local": "hybridmu[report]",
        f"api -c {config}": "hybridmu[serve]",
        "demo": "hybridmu[serve,text]",
        "data get digits": "hybridmu[datasets]",
    }
    done = subprocess.run(
        [sys.executable, "-c", _LIFE, json.dumps(_ABSENT), json.dumps([*lines, *fails])],
        cwd=tmp_path,
        env={**os.environ, "HOME": str(tmp_path), "HYBRIDMU_DATA": str(tmp_path / "data")},
        capture_output=True,
        text=True,
        timeout=HANG_SECONDS,
    )
    assert done.returncode == 0, done.stderr
    said = done.stderr.split("CODE ")
    for before, after in pairwise(said):
        code, line = after.splitlines()[0].split(" ", 1)
        assert (code == "0") == (line not in fails), f"{line}\n{before}"
        assert fails.get(line, "") in before
    assert len(said) == len(lines) + len(fails) + 1
