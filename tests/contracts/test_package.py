"""The package: its version, and its dependencies, each with a reason and a pin. What is built: tests/packaging."""

from __future__ import annotations

import re
import shutil
import sys
import tomllib
from pathlib import Path

import pytest

import hybridmu
from tests.packaging.clean import run

ROOT = Path(__file__).parents[2]
PYPROJECT = (ROOT / "pyproject.toml").read_text()
_INSTALLED = "import sys; from hybridmu.cli.start import main; sys.argv[0] = 'hybridmu'; main()"


def _copy(folder: Path) -> Path:
    """Return a copy of what a wheel is made of, without git."""
    shutil.copytree(ROOT / "hybridmu", folder / "hybridmu", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    return folder


def _commit(folder: Path, *tags: str) -> Path:
    """Return a folder as a repository of one commit."""
    who = ("-c", "user.name=n", "-c", "user.email=e@example.org", "-c", "commit.gpgsign=false")
    for command in (("init", "-q"), ("add", "-A"), (*who, "commit", "-qm", "all"), *(("tag", tag) for tag in tags)):
        run("git", *command, cwd=folder)
    return folder


def _version(folder: Path) -> str:
    return run(sys.executable, "-m", "setuptools_scm", cwd=folder).stdout.split()[-1]


def test_every_dependency_has_a_reason() -> None:
    block = PYPROJECT.partition("\ndependencies = [")[2].partition("[project.scripts]")[0]
    listed = [line for line in block.splitlines() if line.strip().startswith('"')]
    assert len(listed) >= 30
    assert [line for line in listed if not re.search(r'",\s+# \S', line)] == []


def test_every_dependency_is_pinned() -> None:
    project = tomllib.loads(PYPROJECT)["project"]
    wanted = [
        *project["dependencies"],
        *(each for extra in project["optional-dependencies"].values() for each in extra),
    ]
    pinned = {_plain(line) for line in (ROOT / "constraints.txt").read_text().splitlines()}
    # What a pin would tie to one build, or what an environment has anyway, is left free.
    assert {_plain(each) for each in wanted} - pinned == {"hybridmu", "setuptools"}


@pytest.mark.slow
def test_the_version_is_the_installed_one() -> None:
    assert re.match(r"\d+\.\d+", hybridmu.__version__)
    shown = run(sys.executable, "-c", _INSTALLED, "--version", cwd=ROOT).stdout.strip()
    assert shown == hybridmu.__version__


@pytest.mark.parametrize(
    ("repository", "tags", "version"),
    [(False, (), r"0\.1\.0\.dev0"), (True, (), r"0\.1\.0\.dev\d+"), (True, ("v7.8.9",), r"7\.8\.9")],
)
def test_the_version_comes_from_the_tag(repository: bool, tags: tuple[str, ...], version: str, tmp_path: Path) -> None:
    folder = _copy(tmp_path)
    assert re.fullmatch(version, _version(_commit(folder, *tags) if repository else folder))


def _plain(requirement: str) -> str:
    """Return the name of a requirement as indexes compare it."""
    return re.sub(r"[-_.]+", "-", re.split(r"[\[<>=;]", requirement)[0].strip()).lower()
