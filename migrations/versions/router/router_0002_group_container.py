"""A group's own time-out and extra folders."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "router_0002"
down_revision = "router_0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("router_groups") as table:
        table.add_column(sa.Column("container", sa.Text(), nullable=False, server_default="{}"))


def downgrade() -> None:
    with op.batch_alter_table("router_groups") as table:
        table.drop_column("container")
