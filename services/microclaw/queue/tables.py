"""What the queue keeps: what groups have to do, where they stand, and their runs."""

from __future__ import annotations

from sqlalchemy import BigInteger, Boolean, Column, Index, Integer, LargeBinary, String, Table, Text, false

from microclaw.store.outbox import outbox_tables
from microclaw.store.schema import new_metadata

metadata = new_metadata()

#: Messages and task fires that are not done yet, in order of arrival. The texts are opaque here.
items = Table(
    "queue_items", metadata,
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("folder", String(200), nullable=False, index=True),
    Column("chat", String(200), nullable=False),
    Column("is_main", Boolean, nullable=False),
    #: The encoded `PromptMessage` or `ScheduledTask`.
    Column("payload", LargeBinary, nullable=False),
    #: The task's, "" for a message.
    Column("task_id", String(200), nullable=False),
    Column("due_ms", BigInteger, nullable=False),
    #: The run that has it, or had it last; "" = none yet.
    Column("run_id", String(40), nullable=False, index=True),
    #: That run is under way.
    Column("in_run", Boolean, nullable=False),
    #: Its task does not want it any more; it is a fire that is under way.
    Column("withdrawn", Boolean, nullable=False, server_default=false()),
    Column("at_ms", BigInteger, nullable=False),
)

#: Where each group stands (`core.dispatch.Lane`).
lanes = Table(
    "queue_lanes", metadata,
    Column("folder", String(200), primary_key=True),
    Column("wanted", Boolean, nullable=False),
    Column("tries", Integer, nullable=False),
    Column("retries", Integer, nullable=False),
    Column("waits", Integer, nullable=False, server_default="0"),
    Column("retry_ms", BigInteger, nullable=True),
    Column("ticket", Integer, nullable=True),
    Column("error", Text, nullable=False),
)

#: Granted runs, kept for a while after their end.
runs = Table(
    "queue_runs", metadata,
    Column("run_id", String(40), primary_key=True),
    Column("folder", String(200), nullable=False),
    Column("chat", String(200), nullable=False),
    Column("is_main", Boolean, nullable=False),
    Column("task_id", String(200), nullable=False),
    Column("attempt", Integer, nullable=False),
    #: `running`, or a `core.dispatch.Outcome`.
    Column("state", String(20), nullable=False),
    #: It was given up because nobody told its end.
    Column("lost", Boolean, nullable=False),
    Column("granted_ms", BigInteger, nullable=False),
    Column("ended_ms", BigInteger, nullable=True),
    Column("error", Text, nullable=False),
    Index(None, "state", "ended_ms"),
)

outbox, inbox = outbox_tables(metadata, "queue")
