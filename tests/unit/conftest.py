"""A ledger of its own for every test, on both kinds of database."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest
from sqlalchemy import Engine

from hybridmu.store.database import connect
from hybridmu.store.lease import Lease
from hybridmu.store.ledger import Ledger


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    made = connect(database_url, create=True)
    yield made
    made.dispose()


@pytest.fixture
def ledger(engine: Engine) -> Ledger:
    return Ledger(engine)


@pytest.fixture
def lease(engine: Engine) -> Lease:
    return Lease(engine)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """`clock(seconds)` sets the wall clock of this process so far ahead, or back, from what it shows."""
    real, ahead = time.time, [0.0]
    monkeypatch.setattr(time, "time", lambda: real() + ahead[0])
    return lambda seconds: ahead.__setitem__(0, ahead[0] + seconds)
