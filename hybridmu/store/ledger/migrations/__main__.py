"""Write the migration from the last revision to the tables: `python -m hybridmu.store.ledger.migrations NAME`."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import sqlalchemy as sa
from alembic import command

from hybridmu.store.ledger.migrations import configuration, head


def write(name: str) -> None:
    """Write `versions/NNNN_name.py`, found by comparing the tables with a database at the last revision."""
    with tempfile.TemporaryDirectory() as folder:
        engine = sa.create_engine(f"sqlite:///{Path(folder) / 'compared.sqlite3'}")
        with engine.begin() as connection:
            config = configuration()
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
            command.revision(config, message=name, autogenerate=True, rev_id=f"{int(head()) + 1:04d}")
        engine.dispose()


if __name__ == "__main__":
    write(sys.argv[1])
