"""Digests of the forgotten for exclusion manifests."""

from __future__ import annotations

from typing import Literal

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Bring the tables of the revision before to this one; there is no way back but a backup.

    Entries from before have no digest: it can't be made without the raw id, which is gone.
    """
    # Written again, as a new database writes it: SQLite would put the column behind the constraints.
    recreate: Literal["always", "auto"] = "always" if op.get_bind().dialect.name == "sqlite" else "auto"
    with op.batch_alter_table("guard", schema=None, recreate=recreate) as batch_op:
        batch_op.add_column(sa.Column("listed", sa.LargeBinary(length=32), nullable=True))
