"""Credentials that are lent to agents."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "egress_0003"
down_revision = "egress_0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "egress_bindings",
        sa.Column("name", sa.String(64), nullable=False, comment="of the secret"),
        sa.Column("host", sa.String(255), nullable=False, comment="exact"),
        sa.Column("port", sa.Integer, nullable=False, autoincrement=False),
        sa.Column("group_folder", sa.String(200), nullable=False, comment="'' = all groups"),
        sa.PrimaryKeyConstraint("name", "host", "port", "group_folder", name="pk_egress_bindings"),
    )


def downgrade() -> None:
    op.drop_table("egress_bindings")
