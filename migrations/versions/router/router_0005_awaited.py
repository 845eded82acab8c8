"""Chats where an agent waits for an answer."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "router_0005"
down_revision = "router_0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "router_awaited",
        sa.Column("chat", sa.String(length=200), nullable=False),
        sa.Column("expires_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("chat", name=op.f("pk_router_awaited")),
    )


def downgrade() -> None:
    op.drop_table("router_awaited")
