"""Fixtures around `tests.support`; every test starts without HybridMU variables in its environment."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, settings
from sqlalchemy import Engine
from xdist.scheduler.loadscope import LoadScopeScheduling

import hybridmu
from hybridmu.store.ledger.engine.opening import connect
from hybridmu.store.ledger.lease import Lease
from hybridmu.store.ledger.ledger import Ledger
from hybridmu.store.ledger.progress import Progress
from tests import postgres, support
from tests.scenes import purged_system as purged

settings.register_profile(
    "repeatable",
    derandomize=True,
    deadline=None,
    max_examples=60,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
settings.load_profile("repeatable")


class ByFile(LoadScopeScheduling):
    """A file's tests run in one process, and so do all that use Ray."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return "tests/ray" if file.startswith("tests/ray/") else file


def pytest_configure() -> None:
    """Let the processes of tests be interrupted also where a shell started this one in the background."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # Python's own handler is not inherited, this is
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByFile:
    """Return who says which process runs which tests."""
    return ByFile(config, log)


@pytest.hookimpl(tryfirst=True)  # before tests are chosen by their marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what uses Ray, which takes longest; of a sampled test all but the first set of parameters are slow."""
    ray, seen = Path(__file__).parent / "ray", set[str]()
    for item in items:
        if item.get_closest_marker("sampled"):
            name = item.nodeid.partition("[")[0]
            if name in seen:
                item.add_marker(pytest.mark.slow)
            seen.add(name)
    items.sort(key=lambda item: ray not in item.path.parents)


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [*os.environ]:
        if (name.startswith("HYBRIDMU_") and name != "HYBRIDMU_DATA") or name == "RAY_JOB_CONFIG_JSON_ENV_VAR":
            monkeypatch.delenv(name)


@pytest.fixture
def make_table(tmp_path: Path) -> Callable[..., Any]:
    """`make_table(rows, name="train.parquet", **options)` writes a table into `tmp_path`."""

    def make(rows: int = 200, name: str = "train.parquet", **options: Any) -> Any:
        return support.make_table(tmp_path / name, rows, **options)

    return make


@pytest.fixture
def settings_dict(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """`settings_dict(**overrides)` with storage in `tmp_path`."""
    return partial(support.settings_dict, tmp_path)


@pytest.fixture
def local_system(tmp_path: Path) -> Iterator[Callable[..., hybridmu.System]]:
    """`local_system(**overrides)`: a system in this process over `tmp_path`, closed at the end of the test."""
    with ExitStack() as stack:
        yield lambda **overrides: stack.enter_context(support.local_system(tmp_path, **overrides))


@pytest.fixture(scope="session")
def postgresql() -> Iterator[postgres.Server]:
    """A PostgreSQL server, started by the first test that asks for it."""
    with postgres.running() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of an empty database, on both kinds; the tables are made by whoever trains."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'deep' / 'ledger.sqlite3'}"
    else:
        with request.getfixturevalue("postgresql").database() as url:
            yield url


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    made = connect(database_url, create=True)
    yield made
    made.dispose()


@pytest.fixture
def ledger(engine: Engine) -> Ledger:
    return Ledger(engine)


@pytest.fixture
def progress(engine: Engine) -> Progress:
    return Progress(engine)


@pytest.fixture
def lease(engine: Engine) -> Lease:
    return Lease(engine)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """`clock(seconds)` sets the wall clock of this process so far ahead, or back, from what it shows."""
    real, ahead = time.time, [0.0]
    monkeypatch.setattr(time, "time", lambda: real() + ahead[0])
    return lambda seconds: ahead.__setitem__(0, ahead[0] + seconds)


@pytest.fixture
def clocked(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """`clocked(seconds)` lets the purger's pauses pass."""
    real, ahead = time.monotonic, [0.0]
    clock = SimpleNamespace(monotonic=lambda: real() + ahead[0])
    monkeypatch.setattr("hybridmu.runtime.coordinator.purge_schedule.time", clock)
    return lambda seconds=61.0: ahead.__setitem__(0, ahead[0] + seconds)


@pytest.fixture
def own_clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """`own_clock(seconds)` moves this process's monotonic clock ahead, which its pauses and windows are counted by."""
    real, ahead = time.monotonic, [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: real() + ahead[0])
    return lambda seconds: ahead.__setitem__(0, ahead[0] + seconds)


@pytest.fixture
def small(tmp_path: Path) -> Iterator[purged.World]:
    """A trained system of 60 rows in three shards, whose requests are purged."""
    pq.write_table(purged.make_table(60), tmp_path / "train.parquet")
    with purged.world(tmp_path) as made:
        yield made
