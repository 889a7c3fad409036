"""Files for those who work on the project: their commands, files and names are there."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml

from hybridmu.cli.main import app

ROOT = Path(__file__).parents[2]
BINARIES = Path(sys.executable).parent
MAKEFILE = (ROOT / "Makefile").read_text()
TARGETS = set(re.findall(r"^([a-z-]+):", MAKEFILE, re.MULTILINE))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
WORKFLOW: dict[str, Any] = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
JOBS: dict[str, Any] = WORKFLOW["jobs"]
PAGES = ("CONTRIBUTING.md", "SECURITY.md", "docs/public-api.md")
_KINDS = ["Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"]


def _one_piece(line: str) -> bool:
    """Return whether a line can't be broken: of a table, a picture or a single word."""
    return line.lstrip().startswith(("|", "![")) or " " not in line.strip()


def _ours(path: Path) -> bool:
    return not any(part.startswith(".") or part == "runs" for part in path.relative_to(ROOT).parts)


def _steps() -> Iterator[dict[str, Any]]:
    for job in JOBS.values():
        yield from job["steps"]


def _commands() -> list[str]:
    return [line.strip() for step in _steps() for line in step.get("run", "").splitlines()]


@pytest.mark.parametrize("page", PAGES)
def test_what_a_page_names_is_there(page: str) -> None:
    text = (ROOT / page).read_text()
    for target in re.findall(r"(?:`|^)make ([a-z-]+)", text, re.MULTILINE):
        assert target in TARGETS, target
    for link in re.findall(r"\]\(([^)#]+)[)#]", text):
        assert ((ROOT / page).parent / link).exists(), link
    for path in re.findall(r"`((?:hybridmu|tests|docs|jobs)/[\w./]+)`", text):
        assert (ROOT / path).exists(), path


@pytest.mark.parametrize("page", sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("**/*.md") if _ours(path)))
def test_lines_of_prose_are_short(page: str) -> None:
    made = r"^ *```.*?^ *```|<!-- table.*?<!-- end -->"  # code, and what a command writes
    prose = re.sub(made, "", (ROOT / page).read_text(), flags=re.DOTALL | re.MULTILINE)
    long = [line for line in prose.splitlines() if len(line) > 120 and not _one_piece(line)]
    assert long == []


def test_the_workflow_covers_every_supported_python() -> None:
    said = {line.rpartition(" ")[2] for line in PROJECT["classifiers"] if "Python :: 3." in line}
    assert set(JOBS["test"]["strategy"]["matrix"]["python"]) == said
    assert PROJECT["requires-python"] == f">={min(said, key=_number)}"


def test_the_workflow_runs_what_a_submission_must_pass() -> None:
    ours = (ROOT / ".ci/run").read_text()
    for target in ("check", "test"):
        assert f"make {target}" in ours
        assert f"make {target}" in _commands()


def test_commands_of_the_workflow_are_there() -> None:
    verbs = set(typer.main.get_command(app).commands)  # type: ignore[attr-defined]
    used = {target for line in _commands() for target in re.findall(r"^make ([a-z-]+)", line)}
    assert used == {"check", "test", "docs", "wheel"}
    assert used <= TARGETS
    called = [called for line in _commands() for called in re.findall(r"bin/hybridmu (\S+)", line)]
    assert {"--version", "demo"} <= set(called) <= {*verbs, "--version"}
    for extras in re.findall(r"hybridmu\[([\w,]+)\]", "\n".join(_commands())):
        assert set(extras.split(",")) <= set(PROJECT["optional-dependencies"])


def test_the_wheel_is_tried_away_from_the_checkout() -> None:
    tried = [step for step in JOBS["wheel"]["steps"] if "bin/hybridmu" in step.get("run", "")]
    assert tried
    assert all(step["working-directory"] == "${{ runner.temp }}" for step in tried)


def test_the_workflow_has_no_more_rights_than_reading() -> None:
    assert WORKFLOW["permissions"] == {"contents": "read"}
    assert all("permissions" not in job and job["timeout-minutes"] for job in JOBS.values())
    assert all(re.fullmatch(r"actions/[\w-]+@v\d+", step["uses"]) for step in _steps() if "uses" in step)


def test_the_demo_installs_what_it_needs_and_no_tools() -> None:
    (extras,) = re.findall(r"^\.venv/\.demo:.*\n\t.*'\.\[([\w,]+)\]'", MAKEFILE, re.MULTILINE)
    assert set(extras.split(",")) == {"serve", "text"}
    assert re.search(r"^\.venv/\.demo:.*\n.*\n\t\$\(BIN\)/hybridmu data get reviews$", MAKEFILE, re.MULTILINE)
    assert re.search(r"^demo: \.venv/\.demo\b", MAKEFILE, re.MULTILINE)
    assert re.search(r"^test: \.venv/\.dev\b", MAKEFILE, re.MULTILINE)


def test_hooks_run_the_checks_out_of_the_environment() -> None:
    (local,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert local["repo"] == "local"  # nothing is fetched from elsewhere
    tools = [hook["entry"].split()[0] for hook in local["hooks"]]
    assert all(hook["language"] == "system" for hook in local["hooks"])
    checks = MAKEFILE.partition("\ncheck:")[2].partition("\n\n")[0]
    assert {tool.removeprefix(".venv/bin/") for tool in tools} == set(re.findall(r"\$\(BIN\)/([\w-]+)", checks))
    for tool in tools:
        assert (BINARIES / Path(tool).name).exists(), tool
    command = [BINARIES / "pre-commit", "validate-config"]
    assert subprocess.run(command, cwd=ROOT, capture_output=True).returncode == 0


def test_the_citation_has_what_readers_of_it_need() -> None:
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors"} <= set(cited)
    assert cited["license"] == PROJECT["license"]
    (paper,) = cited["references"]
    readme = (ROOT / "README.md").read_text()
    assert paper["title"] in readme
    assert paper["identifiers"][0]["value"].replace(":", " ") in readme
    assert all(author["family-names"] in readme for author in paper["authors"])


def test_the_changelog_keeps_to_its_headings() -> None:
    text = (ROOT / "CHANGELOG.md").read_text()
    versions = re.findall(r"^## (.*)$", text, re.MULTILINE)
    assert versions[0] == "[Unreleased]"
    assert all(re.fullmatch(r"\[\d+\.\d+\.\d+\] - \d{4}-\d\d-\d\d", each) for each in versions[1:])
    for part in text.split("\n## ")[1:]:
        kinds = re.findall(r"^### (.*)$", part, re.MULTILINE)
        assert kinds == [kind for kind in _KINDS if kind in kinds]
        assert kinds


def test_no_two_files_of_the_package_share_a_name() -> None:
    names = [path.name for path in (ROOT / "hybridmu").rglob("*.py") if not path.name.startswith("__")]
    assert sorted(names) == sorted(set(names))


def _number(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))
