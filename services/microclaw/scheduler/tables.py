"""What the scheduler keeps: tasks, their fires (which are the run log), and answered commands."""

from __future__ import annotations

from sqlalchemy import BigInteger, Boolean, Column, ForeignKey, Index, LargeBinary, String, Table, Text, false, text

from microclaw.store.outbox import outbox_tables
from microclaw.store.schema import new_metadata

metadata = new_metadata()

#: Tasks (`core.tasks.Task`).
tasks = Table(
    "scheduler_tasks", metadata,
    Column("id", String(60), primary_key=True),
    Column("folder", String(200), nullable=False, index=True),
    Column("chat", String(200), nullable=False),
    Column("is_main", Boolean, nullable=False),
    Column("prompt", Text, nullable=False),
    Column("schedule", String(20), nullable=False),
    Column("value", Text, nullable=False),
    Column("timezone", String(100), nullable=False),
    Column("context", String(20), nullable=False),
    Column("catch_up", String(20), nullable=False),
    Column("script", Text, nullable=False, server_default=text("''")),
    Column("status", String(20), nullable=False),
    Column("next_run_ms", BigInteger, nullable=True),
    Column("last_run_ms", BigInteger, nullable=True),
    Column("last_result", Text, nullable=False),
    Column("last_ok", Boolean, nullable=True),
    Column("created_ms", BigInteger, nullable=False),
    Column("open_run", String(40), nullable=False),
    Column("open_until_ms", BigInteger, nullable=False),
    Column("open_waits", Boolean, nullable=False, server_default=false()),
    Index(None, "status", "next_run_ms", "id"),
)

#: One row for each due time that was fired or refused: a second fire of it can't be.
fires = Table(
    "scheduler_fires", metadata,
    Column("task_id", String(60), ForeignKey("scheduler_tasks.id", ondelete="CASCADE"), primary_key=True),
    Column("due_ms", BigInteger, primary_key=True),
    Column("run_id", String(40), nullable=False, unique=True),
    Column("fired_ms", BigInteger, nullable=False),
    Column("ended_ms", BigInteger, nullable=True, index=True),
    #: `fired`, perhaps `waiting`, then `success`, `error` or `skipped`.
    Column("status", String(20), nullable=False),
    Column("result", Text, nullable=False),
)

#: Changes already made, so that a repeated request gets the same answer and changes nothing.
commands = Table(
    "scheduler_commands", metadata,
    Column("command_id", String(200), primary_key=True),
    Column("answer", LargeBinary, nullable=False),
    Column("at_ms", BigInteger, nullable=False, index=True),
)

outbox, inbox = outbox_tables(metadata, "scheduler")
