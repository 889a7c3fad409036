"""The migrations make the tables of `store/ledger/tables.py`, on both kinds of database."""

from __future__ import annotations

import re

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from hybridmu.store.ledger import migrations
from hybridmu.store.ledger.engine.opening import connect
from hybridmu.store.ledger.engine.transactions import reader
from hybridmu.store.ledger.ledger import Ledger
from hybridmu.store.ledger.tables import metadata
from tests.support import rows_of


@pytest.fixture
def migrated(engine):
    """Return a database whose tables the revisions made, one after the other."""
    with engine.begin() as connection:
        metadata.drop_all(connection)
        connection.exec_driver_sql("DROP TABLE alembic_version")
        migrations.run(connection)
    return engine


def test_a_migrated_database_has_the_tables_of_this_release(migrated):
    assert_current(migrated)


def test_a_new_database_has_the_tables_of_this_release(engine):
    assert_current(engine)


def assert_current(engine: sa.Engine) -> None:
    with reader(engine).begin() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
        assert compare_metadata(context, metadata) == []
        assert migrations.revision(connection) == migrations.head()


def test_it_is_the_same_sqlite_file_as_made_at_once(migrated, tmp_path):
    """Catches what a comparison of columns does not see, such as AUTOINCREMENT and the names of constraints."""
    if migrated.dialect.name != "sqlite":
        return
    at_once = connect(f"sqlite:///{tmp_path / 'at_once.sqlite3'}", create=True)
    assert schema(migrated) == schema(at_once)
    at_once.dispose()


def schema(engine: sa.Engine) -> dict[str, str]:
    """Return the statement that made each table and index."""
    query = "SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite_%'"
    with engine.connect() as connection:
        return {name: re.sub(r'[\s"]+', "", sql) for name, sql in connection.exec_driver_sql(query).all()}


def test_the_head_is_found_by_file_name():
    scripts = ScriptDirectory.from_config(migrations.configuration())
    assert scripts.get_heads() == [migrations.head()]
    assert migrations.is_known(migrations.head())
    assert not migrations.is_known("9999")


def test_an_older_ledger_loses_what_names_the_forgotten_and_nothing_else(tmp_path):
    """Idempotency keys were hashed without a secret; what another caller was pointed to could not be cancelled."""
    url = f"sqlite:///{tmp_path / 'ledger.sqlite3'}"
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        config = migrations.configuration()
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
        for name, keys, joined in (("r-1", 1, True), ("r-2", 1, False), ("r-3", 0, False)):
            connection.exec_driver_sql(
                "INSERT INTO requests (request_id, state, strategy, caller, keys, already_forgotten, ignored_unknown, "
                f"received_at, joined) VALUES ('{name}', 'RECEIVED', 'auto', 'a', {keys}, 0, 0, 1.0, {joined})"
            )
        connection.exec_driver_sql("INSERT INTO idempotency (key, payload, request_id) VALUES ('k', 'p', 'r-1')")
        stone = sa.text(
            "INSERT INTO tombstones (request_id, kind, key, shard, slice, rows) VALUES (:r, 'id', :k, 0, 1, 1)"
        )
        connection.execute(stone, [{"r": "r-1", "k": b"1" * 16}, {"r": "r-2", "k": b"2" * 16}])
        connection.exec_driver_sql("INSERT INTO needs (request_id, shard, upto) VALUES ('r-3', 0, 1)")
    engine.dispose()
    engine = connect(url, create=True)
    ledger = Ledger(engine)
    assert [(r.request_id, str(r.state), r.planned_at) for r in ledger.requests()] == [
        ("r-1", "PLANNED", 1.0), ("r-2", "RECEIVED", None), ("r-3", "RECEIVED", None)
    ]  # fmt: skip
    assert rows_of(engine, metadata.tables["idempotency"]) == []
    assert ledger.relies_on("r-3") == {"r-1": None}
    assert len(ledger.tombstones()[0]) == 2
    engine.dispose()
