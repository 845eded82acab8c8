"""Whether a message is the own word of somebody whom the owner trusts."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "router_0006"
down_revision = "router_0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "router_messages", sa.Column("is_trusted", sa.Boolean(), nullable=False, server_default=sa.false())
    )


def downgrade() -> None:
    # Not by making the table anew: the triggers of its index would be gone.
    op.execute("ALTER TABLE router_messages DROP COLUMN is_trusted")
