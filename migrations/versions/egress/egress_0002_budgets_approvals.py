"""Budgets set by hand, approvals, notices to the owner."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "egress_0002"
down_revision = "egress_0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "egress_budgets",
        sa.Column("group_folder", sa.String(200), nullable=False, comment="'' = all groups together"),
        sa.Column("tokens_per_day", sa.BigInteger, nullable=True, comment="0 = no limit; NULL = as configured"),
        sa.Column("micros_per_day", sa.BigInteger, nullable=True, comment="0 = no limit; NULL = as configured"),
        sa.PrimaryKeyConstraint("group_folder", name="pk_egress_budgets"),
    )
    op.create_table(
        "egress_approvals",
        sa.Column("code", sa.String(8), nullable=False),
        sa.Column("kind", sa.String(20), nullable=False, comment="host | message | task"),
        sa.Column("group_folder", sa.String(200), nullable=False),
        sa.Column("target", sa.Text, nullable=False, comment="host:port, or a chat"),
        sa.Column("detail", sa.Text, nullable=False, comment="the rest of what would be done"),
        sa.Column("hash", sa.LargeBinary(32), nullable=False, comment="over the four before it"),
        sa.Column("state", sa.String(10), nullable=False, comment="pending | once | always | used | denied | revoked"),
        sa.Column("asked_ms", sa.BigInteger, nullable=False),
        sa.Column("expires_ms", sa.BigInteger, nullable=False),
        sa.Column("answered_ms", sa.BigInteger, nullable=True),
        sa.Column("answered_by", sa.String(200), nullable=False),
        sa.Column("used_by", sa.String(200), nullable=False, comment="which doing of it used a yes for once"),
        sa.PrimaryKeyConstraint("code", name="pk_egress_approvals"),
    )
    op.create_index("ix_egress_approvals_hash", "egress_approvals", ["hash"])
    op.create_index("ix_egress_approvals_state", "egress_approvals", ["state", "group_folder"])
    op.create_table(
        "egress_notices",
        sa.Column("name", sa.String(200), nullable=False, comment="what it is about; said once"),
        sa.Column("text", sa.Text, nullable=False),
        sa.Column("made_ms", sa.BigInteger, nullable=False),
        sa.Column("told", sa.Boolean, nullable=False, comment="the bus has it"),
        sa.PrimaryKeyConstraint("name", name="pk_egress_notices"),
    )


def downgrade() -> None:
    for table in ("egress_notices", "egress_approvals", "egress_budgets"):
        op.drop_table(table)
