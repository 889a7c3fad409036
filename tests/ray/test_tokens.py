"""Ray's token: the README's commands work in a fresh home and in one where an earlier Ray has left a token."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.ray.support import PROJECT, Head, short_tmp
from tests.support import HANG_SECONDS

_LOCAL = """
import os
from hybridmu.cluster.resources import ensure_ray
from hybridmu.config import Settings
os.cpu_count = lambda: 1  # what it takes is not what is tried here
ensure_ray(Settings.parse({"data": {"name": "digits"}, "storage_url": "unused"}))
"""
_JOB = "import ray; ray.init(); print('answer', ray.get(ray.remote(num_cpus=1)(lambda: 6 * 7).remote()))"


def block(page: str) -> list[str]:
    """Return the commands of the block that starts a head."""
    (found,) = re.findall(r"^```(?:ba)?sh\n((?:(?!```).)*ray start --head.*?)^```", page, re.DOTALL | re.MULTILINE)
    return [line.partition("  #")[0].strip() for line in found.splitlines()]


README = block((PROJECT / "README.md").read_text())


@pytest.fixture
def home(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A home folder: fresh, or used by a Ray that this package started."""
    (tmp_path / "home").mkdir()
    if request.param == "used":
        env = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        with short_tmp() as folder:
            env |= {"HOME": str(tmp_path / "home"), "RAY_TMPDIR": folder, "RAY_USAGE_STATS_ENABLED": "0"}
            done = subprocess.run(
                [sys.executable, "-c", _LOCAL], env=env, capture_output=True, text=True, timeout=HANG_SECONDS
            )
        assert done.returncode == 0, done.stderr
        token = tmp_path / "home" / ".ray" / "auth_token"
        assert token.stat().st_mode & 0o777 == 0o600
    return tmp_path / "home"


@pytest.fixture
def started(home: Path) -> Iterator[Head]:
    """The README's head, on ports of its own."""
    export, start, *_ = README
    assert start == "ray start --head"
    with short_tmp() as folder:
        head = Head(folder, home, export)
        try:
            head.wait()
            yield head
        finally:
            head.stop()


@pytest.mark.slow
@pytest.mark.parametrize("home", ["fresh", "used"], indirect=True)
def test_the_commands_of_the_readme_work(started: Head, home: Path) -> None:
    token = home / ".ray" / "auth_token"
    assert token.stat().st_mode & 0o777 == 0o600
    submit = next(line for line in README if line.startswith("ray job submit"))
    words = submit.partition(" -- ")[0].replace("--working-dir .", "").split()
    done = started.run(*words, "--address", started.url, "--", "python", "-c", _JOB)
    assert "answer 42" in done.stdout
    # `serve deploy` speaks to the dashboard as this does, and `serve run` to the cluster as the job above did.
    assert "applications: {}" in started.run("serve", "status", "--address", started.url).stdout
    assert token.read_text() not in started.log.read_text() + done.stdout + done.stderr
    # Whoever has no token is asked for one.
    assert httpx.get(f"{started.url}/api/jobs/", timeout=HANG_SECONDS).status_code == 401


@pytest.mark.parametrize("page", ["docs/cluster.md", "docs/operator.md"])
def test_the_other_pages_begin_in_the_same_way(page: str) -> None:
    assert block((PROJECT / page).read_text())[:2] == README[:2]
