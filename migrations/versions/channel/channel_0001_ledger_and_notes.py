"""A connector's delivery ledger and notes."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "channel_0001"
down_revision = None
branch_labels = ("channel",)
depends_on = None


def upgrade() -> None:
    op.create_table(
        "channel_inbox",
        sa.Column("message_id", sa.LargeBinary(length=16), nullable=False),
        sa.Column("seen_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("message_id", name=op.f("pk_channel_inbox")),
    )
    with op.batch_alter_table("channel_inbox") as table:
        table.create_index(table.f("ix_channel_inbox_seen_ms"), ["seen_ms"], unique=False)

    op.create_table(
        "channel_notes",
        sa.Column("kind", sa.String(length=50), nullable=False),
        sa.Column("key", sa.String(length=500), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.Column("changed_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("kind", "key", name=op.f("pk_channel_notes")),
    )
    with op.batch_alter_table("channel_notes") as table:
        table.create_index(table.f("ix_channel_notes_changed_ms"), ["changed_ms"], unique=False)

    op.create_table(
        "channel_outbox",
        sa.Column("number", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("cause", sa.LargeBinary(length=16), nullable=False, comment="message id of what caused it"),
        sa.Column("message_id", sa.LargeBinary(length=16), nullable=False),
        sa.Column("session_id", sa.String(length=200), nullable=False),
        sa.Column("device_id", sa.String(length=200), nullable=False),
        sa.Column("ts_ms", sa.BigInteger(), nullable=False),
        sa.Column("payload", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_channel_outbox")),
    )
    with op.batch_alter_table("channel_outbox") as table:
        table.create_index(table.f("ix_channel_outbox_cause"), ["cause"], unique=False)

    op.create_table(
        "channel_parts",
        sa.Column("reply_id", sa.LargeBinary(length=16), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("chat", sa.String(length=200), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.Column("reply_to", sa.String(length=200), nullable=False),
        sa.Column("state", sa.String(length=20), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("platform_id", sa.String(length=500), nullable=False),
        sa.Column("error", sa.Text(), nullable=False),
        sa.Column("changed_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("reply_id", "number", name=op.f("pk_channel_parts")),
    )
    with op.batch_alter_table("channel_parts") as table:
        table.create_index("ix_channel_parts_ours", ["chat", "platform_id"], unique=False)
        table.create_index("ix_channel_parts_state", ["state", "changed_ms"], unique=False)


def downgrade() -> None:
    for table in ("channel_parts", "channel_outbox", "channel_notes", "channel_inbox"):
        op.drop_table(table)
