"""People, their codes and held messages; replies that did not arrive; groups that are woken late."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "router_0004"
down_revision = "router_0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "router_joined",
        sa.Column("chat", sa.String(length=200), nullable=False),
        sa.Column("folder", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("chat", name=op.f("pk_router_joined")),
    )
    op.create_table(
        "router_users",
        sa.Column("name", sa.String(length=40), nullable=False),
        sa.Column("role", sa.String(length=10), nullable=False),
        sa.Column("folder", sa.String(length=64), nullable=False),
        sa.Column("added_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_router_users")),
    )
    op.create_table(
        "router_senders",
        sa.Column("sender", sa.String(length=300), nullable=False),
        sa.Column("user", sa.String(length=40), nullable=False),
        sa.PrimaryKeyConstraint("sender", name=op.f("pk_router_senders")),
    )
    op.create_table(
        "router_pairings",
        sa.Column("code", sa.String(length=8), nullable=False),
        sa.Column("channel", sa.String(length=100), nullable=False),
        sa.Column("sender", sa.String(length=300), nullable=False),
        sa.Column("sender_name", sa.Text(), nullable=False),
        sa.Column("chat", sa.String(length=200), nullable=False),
        sa.Column("state", sa.String(length=10), nullable=False),
        sa.Column("asked_ms", sa.BigInteger(), nullable=False),
        sa.Column("expires_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("code", name=op.f("pk_router_pairings")),
    )
    op.create_table(
        "router_wrong_codes",
        sa.Column("number", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("channel", sa.String(length=100), nullable=False),
        sa.Column("tried_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_router_wrong_codes")),
    )
    op.create_table(
        "router_held",
        sa.Column("number", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("channel", sa.String(length=100), nullable=False),
        sa.Column("sender", sa.String(length=300), nullable=False),
        sa.Column("message", sa.LargeBinary(), nullable=False),
        sa.Column("held_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_router_held")),
    )
    op.create_table(
        "router_deliveries",
        sa.Column("reply_id", sa.String(length=36), nullable=False),
        sa.Column("chat", sa.String(length=200), nullable=False),
        sa.Column("state", sa.String(length=20), nullable=False),
        sa.Column("error", sa.Text(), nullable=False),
        sa.Column("done_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("reply_id", name=op.f("pk_router_deliveries")),
    )
    op.create_table(
        "router_late",
        sa.Column("chat", sa.String(length=200), nullable=False),
        sa.Column("cause", sa.LargeBinary(length=16), nullable=False),
        sa.Column("due_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("chat", name=op.f("pk_router_late")),
    )
    for table, column in _INDEXES:
        op.create_index(op.f(f"ix_{table}_{column}"), table, [column], unique=False)


def downgrade() -> None:
    for table, column in _INDEXES:
        op.drop_index(op.f(f"ix_{table}_{column}"), table_name=table)
    for name in ("late", "deliveries", "held", "wrong_codes", "pairings", "senders", "users", "joined"):
        op.drop_table(f"router_{name}")


_INDEXES = (
    ("router_joined", "folder"), ("router_senders", "user"), ("router_pairings", "sender"),
    ("router_held", "channel"), ("router_held", "sender"), ("router_deliveries", "done_ms"),
)
