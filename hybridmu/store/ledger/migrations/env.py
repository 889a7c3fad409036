"""Alembic's entry: runs inside the connection and transaction that the caller hands over."""

from __future__ import annotations

from alembic import context

from hybridmu.store.ledger.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    compare_type=True,
    render_as_batch=True,  # SQLite can't alter most things of a table; a batch makes it again
)
with context.begin_transaction():
    context.run_migrations()
