"""The seals of the lake's files."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Bring the tables of the revision before to this one; there is no way back but a backup."""
    op.create_table(
        "seals",
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("seal", sa.String(length=64), nullable=True),
        sa.Column("next", sa.String(length=64), nullable=True),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_seals")),
    )
