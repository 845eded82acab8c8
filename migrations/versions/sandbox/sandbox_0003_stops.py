"""The owner's last `/stop` in each group, until a later run comes."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "sandbox_0003"
down_revision = "sandbox_0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "sandbox_stops",
        sa.Column("folder", sa.String(length=64), nullable=False),
        sa.Column("stopped_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("folder", name=op.f("pk_sandbox_stops")),
    )


def downgrade() -> None:
    op.drop_table("sandbox_stops")
