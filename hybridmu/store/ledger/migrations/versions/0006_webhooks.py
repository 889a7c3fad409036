"""Receivers of webhooks, and what they have still to be told."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Bring the tables of the revision before to this one; there is no way back but a backup."""
    op.create_table(
        "webhook_receivers",
        sa.Column("name", sa.String(length=40), nullable=False),
        sa.Column("events", sa.String(length=200), nullable=False),
        sa.Column("added_at", sa.Float(), nullable=False),
        sa.Column("removed_at", sa.Float(), nullable=True),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_webhook_receivers")),
    )
    op.create_table(
        "webhook_events",
        sa.Column("seq", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("receiver", sa.String(length=40), nullable=False),
        sa.Column("request_id", sa.String(length=40), nullable=False),
        sa.Column("event", sa.String(length=16), nullable=False),
        sa.Column("message_id", sa.String(length=40), nullable=False),
        sa.Column("document", sa.Text(), nullable=False),
        sa.Column("occurred_at", sa.Float(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("first_tried_at", sa.Float(), nullable=True),
        sa.Column("next_at", sa.Float(), nullable=False),
        sa.Column("problem", sa.String(length=80), nullable=True),
        sa.Column("dead_at", sa.Float(), nullable=True),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_webhook_events")),
        sqlite_autoincrement=True,
    )
    for columns in (["receiver", "request_id", "seq"], ["receiver", "dead_at", "next_at"]):
        op.create_index(op.f(f"ix_webhook_events_{'_'.join(columns)}"), "webhook_events", columns, unique=False)
    op.create_table(
        "overdue",
        sa.Column("request_id", sa.String(length=40), nullable=False),
        sa.Column("told_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("request_id", name=op.f("pk_overdue")),
    )
