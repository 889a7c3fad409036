"""The release: its commands are there and work here, in their order; it has no rights that a step does not need."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml

from hybridmu.cli.main import app
from tests.packaging import clean

WORKFLOW: dict[Any, Any] = yaml.safe_load((clean.ROOT / ".github/workflows/release.yml").read_text())
CI = yaml.safe_load((clean.ROOT / ".github/workflows/ci.yml").read_text())
JOBS: dict[str, Any] = WORKFLOW["jobs"]
STEPS = [step for job in JOBS.values() for step in job["steps"]]
TARGETS = set(re.findall(r"^([a-z-]+):", (clean.ROOT / "Makefile").read_text(), re.MULTILINE))


def script(job: str, name: str) -> str:
    (found,) = [step["run"] for step in JOBS[job]["steps"] if step.get("name", "").startswith(name)]
    return str(found)


def test_only_the_tag_of_a_version_starts_it() -> None:
    assert WORKFLOW[True] == {"push": {"tags": ["v[0-9]+.[0-9]+.[0-9]+"]}}  # YAML reads `on` as true


def test_jobs_follow_each_other_and_end() -> None:
    assert {name: job.get("needs") for name, job in JOBS.items()} == {
        "build": None,
        "try": "build",
        "attest": "try",
        "publish": "attest",
    }
    assert all(job["timeout-minutes"] for job in JOBS.values())
    assert JOBS["try"]["strategy"]["matrix"] == CI["jobs"]["test"]["strategy"]["matrix"]


def test_rights_are_of_the_jobs_that_need_them() -> None:
    assert WORKFLOW["permissions"] == {"contents": "read"}
    assert {name: job["permissions"] for name, job in JOBS.items() if "permissions" in job} == {
        "attest": {"contents": "read", "id-token": "write", "attestations": "write"},
        "publish": {"id-token": "write"},
    }
    assert JOBS["publish"]["environment"] == "release"
    text = (clean.ROOT / ".github/workflows/release.yml").read_text()
    assert "secrets." not in text
    # Whoever may write runs no code of the checkout.
    for name in ("attest", "publish"):
        assert all("run" not in step for step in JOBS[name]["steps"])
    assert all(
        re.fullmatch(r"(actions|pypa)/[\w-]+@(v\d+|release/v1)", step["uses"]) for step in STEPS if "uses" in step
    )
    checkouts = [step["with"] for step in STEPS if step.get("uses", "").startswith("actions/checkout")]
    assert all(given["persist-credentials"] is False for given in checkouts)


def test_nothing_the_event_says_becomes_part_of_a_script() -> None:
    assert [step["run"] for step in STEPS if "${{" in step.get("run", "")] == []


def test_what_is_downloaded_was_uploaded() -> None:
    def given(action: str) -> list[dict[str, str]]:
        return [step["with"] for step in STEPS if step.get("uses", "").startswith(f"actions/{action}-artifact")]

    uploaded = {each["name"]: each["path"].split() for each in given("upload")}
    assert {each["name"] for each in given("download") if "name" in each} <= set(uploaded)
    assert uploaded["dist"] == ["dist/*.whl", "dist/*.tar.gz"]  # what is published, and nothing beside it


def test_commands_are_there() -> None:
    lines = [line.strip() for step in STEPS for line in step.get("run", "").splitlines()]
    assert {target for line in lines for target in re.findall(r"^make ([a-z-]+)", line)} == {"dist", "verifier", "sbom"}
    assert {"dist", "verifier", "sbom"} <= TARGETS
    verbs = set(typer.main.get_command(app).commands)  # type: ignore[attr-defined]
    called = {called for line in lines for called in re.findall(r"installed/bin/hybridmu (\S+)", line)}
    assert {"train", "forget", "verify"} <= called <= verbs


@pytest.mark.slow
def test_what_it_builds_passes_what_it_tries(tmp_path: Path) -> None:
    source = clean.sources(tmp_path / "project")
    dist = source / "dist"
    # `make dist` beside the environment that it would make; what it runs is what is run here.
    recipe = (clean.ROOT / "Makefile").read_text().partition("\ndist:")[2].partition("\n\n")[0].splitlines()[1:]
    for line in recipe:
        words = line.strip().replace("$(BIN)/python", sys.executable).split()
        clean.run(*words, cwd=source)
    built = script("build", "the version is the tag's")
    clean.run("bash", "-ec", built, cwd=source, GITHUB_REF_NAME=f"v{clean.VERSION}")
    assert clean.run("bash", "-ec", built, cwd=source, check=False, GITHUB_REF_NAME="v1.2.3").returncode != 0

    # Both installations hold what is asked for already, so that pip looks for nothing elsewhere.
    temp = tmp_path / "temp"
    temp.mkdir()
    clean.environment(temp / "installed", ["hybridmu[datasets]"])
    clean.environment(temp / "auditor", ["cryptography"])
    clean.install(temp / "installed/bin", "--constraint", source / "constraints.txt",
                  f"hybridmu[datasets] @ file://{dist}/hybridmu-{clean.VERSION}-py3-none-any.whl")  # fmt: skip
    clean.install(temp / "auditor/bin", "--constraint", source / "constraints.txt", *dist.glob("hybridmu_verify-*.whl"))
    tried = script("try", "train, forget, purge")
    done = clean.run("bash", "-ec", tried, cwd=temp)
    assert "holds. What it shows:" in done.stdout
    assert "DOES NOT HOLD" not in (temp / "1.html").read_text()
