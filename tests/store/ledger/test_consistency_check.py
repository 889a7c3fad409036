"""A ledger whose content was changed by something else is refused before anybody acts on it."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

import hybridmu
from hybridmu.errors import CorruptBlobError, DatabaseError
from tests.support import local_system, make_table


@pytest.fixture
def trained(tmp_path: Path) -> Iterator[hybridmu.System]:
    make_table(tmp_path / "train.parquet", 60)
    with local_system(tmp_path, sisa={"shards": 2, "slices": 2}) as system:
        system.train()
        system.forget(ids=[1, 2], wait=True)
        system.forget(ids=[3])
        system.close()
        yield system


def change(system: hybridmu.System, statement: str) -> None:
    with closing(sqlite3.connect(Path(system.site.storage.path("ledger.sqlite3")))) as connection, connection:
        assert connection.execute(statement).rowcount >= 1


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE needs SET upto = upto - 1",
        "DELETE FROM needs",
        "UPDATE version_shards SET removed_upto = removed_upto + 4 WHERE version = 2",
        "UPDATE version_shards SET blob = NULL",
        "UPDATE version_shards SET checkpoints = replace(checkpoints, 'a', 'b')",
        "UPDATE meta SET value = replace(value, ':', ';') WHERE key = 'identity'",
    ],
)
@pytest.mark.sampled
def test_a_changed_record_is_refused(trained: hybridmu.System, statement: str) -> None:
    change(trained, statement)
    with pytest.raises(DatabaseError, match="damaged"):
        trained.run(until_idle=True)
    assert trained.lease.holder() is None


@pytest.mark.slow
def test_a_table_under_another_name_is_refused(trained: hybridmu.System) -> None:
    with closing(sqlite3.connect(Path(trained.site.storage.path("ledger.sqlite3")))) as connection, connection:
        connection.execute("PRAGMA writable_schema = ON")
        connection.execute("UPDATE sqlite_master SET sql = replace(sql, 'exact_upto', 'exact_upTo_')")
    refuses(trained, "exact_upto")


def test_text_that_is_no_text_is_refused(trained: hybridmu.System) -> None:
    change(trained, "UPDATE meta SET value = CAST(x'7bff7d' AS TEXT) WHERE key = 'identity'")
    refuses(trained, "damaged")


def refuses(trained: hybridmu.System, why: str) -> None:
    with hybridmu.connect(trained.settings, executor="local") as system, pytest.raises(DatabaseError, match=why):
        system.status()


def test_a_damaged_journal_is_refused(trained: hybridmu.System) -> None:
    trained.site.storage.write("journal/state.json", b'{"version": 1')
    with pytest.raises(CorruptBlobError, match=r"journal/state\.json"):
        trained.run(until_idle=True)
