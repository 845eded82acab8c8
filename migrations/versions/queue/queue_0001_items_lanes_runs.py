"""What groups have to do, where they stand, their runs."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "queue_0001"
down_revision = None
branch_labels = ("queue",)
depends_on = None


def upgrade() -> None:
    op.create_table(
        "queue_inbox",
        sa.Column("message_id", sa.LargeBinary(length=16), nullable=False),
        sa.Column("seen_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("message_id", name=op.f("pk_queue_inbox")),
    )
    with op.batch_alter_table("queue_inbox") as table:
        table.create_index(table.f("ix_queue_inbox_seen_ms"), ["seen_ms"], unique=False)

    op.create_table(
        "queue_items",
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("folder", sa.String(length=200), nullable=False),
        sa.Column("chat", sa.String(length=200), nullable=False),
        sa.Column("is_main", sa.Boolean(), nullable=False),
        sa.Column("payload", sa.LargeBinary(), nullable=False),
        sa.Column("task_id", sa.String(length=200), nullable=False),
        sa.Column("due_ms", sa.BigInteger(), nullable=False),
        sa.Column("run_id", sa.String(length=40), nullable=False),
        sa.Column("in_run", sa.Boolean(), nullable=False),
        sa.Column("at_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_queue_items")),
    )
    with op.batch_alter_table("queue_items") as table:
        table.create_index(table.f("ix_queue_items_folder"), ["folder"], unique=False)
        table.create_index(table.f("ix_queue_items_run_id"), ["run_id"], unique=False)

    op.create_table(
        "queue_lanes",
        sa.Column("folder", sa.String(length=200), nullable=False),
        sa.Column("wanted", sa.Boolean(), nullable=False),
        sa.Column("tries", sa.Integer(), nullable=False),
        sa.Column("retries", sa.Integer(), nullable=False),
        sa.Column("retry_ms", sa.BigInteger(), nullable=True),
        sa.Column("ticket", sa.Integer(), nullable=True),
        sa.Column("error", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("folder", name=op.f("pk_queue_lanes")),
    )
    op.create_table(
        "queue_outbox",
        sa.Column("number", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("cause", sa.LargeBinary(length=16), nullable=False, comment="message id of what caused it"),
        sa.Column("message_id", sa.LargeBinary(length=16), nullable=False),
        sa.Column("session_id", sa.String(length=200), nullable=False),
        sa.Column("device_id", sa.String(length=200), nullable=False),
        sa.Column("ts_ms", sa.BigInteger(), nullable=False),
        sa.Column("payload", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_queue_outbox")),
    )
    with op.batch_alter_table("queue_outbox") as table:
        table.create_index(table.f("ix_queue_outbox_cause"), ["cause"], unique=False)

    op.create_table(
        "queue_runs",
        sa.Column("run_id", sa.String(length=40), nullable=False),
        sa.Column("folder", sa.String(length=200), nullable=False),
        sa.Column("chat", sa.String(length=200), nullable=False),
        sa.Column("is_main", sa.Boolean(), nullable=False),
        sa.Column("task_id", sa.String(length=200), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(length=20), nullable=False),
        sa.Column("lost", sa.Boolean(), nullable=False),
        sa.Column("granted_ms", sa.BigInteger(), nullable=False),
        sa.Column("ended_ms", sa.BigInteger(), nullable=True),
        sa.Column("error", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("run_id", name=op.f("pk_queue_runs")),
    )
    with op.batch_alter_table("queue_runs") as table:
        table.create_index(table.f("ix_queue_runs_state_ended_ms"), ["state", "ended_ms"], unique=False)



def downgrade() -> None:
    with op.batch_alter_table("queue_runs") as table:
        table.drop_index(table.f("ix_queue_runs_state_ended_ms"))

    op.drop_table("queue_runs")
    with op.batch_alter_table("queue_outbox") as table:
        table.drop_index(table.f("ix_queue_outbox_cause"))

    op.drop_table("queue_outbox")
    op.drop_table("queue_lanes")
    with op.batch_alter_table("queue_items") as table:
        table.drop_index(table.f("ix_queue_items_run_id"))
        table.drop_index(table.f("ix_queue_items_folder"))

    op.drop_table("queue_items")
    with op.batch_alter_table("queue_inbox") as table:
        table.drop_index(table.f("ix_queue_inbox_seen_ms"))

    op.drop_table("queue_inbox")
