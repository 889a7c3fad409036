"""The migrations make the tables of `store/sql/tables.py`, on both kinds of database."""

from __future__ import annotations

import re

import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from hybridmu.store.sql import migrations
from hybridmu.store.sql.database import reader
from hybridmu.store.sql.tables import metadata


def test_a_migrated_database_has_the_tables_of_this_release(engine):
    with reader(engine).begin() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
        assert compare_metadata(context, metadata) == []
        assert migrations.revision(connection) == migrations.head()


def test_it_is_the_same_sqlite_file_as_made_at_once(ledger, engine, tmp_path):
    """Catches what a comparison of columns does not see, such as AUTOINCREMENT and the names of constraints."""
    if engine.dialect.name != "sqlite":
        return
    at_once = sa.create_engine(f"sqlite:///{tmp_path / 'at_once.sqlite3'}")
    metadata.create_all(at_once)
    assert schema(engine) == schema(at_once)
    at_once.dispose()


def schema(engine: sa.Engine) -> dict[str, str]:
    """Return the statement that made each table and index."""
    query = "SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL AND name NOT LIKE '%alembic%'"
    with engine.connect() as connection:
        return {name: re.sub(r'[\s"]+', "", sql) for name, sql in connection.exec_driver_sql(query).all()}


def test_the_head_is_found_by_file_name():
    scripts = ScriptDirectory.from_config(migrations.configuration())
    assert scripts.get_heads() == [migrations.head()]
    assert migrations.is_known(migrations.head())
    assert not migrations.is_known("9999")
