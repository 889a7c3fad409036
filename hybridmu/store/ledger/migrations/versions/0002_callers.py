"""Requests of their own for every caller, keyed idempotency, and lists that are read from an index."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Bring the tables of the revision before to this one; there is no way back but a backup.

    Idempotency keys are dropped: their hashes were made without a secret and name what was asked, and can't be made
    again without the keys themselves. A key from before is a new one.
    """
    op.drop_table("idempotency")
    op.create_table(
        "idempotency",
        sa.Column("key", sa.LargeBinary(length=32), nullable=False),
        sa.Column("key_id", sa.String(length=16), nullable=False),
        sa.Column("payload", sa.LargeBinary(length=32), nullable=True),
        sa.Column("request_id", sa.String(length=40), nullable=False),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_idempotency")),
    )
    op.create_index(op.f("ix_idempotency_key_id"), "idempotency", ["key_id"], unique=False)
    op.create_index(op.f("ix_idempotency_request_id"), "idempotency", ["request_id"], unique=False)
    op.create_table(
        "reliances",
        sa.Column("request_id", sa.String(length=40), nullable=False),
        sa.Column("earlier", sa.String(length=40), nullable=False),
        sa.Column("waits", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("request_id", "earlier", name=op.f("pk_reliances")),
    )
    op.create_index(op.f("ix_reliances_earlier"), "reliances", ["earlier"], unique=False)
    op.create_table(
        "named",
        sa.Column("request_id", sa.String(length=40), nullable=False),
        sa.Column("mac", sa.LargeBinary(length=32), nullable=False),
        sa.PrimaryKeyConstraint("request_id", "mac", name=op.f("pk_named")),
    )
    op.create_index(op.f("ix_named_mac"), "named", ["mac"], unique=False)
    op.create_table(
        "claims",
        sa.Column("request_id", sa.String(length=40), nullable=False),
        sa.Column("document", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("request_id", name=op.f("pk_claims")),
    )
    _begin_what_is_relied_on()
    with op.batch_alter_table("requests", schema=None) as batch_op:
        batch_op.drop_index(op.f("ix_requests_caller"))
        batch_op.drop_index(op.f("ix_requests_state"))
        batch_op.drop_column("joined")
        batch_op.add_column(sa.Column("hastened_at", sa.Float(), nullable=True))
    for columns in (["state", "seq"], ["caller", "seq"], ["caller", "state", "seq"], ["caller", "received_at"]):
        op.create_index(op.f(f"ix_requests_{'_'.join(columns)}"), "requests", columns, unique=False)


def _begin_what_is_relied_on() -> None:
    """Let what another request relies on be begun, as it could not be cancelled; note what waits for whose rows."""
    op.execute(
        "UPDATE requests SET state = 'PLANNED', planned_at = COALESCE(planned_at, received_at) "
        "WHERE joined AND state = 'RECEIVED'"
    )
    # A request that revoked nothing waits for others' tombstones; which of a shard it asked for, nobody knows any more.
    op.execute(
        "INSERT INTO reliances (request_id, earlier, waits) SELECT DISTINCT n.request_id, s.request_id, TRUE "
        "FROM requests r JOIN needs n ON n.request_id = r.request_id "
        "JOIN tombstones s ON s.shard = n.shard AND s.seq <= n.upto AND s.key IS NOT NULL "
        "WHERE r.keys = 0 AND r.state NOT IN ('PURGED', 'CANCELLED') AND s.request_id <> r.request_id"
    )
