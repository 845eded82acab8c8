"""Tasks whose run waits for something to run in."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "scheduler_0003"
down_revision = "scheduler_0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("scheduler_tasks", sa.Column("open_waits", sa.Boolean(), server_default=sa.false(), nullable=False))


def downgrade() -> None:
    with op.batch_alter_table("scheduler_tasks") as table:
        table.drop_column("open_waits")
