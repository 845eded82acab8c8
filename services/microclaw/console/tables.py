"""What the console connector keeps: what was typed, and its delivery ledger."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Integer, LargeBinary, String, Table, Text, UniqueConstraint

from microclaw.store.outbox import outbox_tables
from microclaw.store.schema import new_metadata

metadata = new_metadata()

#: What people typed, so that a repeated request publishes the very same message again.
said = Table(
    "console_said", metadata,
    Column("chat", String(200), primary_key=True),
    Column("platform_id", String(200), primary_key=True),
    Column("text", Text, nullable=False),
    Column("sender", Text, nullable=False),
    Column("sender_name", Text, nullable=False),
    Column("sent_ms", BigInteger, nullable=False, index=True),
)

#: The delivery ledger: each `reply.requested` is here once, whatever became of it.
lines = Table(
    "console_lines", metadata,
    #: Message id of the `reply.requested`.
    Column("reply_id", LargeBinary(16), primary_key=True),
    Column("chat", String(200), nullable=False),
    #: Dense per chat from 1; NULL for what is not shown.
    Column("number", Integer, nullable=True),
    Column("text", Text, nullable=False),
    Column("origin", String(20), nullable=False),
    #: As in `kinds.ReplyDelivered.status`.
    Column("status", String(20), nullable=False),
    Column("done_ms", BigInteger, nullable=False, index=True),
    UniqueConstraint("chat", "number"),
)

outbox, inbox = outbox_tables(metadata, "console")
