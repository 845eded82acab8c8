"""Tasks, their fires, answered commands."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "scheduler_0001"
down_revision = None
branch_labels = ("scheduler",)
depends_on = None


def upgrade() -> None:
    op.create_table(
        "scheduler_commands",
        sa.Column("command_id", sa.String(length=200), nullable=False),
        sa.Column("answer", sa.LargeBinary(), nullable=False),
        sa.Column("at_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("command_id", name=op.f("pk_scheduler_commands")),
    )
    with op.batch_alter_table("scheduler_commands") as table:
        table.create_index(table.f("ix_scheduler_commands_at_ms"), ["at_ms"], unique=False)

    op.create_table(
        "scheduler_inbox",
        sa.Column("message_id", sa.LargeBinary(length=16), nullable=False),
        sa.Column("seen_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("message_id", name=op.f("pk_scheduler_inbox")),
    )
    with op.batch_alter_table("scheduler_inbox") as table:
        table.create_index(table.f("ix_scheduler_inbox_seen_ms"), ["seen_ms"], unique=False)

    op.create_table(
        "scheduler_outbox",
        sa.Column("number", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("cause", sa.LargeBinary(length=16), nullable=False, comment="message id of what caused it"),
        sa.Column("message_id", sa.LargeBinary(length=16), nullable=False),
        sa.Column("session_id", sa.String(length=200), nullable=False),
        sa.Column("device_id", sa.String(length=200), nullable=False),
        sa.Column("ts_ms", sa.BigInteger(), nullable=False),
        sa.Column("payload", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_scheduler_outbox")),
    )
    with op.batch_alter_table("scheduler_outbox") as table:
        table.create_index(table.f("ix_scheduler_outbox_cause"), ["cause"], unique=False)

    op.create_table(
        "scheduler_tasks",
        sa.Column("id", sa.String(length=60), nullable=False),
        sa.Column("folder", sa.String(length=200), nullable=False),
        sa.Column("chat", sa.String(length=200), nullable=False),
        sa.Column("is_main", sa.Boolean(), nullable=False),
        sa.Column("prompt", sa.Text(), nullable=False),
        sa.Column("schedule", sa.String(length=20), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.Column("timezone", sa.String(length=100), nullable=False),
        sa.Column("context", sa.String(length=20), nullable=False),
        sa.Column("catch_up", sa.String(length=20), nullable=False),
        sa.Column("status", sa.String(length=20), nullable=False),
        sa.Column("next_run_ms", sa.BigInteger(), nullable=True),
        sa.Column("last_run_ms", sa.BigInteger(), nullable=True),
        sa.Column("last_result", sa.Text(), nullable=False),
        sa.Column("last_ok", sa.Boolean(), nullable=True),
        sa.Column("created_ms", sa.BigInteger(), nullable=False),
        sa.Column("open_run", sa.String(length=40), nullable=False),
        sa.Column("open_until_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_scheduler_tasks")),
    )
    with op.batch_alter_table("scheduler_tasks") as table:
        table.create_index(table.f("ix_scheduler_tasks_folder"), ["folder"], unique=False)
        table.create_index(
            table.f("ix_scheduler_tasks_status_next_run_ms_id"), ["status", "next_run_ms", "id"], unique=False,
        )

    op.create_table(
        "scheduler_fires",
        sa.Column("task_id", sa.String(length=60), nullable=False),
        sa.Column("due_ms", sa.BigInteger(), nullable=False),
        sa.Column("run_id", sa.String(length=40), nullable=False),
        sa.Column("fired_ms", sa.BigInteger(), nullable=False),
        sa.Column("ended_ms", sa.BigInteger(), nullable=True),
        sa.Column("status", sa.String(length=20), nullable=False),
        sa.Column("result", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["task_id"], ["scheduler_tasks.id"], name=op.f("fk_scheduler_fires_task_id"), ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("task_id", "due_ms", name=op.f("pk_scheduler_fires")),
        sa.UniqueConstraint("run_id", name=op.f("uq_scheduler_fires_run_id")),
    )
    with op.batch_alter_table("scheduler_fires") as table:
        table.create_index(table.f("ix_scheduler_fires_ended_ms"), ["ended_ms"], unique=False)



def downgrade() -> None:
    with op.batch_alter_table("scheduler_fires") as table:
        table.drop_index(table.f("ix_scheduler_fires_ended_ms"))

    op.drop_table("scheduler_fires")
    with op.batch_alter_table("scheduler_tasks") as table:
        table.drop_index(table.f("ix_scheduler_tasks_status_next_run_ms_id"))
        table.drop_index(table.f("ix_scheduler_tasks_folder"))

    op.drop_table("scheduler_tasks")
    with op.batch_alter_table("scheduler_outbox") as table:
        table.drop_index(table.f("ix_scheduler_outbox_cause"))

    op.drop_table("scheduler_outbox")
    with op.batch_alter_table("scheduler_inbox") as table:
        table.drop_index(table.f("ix_scheduler_inbox_seen_ms"))

    op.drop_table("scheduler_inbox")
    with op.batch_alter_table("scheduler_commands") as table:
        table.drop_index(table.f("ix_scheduler_commands_at_ms"))

    op.drop_table("scheduler_commands")
