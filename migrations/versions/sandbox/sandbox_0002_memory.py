"""What agents remember, and where each line of it came from."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "sandbox_0002"
down_revision = "sandbox_0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "sandbox_memory_folders",
        sa.Column("folder", sa.String(length=64), nullable=False),
        sa.Column("group_folder", sa.String(length=64), nullable=False),
        sa.Column("is_main", sa.Boolean(), nullable=False),
        sa.Column("is_awake", sa.Boolean(), nullable=False),
        sa.Column("audit_number", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("folder", name=op.f("pk_sandbox_memory_folders")),
    )
    op.create_table(
        "sandbox_memory_sources",
        sa.Column("folder", sa.String(length=64), nullable=False),
        sa.Column("scope", sa.String(length=100), nullable=False),
        sa.Column("source", sa.String(length=200), nullable=False),
        sa.Column("is_trusted", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint(
            "folder", "scope", "source", "is_trusted", name=op.f("pk_sandbox_memory_sources")
        ),
    )
    op.create_table(
        "sandbox_memory_files",
        sa.Column("folder", sa.String(length=64), nullable=False),
        sa.Column("name", sa.String(length=100), nullable=False),
        sa.Column("content", sa.LargeBinary(), nullable=True),
        sa.Column("origins", sa.LargeBinary(), nullable=False),
        sa.Column("is_behind", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("folder", "name", name=op.f("pk_sandbox_memory_files")),
    )
    op.create_table(
        "sandbox_memory_tasks",
        sa.Column("task_id", sa.String(length=200), nullable=False),
        sa.PrimaryKeyConstraint("task_id", name=op.f("pk_sandbox_memory_tasks")),
    )
    op.create_table(
        "sandbox_memory_changes",
        sa.Column("number", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("folder", sa.String(length=64), nullable=False),
        sa.Column("name", sa.String(length=100), nullable=False),
        sa.Column("state", sa.String(length=10), nullable=False),
        sa.Column("run_id", sa.String(length=200), nullable=False),
        sa.Column("sources", sa.LargeBinary(), nullable=False),
        sa.Column("made_ms", sa.BigInteger(), nullable=False),
        sa.Column("content", sa.LargeBinary(), nullable=True),
        sa.Column("base", sa.LargeBinary(), nullable=False),
        sa.Column("code", sa.String(length=8), nullable=False),
        sa.Column("is_expired", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_sandbox_memory_changes")),
    )
    for column in ("folder", "state"):
        op.create_index(op.f(f"ix_sandbox_memory_changes_{column}"), "sandbox_memory_changes", [column], unique=False)


def downgrade() -> None:
    for column in ("folder", "state"):
        op.drop_index(op.f(f"ix_sandbox_memory_changes_{column}"), table_name="sandbox_memory_changes")
    for name in ("changes", "tasks", "files", "sources", "folders"):
        op.drop_table(f"sandbox_memory_{name}")
