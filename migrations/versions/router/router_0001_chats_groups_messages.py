"""Chats, groups, messages, answered commands."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "router_0001"
down_revision = None
branch_labels = ("router",)
depends_on = None


def upgrade() -> None:
    op.create_table(
        "router_chats",
        sa.Column("chat", sa.String(length=200), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("last_message_ms", sa.BigInteger(), nullable=False),
        sa.Column("is_group", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("chat", name=op.f("pk_router_chats")),
    )
    op.create_table(
        "router_commands",
        sa.Column("command_id", sa.String(length=200), nullable=False),
        sa.Column("answer", sa.LargeBinary(), nullable=False),
        sa.Column("done_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("command_id", name=op.f("pk_router_commands")),
    )
    with op.batch_alter_table("router_commands") as table:
        table.create_index(table.f("ix_router_commands_done_ms"), ["done_ms"], unique=False)

    op.create_table(
        "router_groups",
        sa.Column("chat", sa.String(length=200), nullable=False),
        sa.Column("folder", sa.String(length=64), nullable=False),
        sa.Column("folder_key", sa.String(length=64), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("trigger", sa.Text(), nullable=False),
        sa.Column("requires_trigger", sa.Boolean(), nullable=False),
        sa.Column("is_main", sa.Boolean(), nullable=False),
        sa.Column("added_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("chat", name=op.f("pk_router_groups")),
        sa.UniqueConstraint("folder_key", name=op.f("uq_router_groups_folder_key")),
    )
    op.create_table(
        "router_inbox",
        sa.Column("message_id", sa.LargeBinary(length=16), nullable=False),
        sa.Column("seen_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("message_id", name=op.f("pk_router_inbox")),
    )
    with op.batch_alter_table("router_inbox") as table:
        table.create_index(table.f("ix_router_inbox_seen_ms"), ["seen_ms"], unique=False)

    op.create_table(
        "router_messages",
        sa.Column("number", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("chat", sa.String(length=200), nullable=False),
        sa.Column("platform_id", sa.String(length=200), nullable=False),
        sa.Column("sender", sa.Text(), nullable=False),
        sa.Column("sender_name", sa.Text(), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("sent_ms", sa.BigInteger(), nullable=False),
        sa.Column("from_me", sa.Boolean(), nullable=False),
        sa.Column("is_own_reply", sa.Boolean(), nullable=False),
        sa.Column("quote", sa.LargeBinary(), nullable=False),
        sa.Column("attachments", sa.LargeBinary(), nullable=False),
        sa.Column("request_id", sa.LargeBinary(length=16), nullable=True),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_router_messages")),
        sa.UniqueConstraint("chat", "platform_id", name=op.f("uq_router_messages_chat_platform_id")),
    )
    with op.batch_alter_table("router_messages") as table:
        table.create_index("ix_router_messages_waiting", ["chat", "request_id", "number"], unique=False)

    op.create_table(
        "router_outbox",
        sa.Column("number", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("cause", sa.LargeBinary(length=16), nullable=False, comment="message id of what caused it"),
        sa.Column("message_id", sa.LargeBinary(length=16), nullable=False),
        sa.Column("session_id", sa.String(length=200), nullable=False),
        sa.Column("device_id", sa.String(length=200), nullable=False),
        sa.Column("ts_ms", sa.BigInteger(), nullable=False),
        sa.Column("payload", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_router_outbox")),
    )
    with op.batch_alter_table("router_outbox") as table:
        table.create_index(table.f("ix_router_outbox_cause"), ["cause"], unique=False)


def downgrade() -> None:
    with op.batch_alter_table("router_outbox") as table:
        table.drop_index(table.f("ix_router_outbox_cause"))

    op.drop_table("router_outbox")
    with op.batch_alter_table("router_messages") as table:
        table.drop_index("ix_router_messages_waiting")

    op.drop_table("router_messages")
    with op.batch_alter_table("router_inbox") as table:
        table.drop_index(table.f("ix_router_inbox_seen_ms"))

    op.drop_table("router_inbox")
    op.drop_table("router_groups")
    with op.batch_alter_table("router_commands") as table:
        table.drop_index(table.f("ix_router_commands_done_ms"))

    op.drop_table("router_commands")
    op.drop_table("router_chats")
