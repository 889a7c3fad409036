"""A ledger of its own for every test."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import Engine

from hybridmu.store.ledger import Ledger
from hybridmu.store.tables import connect


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    return connect(f"sqlite:///{tmp_path / 'deep' / 'ledger.sqlite3'}")


@pytest.fixture
def ledger(engine: Engine) -> Ledger:
    return Ledger(engine)
