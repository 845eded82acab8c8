"""Doors, rules, usage, audit."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "egress_0001"
down_revision = None
branch_labels = ("egress",)
depends_on = None


def upgrade() -> None:
    op.create_table(
        "egress_doors",
        sa.Column("worker_id", sa.String(40), nullable=False),
        sa.Column("group_folder", sa.String(200), nullable=False),
        sa.Column("opened_ms", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("worker_id", name="pk_egress_doors"),
    )
    op.create_table(
        "egress_rules",
        sa.Column("group_folder", sa.String(200), nullable=False, comment="'' = all groups"),
        sa.Column("host", sa.String(255), nullable=False, comment="exact, or *.suffix"),
        sa.Column("port", sa.Integer, autoincrement=False, nullable=False),
        sa.Column("verdict", sa.String(5), nullable=False, comment="allow | deny"),
        sa.Column("added_ms", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("group_folder", "host", "port", name="pk_egress_rules"),
    )
    op.create_table(
        "egress_usage",
        sa.Column("day", sa.String(10), nullable=False, comment="YYYY-MM-DD in the owner's time zone"),
        sa.Column("group_folder", sa.String(200), nullable=False),
        sa.Column("model", sa.String(200), nullable=False),
        sa.Column("calls", sa.Integer, nullable=False),
        sa.Column("unknown_calls", sa.Integer, nullable=False, comment="answers that said nothing of their tokens"),
        sa.Column("input_tokens", sa.BigInteger, nullable=False),
        sa.Column("output_tokens", sa.BigInteger, nullable=False),
        sa.Column("cache_read_tokens", sa.BigInteger, nullable=False),
        sa.Column("cache_write_tokens", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("day", "group_folder", "model", name="pk_egress_usage"),
    )
    op.create_table(
        "egress_audit",
        sa.Column("number", sa.BigInteger, autoincrement=False, nullable=False, comment="from 1, dense"),
        sa.Column("ts_ms", sa.BigInteger, nullable=False),
        sa.Column("actor", sa.String(200), nullable=False),
        sa.Column("action", sa.String(200), nullable=False),
        sa.Column("subject", sa.Text, nullable=False),
        sa.Column("outcome", sa.String(40), nullable=False),
        sa.Column("detail", sa.Text, nullable=False),
        sa.Column("cause", sa.LargeBinary(16), nullable=True, comment="message id, where an envelope brought it"),
        sa.Column("hash", sa.LargeBinary(32), nullable=False, comment="over the hash before it and all of the above"),
        sa.PrimaryKeyConstraint("number", name="pk_egress_audit"),
        sa.UniqueConstraint("cause", name="uq_egress_audit_cause"),
    )


def downgrade() -> None:
    for table in ("egress_audit", "egress_usage", "egress_rules", "egress_doors"):
        op.drop_table(table)
