"""The models that were chosen in chats, and the restart that is under way."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "router_0007"
down_revision = "router_0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "router_models",
        sa.Column("folder", sa.String(length=64), nullable=False),
        sa.Column("model", sa.String(length=200), nullable=False),
        sa.PrimaryKeyConstraint("folder", name=op.f("pk_router_models")),
    )
    op.create_table(
        "router_restarts",
        sa.Column("cause", sa.LargeBinary(length=16), nullable=False),
        sa.Column("chat", sa.String(length=200), nullable=False),
        sa.Column("asked_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("cause", name=op.f("pk_router_restarts")),
    )


def downgrade() -> None:
    op.drop_table("router_restarts")
    op.drop_table("router_models")
