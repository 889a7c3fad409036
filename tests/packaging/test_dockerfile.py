"""The image without an engine: its files are there, its pip runs, and its command and health check work."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import tomllib
from pathlib import Path

import pytest
import typer.main
import yaml

from hybridmu.cli.main import app
from tests.packaging import clean
from tests.ray.support import free_port
from tests.support import make_table, settings_dict, until

FILE = clean.ROOT / "deploy" / "docker" / "Dockerfile"
# (instruction, what follows it), in order; comments are no instructions.
LINES = [tuple(line.split(maxsplit=1)) for line in FILE.read_text().splitlines() if line and not line.startswith("#")]


def of(kind: str, lines: list[tuple[str, ...]] = LINES) -> list[str]:
    return [rest for name, rest in lines if name == kind]


FINAL = LINES[max(number for number, (name, _) in enumerate(LINES) if name == "FROM") :]


def test_every_line_is_one_that_docker_knows():
    known = {"FROM", "WORKDIR", "COPY", "ARG", "ENV", "RUN", "USER", "EXPOSE", "HEALTHCHECK", "ENTRYPOINT", "CMD"}
    assert {name for name, _ in LINES} <= known
    assert LINES[0][0] == "FROM"
    project = tomllib.loads((clean.ROOT / "pyproject.toml").read_text())["project"]
    supported = {line.rpartition(" ")[2] for line in project["classifiers"] if "Python :: 3." in line}
    for image in of("FROM"):
        assert re.fullmatch(r"python:(3\.\d+)-slim( AS \w+)?", image)[1] in supported


def test_what_is_copied_is_there_and_is_code():
    copied = [word for line in of("COPY") if not line.startswith("--from") for word in line.split()[:-1]]
    assert copied == ["pyproject.toml", "constraints.txt", "README.md", "LICENSE", "hybridmu"]
    assert all((clean.ROOT / word).exists() for word in copied)


def test_it_runs_as_nobody_in_particular_without_tools():
    assert [int(user) > 0 for user in of("USER", FINAL)] == [True]
    last = max(number for number, (name, _) in enumerate(FINAL) if name == "RUN")
    assert last < next(number for number, (name, _) in enumerate(FINAL) if name == "USER")
    (extras,) = re.findall(r"'\.\[([\w,]+)\]'", FILE.read_text())
    assert not {"dev", "browser", "sbom"} & set(extras.split(","))
    assert "apt-get" not in FILE.read_text()


def test_its_command_is_a_verb():
    assert json.loads(*of("ENTRYPOINT")) == ["hybridmu"]
    (verb,) = json.loads(*of("CMD"))
    assert verb in typer.main.get_command(app).commands  # type: ignore[attr-defined]


@pytest.mark.slow
def test_what_it_installs_answers_and_is_healthy(tmp_path: Path):
    source = clean.sources(tmp_path / "project")
    venv, pip = of("RUN")[:2]
    assert venv == "python -m venv /opt/hybridmu"
    project = tomllib.loads((source / "pyproject.toml").read_text())["project"]
    tools = ["setuptools", "setuptools-scm"]  # in the place of the environment in which pip builds
    (extras,) = re.findall(r"'\.\[([\w,]+)\]'", pip)
    optional = [need for extra in extras.split(",") for need in project["optional-dependencies"][extra]]
    binaries = clean.environment(tmp_path / "env", [*project["dependencies"], *optional, *tools])
    # The pins have to fit what is asked for, or pip refuses.
    words = shlex.split(pip)
    assert words[:2] == ["/opt/hybridmu/bin/pip", "install"]
    constraints = [str(source / word) if word == "constraints.txt" else word for word in words[2:-1]]
    target = f"{source}{words[-1].removeprefix('.')}"
    clean.install(binaries, *constraints, target, SETUPTOOLS_SCM_PRETEND_VERSION_FOR_HYBRIDMU="9.9.9")

    home = tmp_path / "home"
    home.mkdir()
    make_table(home / "train.parquet", 120)
    port = free_port()
    settings = settings_dict(home, sisa={"shards": 2, "slices": 1, "epochs": 1}, api={"host": "0.0.0.0", "port": port})
    (home / "config.yaml").write_text(yaml.safe_dump(settings))
    variables = dict(re.findall(r"(\w+)=(\S+)", of("ENV", FINAL)[0]))
    variables["PATH"] = f"{binaries}:/usr/bin:/bin"
    assert clean.run(binaries / "hybridmu", "--version", cwd=home).stdout.strip() == "9.9.9"
    clean.run(binaries / "hybridmu", "train", "--local", cwd=home, **variables)

    (health,) = of("HEALTHCHECK")
    check = json.loads(health.partition("CMD ")[2].replace(of("EXPOSE")[0], str(port)))
    env = {**variables, "HOME": str(home)}
    assert subprocess.run(check, cwd=home, env=env, capture_output=True).returncode != 0  # nobody answers yet
    with (tmp_path / "log").open("wb") as log:
        answering = subprocess.Popen(
            [*json.loads(*of("ENTRYPOINT")), *json.loads(*of("CMD"))], cwd=home, env=env, stdout=log, stderr=log
        )
    try:

        def healthy() -> bool:
            assert answering.poll() is None, (tmp_path / "log").read_text()
            return subprocess.run(check, cwd=home, env=env, capture_output=True).returncode == 0

        assert until(healthy, step=0.5)
    finally:
        answering.terminate()
        answering.wait(60)
