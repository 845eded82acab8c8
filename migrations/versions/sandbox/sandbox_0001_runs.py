"""Notes about runs."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "sandbox_0001"
down_revision = None
branch_labels = ("sandbox",)
depends_on = None


def upgrade() -> None:
    op.create_table(
        "sandbox_runs",
        sa.Column("run_id", sa.String(length=200), nullable=False),
        sa.Column("noted_ms", sa.BigInteger(), nullable=False),
        sa.Column("visible_ms", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("run_id", name=op.f("pk_sandbox_runs")),
    )
    with op.batch_alter_table("sandbox_runs") as table:
        table.create_index(table.f("ix_sandbox_runs_noted_ms"), ["noted_ms"], unique=False)


def downgrade() -> None:
    with op.batch_alter_table("sandbox_runs") as table:
        table.drop_index(table.f("ix_sandbox_runs_noted_ms"))

    op.drop_table("sandbox_runs")
