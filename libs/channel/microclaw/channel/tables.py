"""What a connector keeps: its delivery ledger and its notes. The same tables for every connector, each in a file of
its own; the migrations are the branch `channel`."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Index, Integer, LargeBinary, String, Table, Text

from microclaw.channel.notes import notes_table
from microclaw.store.outbox import outbox_tables
from microclaw.store.schema import new_metadata

metadata = new_metadata()

#: The delivery ledger: a row for each part of each reply.
parts = Table(
    "channel_parts", metadata,
    #: Message id of the `reply.requested`.
    Column("reply_id", LargeBinary(16), primary_key=True),
    #: From 0.
    Column("number", Integer, primary_key=True),
    Column("chat", String(200), nullable=False),
    #: msgpack of `core.delivery.Part`.
    Column("body", LargeBinary, nullable=False),
    #: The platform id that the reply answers; "" = none.
    Column("reply_to", String(200), nullable=False),
    #: `core.delivery.PartState`.
    Column("state", String(20), nullable=False),
    #: How often the platform was asked to take it.
    Column("attempts", Integer, nullable=False),
    #: What the platform calls it, once it is sent.
    Column("platform_id", String(500), nullable=False),
    Column("error", Text, nullable=False),
    #: When it came to its present state, Unix ms.
    Column("changed_ms", BigInteger, nullable=False),
    Index("ix_channel_parts_ours", "chat", "platform_id"),
    Index("ix_channel_parts_state", "state", "changed_ms"),
)

notes = notes_table(metadata)

outbox, inbox = outbox_tables(metadata, "channel")
