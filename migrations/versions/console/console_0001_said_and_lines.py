"""What was typed, and the delivery ledger."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "console_0001"
down_revision = None
branch_labels = ("console",)
depends_on = None


def upgrade() -> None:
    op.create_table(
        "console_inbox",
        sa.Column("message_id", sa.LargeBinary(length=16), nullable=False),
        sa.Column("seen_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("message_id", name=op.f("pk_console_inbox")),
    )
    with op.batch_alter_table("console_inbox") as table:
        table.create_index(table.f("ix_console_inbox_seen_ms"), ["seen_ms"], unique=False)

    op.create_table(
        "console_lines",
        sa.Column("reply_id", sa.LargeBinary(length=16), nullable=False),
        sa.Column("chat", sa.String(length=200), nullable=False),
        sa.Column("number", sa.Integer(), nullable=True),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("origin", sa.String(length=20), nullable=False),
        sa.Column("status", sa.String(length=20), nullable=False),
        sa.Column("done_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("reply_id", name=op.f("pk_console_lines")),
        sa.UniqueConstraint("chat", "number", name=op.f("uq_console_lines_chat_number")),
    )
    with op.batch_alter_table("console_lines") as table:
        table.create_index(table.f("ix_console_lines_done_ms"), ["done_ms"], unique=False)

    op.create_table(
        "console_outbox",
        sa.Column("number", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("cause", sa.LargeBinary(length=16), nullable=False, comment="message id of what caused it"),
        sa.Column("message_id", sa.LargeBinary(length=16), nullable=False),
        sa.Column("session_id", sa.String(length=200), nullable=False),
        sa.Column("device_id", sa.String(length=200), nullable=False),
        sa.Column("ts_ms", sa.BigInteger(), nullable=False),
        sa.Column("payload", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_console_outbox")),
    )
    with op.batch_alter_table("console_outbox") as table:
        table.create_index(table.f("ix_console_outbox_cause"), ["cause"], unique=False)

    op.create_table(
        "console_said",
        sa.Column("chat", sa.String(length=200), nullable=False),
        sa.Column("platform_id", sa.String(length=200), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("sender", sa.Text(), nullable=False),
        sa.Column("sender_name", sa.Text(), nullable=False),
        sa.Column("sent_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("chat", "platform_id", name=op.f("pk_console_said")),
    )
    with op.batch_alter_table("console_said") as table:
        table.create_index(table.f("ix_console_said_sent_ms"), ["sent_ms"], unique=False)


def downgrade() -> None:
    with op.batch_alter_table("console_said") as table:
        table.drop_index(table.f("ix_console_said_sent_ms"))

    op.drop_table("console_said")
    with op.batch_alter_table("console_outbox") as table:
        table.drop_index(table.f("ix_console_outbox_cause"))

    op.drop_table("console_outbox")
    with op.batch_alter_table("console_lines") as table:
        table.drop_index(table.f("ix_console_lines_done_ms"))

    op.drop_table("console_lines")
    with op.batch_alter_table("console_inbox") as table:
        table.drop_index(table.f("ix_console_inbox_seen_ms"))

    op.drop_table("console_inbox")
