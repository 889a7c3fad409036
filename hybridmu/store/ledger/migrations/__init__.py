"""Migrations from the tables of one release to those of the next (Alembic).

`versions/NNNN_name.py` are applied in order; the last one is the head. `connect(create=True)` runs them; in an empty
database it makes all tables at once, which a test compares with what the revisions make. After a change of
`tables.py`, `python -m hybridmu.store.ledger.migrations NAME` writes the next one, to be read and corrected.
Alembic is imported only where a script is read: an up-to-date database does without.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from hybridmu.errors import StateError
from hybridmu.store.ledger.tables import metadata

if TYPE_CHECKING:
    from alembic.config import Config

_FOLDER = Path(__file__).parent
# As Alembic makes it.
_VERSION = sa.Table(
    "alembic_version",
    sa.MetaData(),
    sa.Column("version_num", sa.String(32), nullable=False),
    sa.PrimaryKeyConstraint("version_num", name="alembic_version_pkc"),
)


@cache
def head() -> str:
    """Return the revision that this release's tables have."""
    return max((path.name[:4] for path in (_FOLDER / "versions").glob("[0-9]*.py")), default="0000")


def revision(connection: Connection) -> str | None:
    """Return the revision that a database has; None when it has none."""
    if not sa.inspect(connection).has_table("alembic_version"):
        return None
    found: str | None = connection.scalar(sa.text("SELECT version_num FROM alembic_version"))
    return found


def is_known(stored: str) -> bool:
    """Return whether this release has a revision."""
    from alembic.script import ScriptDirectory

    scripts = ScriptDirectory.from_config(configuration())
    return any(script.revision == stored for script in scripts.walk_revisions())


def upgrade(connection: Connection) -> None:
    """Bring the tables to the head, in the caller's write transaction.

    Args:
        connection: In a write transaction, so that a second process finds the work done.

    Raises:
        StateError: The database has tables that no revision made.
    """
    stored = revision(connection)
    if stored is None and (tables := sa.inspect(connection).get_table_names()):
        raise StateError(
            "the database is not empty, and its tables are not ours",
            expected="an empty database, or one that HybridMU made",
            got=", ".join(sorted(tables)[:5]),
            remedy="name another database_url (on PostgreSQL: create a database for HybridMU alone)",
        )
    if stored is None:
        metadata.create_all(connection)
        _VERSION.create(connection)
        connection.execute(_VERSION.insert().values(version_num=head()))
        return
    run(connection)


def run(connection: Connection, target: str = "head") -> None:
    """Apply revisions one after the other, in the caller's write transaction.

    Args:
        connection: In a write transaction.
        target: The last one.
    """
    from alembic import command

    config = configuration()
    config.attributes["connection"] = connection
    command.upgrade(config, target)


def configuration() -> Config:
    """Return Alembic's settings; there is no alembic.ini."""
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(_FOLDER).replace("%", "%%"))
    config.set_main_option("file_template", "%%(rev)s_%%(slug)s")
    return config
