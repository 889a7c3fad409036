"""The quality of versions."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Bring the tables of the revision before to this one; there is no way back but a backup."""
    op.create_table(
        "evaluations",
        sa.Column("version", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("evaluated_at", sa.Float(), nullable=False),
        sa.Column("seconds", sa.Float(), nullable=False),
        sa.Column("document", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("version", name=op.f("pk_evaluations")),
    )
