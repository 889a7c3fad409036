"""A ledger of its own for every test, on both kinds of database."""

from __future__ import annotations

from collections.abc import Iterator

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
