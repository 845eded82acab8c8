"""A script that decides before each run of a task whether the model is asked."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "scheduler_0002"
down_revision = "scheduler_0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("scheduler_tasks") as table:
        table.add_column(sa.Column("script", sa.Text(), nullable=False, server_default=sa.text("''")))


def downgrade() -> None:
    with op.batch_alter_table("scheduler_tasks") as table:
        table.drop_column("script")
