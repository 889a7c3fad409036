"""One small Ray cluster for all tests of this folder; a second one, started by `ray start`, for the command lines."""

from __future__ import annotations

import os

# Read by Ray when it is imported or started: loopback only, no usage report, and no token file in the home folder.
os.environ |= {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_AUTH_MODE": "disabled",
    # Beside other work a proxy needs longer than the 15 s after which Serve takes it for dead.
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",
}

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray

from tests.measured import measure_workers
from tests.ray.support import Head, leave_nothing, short_tmp, small_cluster


def pytest_configure(config: pytest.Config) -> None:
    """Ray Serve's own models use a form that Pydantic deprecated; nothing here can change that."""
    config.addinivalue_line("filterwarnings", "ignore:Using extra keyword arguments on `Field`:DeprecationWarning")


@pytest.fixture(autouse=True, scope="session")
def _measured() -> None:
    """Count the lines that workers run, under `make coverage`; before anything starts one."""
    measure_workers()


@pytest.fixture(autouse=True)
def _apart() -> Iterator[None]:
    """A test that fails leaves no actor and no reservation to the tests after it."""
    yield
    if ray.is_initialized():
        leave_nothing()


@pytest.fixture(scope="session")
def cluster() -> Iterator[None]:
    """Two CPUs, no GPU; `ensure_ray` finds it initialised."""
    with small_cluster():
        yield


@pytest.fixture(scope="session")
def head() -> Iterator[Head]:
    """A `ray start --head` of its own, in token mode, with a home folder that is thrown away."""
    with short_tmp() as folder:
        home = Path(tempfile.mkdtemp(prefix="home-"))
        started = Head(folder, home)
        try:
            started.wait()
            yield started
        finally:
            started.stop()
            shutil.rmtree(home, ignore_errors=True)
