"""Answers that privacy requests of Fides wait for."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Bring the tables of the revision before to this one; there is no way back but a backup."""
    op.create_table(
        "replies",
        sa.Column("name", sa.String(length=100), nullable=False),
        sa.Column("request_id", sa.String(length=40), nullable=False),
        sa.Column("path", sa.String(length=200), nullable=False),
        sa.Column("token", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("first_tried_at", sa.Float(), nullable=True),
        sa.Column("next_at", sa.Float(), nullable=False),
        sa.Column("problem", sa.String(length=80), nullable=True),
        sa.Column("dead_at", sa.Float(), nullable=True),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_replies")),
    )
    op.create_index(op.f("ix_replies_request_id"), "replies", ["request_id"], unique=False)
