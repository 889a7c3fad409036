"""Clean environments without a network: virtual environments that hold what a package asks for, and nothing else."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

from tests.support import HANG_SECONDS

ROOT = Path(__file__).parents[2]
VERSION = "7.8.9"
_LEFT = ("__pycache__", "*.egg-info", ".*_cache", ".hypothesis", ".coverage*", ".git", ".venv")
_MADE = {"build", "dist", "runs", "site", ".packages"}  # at the top alone: hybridmu has folders of such names


def run(*command: object, cwd: Path, check: bool = True, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command that sees nothing of this environment but `environment`."""
    done = subprocess.run(
        list(map(str, command)),
        cwd=cwd,
        env={"PATH": "/usr/bin:/bin", "HOME": str(cwd), **environment},
        capture_output=True,
        text=True,
        timeout=HANG_SECONDS,
    )
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done


def sources(folder: Path) -> Path:
    """Return a copy of the project as a repository of one commit with the tag of a release."""
    usual = shutil.ignore_patterns(*_LEFT)

    def left_out(where: str, names: list[str]) -> set[str]:
        return usual(where, names) | (_MADE if Path(where) == ROOT else set())

    shutil.copytree(ROOT, folder, ignore=left_out, symlinks=True)
    who = ("-c", "user.name=n", "-c", "user.email=e@example.org", "-c", "commit.gpgsign=false")
    for command in (("init", "-q"), ("add", "-A"), (*who, "commit", "-qm", "all"), ("tag", f"v{VERSION}")):
        run("git", *command, cwd=folder)
    return folder


def build(source: Path, out: Path, *what: str) -> list[Path]:
    """Return what `python -m build` makes of a folder: by default an sdist, and a wheel out of that."""
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", out, *what, source, cwd=source)
    return sorted(out.iterdir())


def environment(folder: Path, needs: Iterable[str]) -> Path:
    """Return the bin folder of a new environment with packages, and all that these ask for, linked from this one.

    Args:
        folder: It must not be there.
        needs: Requirements, as in a package's metadata.
    """
    run(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder.parent)
    here = {"base": str(folder), "platbase": str(folder)}
    site = Path(sysconfig.get_path("purelib", "venv", vars=here))
    for name in _closure(needs):
        found = metadata.distribution(name)
        tops = {Path(file).parts[0] for file in found.files or ()} - {".."}
        for top in tops - {"__pycache__"}:
            if not (site / top).exists():
                (site / top).symlink_to(Path(str(found.locate_file(top))))
    return folder / "bin"


def install(binaries: Path, *what: object, **environment: str) -> None:
    """Install into an environment from files alone; what these ask for has to be there."""
    words = ("install", "--quiet", "--no-index", "--no-build-isolation")
    run(sys.executable, "-m", "pip", "--python", binaries / "python", *words, *what, cwd=ROOT, **environment)


def _closure(needs: Iterable[str]) -> set[str]:
    """Return the names of distributions, and of those that they need here."""
    found: set[str] = set()
    left = [(Requirement(need), frozenset({""})) for need in needs]
    seen = set()
    while left:
        need, of = left.pop()
        if need.marker and not any(need.marker.evaluate({"extra": extra}) for extra in of):
            continue
        name = re.sub(r"[-_.]+", "-", need.name).lower()
        extras = frozenset({"", *need.extras})
        if (name, extras) not in seen:
            seen.add((name, extras))
            found.add(name)
            left += [(Requirement(each), extras) for each in metadata.requires(name) or ()]
    return found
