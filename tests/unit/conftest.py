"""A ledger of its own for every test, on both kinds of database."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pyarrow.parquet as pq
import pytest
from sqlalchemy import Engine

from hybridmu.store.ledger.engine.opening import connect
from hybridmu.store.ledger.lease import Lease
from hybridmu.store.ledger.ledger import Ledger
from hybridmu.store.ledger.progress import Progress
from tests.unit import purged


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
    monkeypatch.setattr("hybridmu.runtime.coordinator.purger.time", clock)
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
