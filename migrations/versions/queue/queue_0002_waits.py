"""Runs in a row that found nothing to run in."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "queue_0002"
down_revision = "queue_0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("queue_lanes", sa.Column("waits", sa.Integer(), server_default="0", nullable=False))


def downgrade() -> None:
    with op.batch_alter_table("queue_lanes") as table:
        table.drop_column("waits")
