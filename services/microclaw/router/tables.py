"""What the router keeps: chats, registered groups, messages and who got them."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Connection,
    Index,
    Integer,
    LargeBinary,
    String,
    Table,
    Text,
    UniqueConstraint,
    event,
    false,
)

from microclaw.store.outbox import outbox_tables
from microclaw.store.schema import new_metadata

metadata = new_metadata()

#: Every chat that was ever heard of, registered or not: names and times, no content.
chats = Table(
    "router_chats", metadata,
    Column("chat", String(200), primary_key=True),
    Column("name", Text, nullable=False),
    Column("last_message_ms", BigInteger, nullable=False),
    Column("is_group", Boolean, nullable=False),
)

#: Registered chats: each has an agent with a folder of its own.
groups = Table(
    "router_groups", metadata,
    Column("chat", String(200), primary_key=True),
    Column("folder", String(64), nullable=False),
    #: Folders that differ only in case are one folder on some file systems.
    Column("folder_key", String(64), nullable=False, unique=True),
    Column("name", Text, nullable=False),
    Column("trigger", Text, nullable=False),
    Column("requires_trigger", Boolean, nullable=False),
    Column("is_main", Boolean, nullable=False),
    Column("added_ms", BigInteger, nullable=False),
    #: JSON of `core.container.Container`.
    Column("container", Text, nullable=False, server_default="{}"),
)

#: The model that the owner chose for a group; without a row it is the configuration's.
models = Table(
    "router_models", metadata,
    Column("folder", String(64), primary_key=True),
    Column("model", String(200), nullable=False),
)

#: The restart that the owner asked for and that is not over, at most one.
restarts = Table(
    "router_restarts", metadata,
    Column("cause", LargeBinary(16), primary_key=True),
    Column("chat", String(200), nullable=False),
    Column("asked_ms", BigInteger, nullable=False),
)

#: Messages of registered chats. `number` is the order of arrival, the journal's; clocks order nothing.
messages = Table(
    "router_messages", metadata,
    Column("number", Integer, primary_key=True, autoincrement=True),
    Column("chat", String(200), nullable=False),
    Column("platform_id", String(200), nullable=False),
    Column("sender", Text, nullable=False),
    Column("sender_name", Text, nullable=False),
    Column("text", Text, nullable=False),
    Column("sent_ms", BigInteger, nullable=False),
    Column("from_me", Boolean, nullable=False),
    #: We said it ourselves: never handed to an agent as something to answer.
    Column("is_own_reply", Boolean, nullable=False),
    #: msgpack of `kinds.Quote | None` and of the attachments.
    Column("quote", LargeBinary, nullable=False),
    Column("attachments", LargeBinary, nullable=False),
    #: It is the own word of somebody whom the owner trusts (`core.people.is_trusted`).
    Column("is_trusted", Boolean, nullable=False, server_default=false()),
    #: The `run.requested` that carries it; NULL = not handed over yet.
    Column("request_id", LargeBinary(16), nullable=True),
    UniqueConstraint("chat", "platform_id"),
    Index("ix_router_messages_waiting", "chat", "request_id", "number"),
)

_ADD = "INSERT INTO router_search(rowid, sender_name, text) VALUES (new.number, new.sender_name, new.text);"
_DROP = (
    "INSERT INTO router_search(router_search, rowid, sender_name, text) "
    "VALUES ('delete', old.number, old.sender_name, old.text);"
)
#: The full-text index over messages (SQLite's FTS5): it holds words only, and triggers keep it in the transaction that
#: writes the message, so that it is never behind.
SEARCH = (
    "CREATE VIRTUAL TABLE router_search USING fts5("
    "sender_name, text, content='router_messages', content_rowid='number', tokenize='unicode61 remove_diacritics 2')",
    f"CREATE TRIGGER router_search_added AFTER INSERT ON router_messages BEGIN {_ADD} END",
    f"CREATE TRIGGER router_search_gone AFTER DELETE ON router_messages BEGIN {_DROP} END",
    "CREATE TRIGGER router_search_changed AFTER UPDATE OF number, sender_name, text ON router_messages "
    f"BEGIN {_DROP} {_ADD} END",
)


@event.listens_for(messages, "after_create")
def _make_index(_messages: Table, db: Connection, **_more: object) -> None:
    for statement in SEARCH:
        db.exec_driver_sql(statement)


#: Direct chats of people we know, beside the group's own chat: the group's agent answers there too.
joined = Table(
    "router_joined", metadata,
    Column("chat", String(200), primary_key=True),
    Column("folder", String(64), nullable=False, index=True),
)

#: People we know.
users = Table(
    "router_users", metadata,
    Column("name", String(40), primary_key=True),
    Column("role", String(10), nullable=False),
    Column("folder", String(64), nullable=False),
    Column("added_ms", BigInteger, nullable=False),
)

#: Who they are on their channels (`telegram:12345`); a sender is one user.
senders = Table(
    "router_senders", metadata,
    Column("sender", String(300), primary_key=True),
    Column("user", String(40), nullable=False, index=True),
)

#: Codes that strangers were given, and what became of them.
pairings = Table(
    "router_pairings", metadata,
    Column("code", String(8), primary_key=True),
    Column("channel", String(100), nullable=False),
    Column("sender", String(300), nullable=False, index=True),
    Column("sender_name", Text, nullable=False),
    Column("chat", String(200), nullable=False),
    Column("state", String(10), nullable=False),
    Column("asked_ms", BigInteger, nullable=False),
    Column("expires_ms", BigInteger, nullable=False),
)

#: Wrong codes that were tried.
wrong_codes = Table(
    "router_wrong_codes", metadata,
    Column("number", Integer, primary_key=True, autoincrement=True),
    Column("channel", String(100), nullable=False),
    Column("tried_ms", BigInteger, nullable=False),
)

#: What strangers wrote: nobody reads it before the owner has let them in. `number` is the order of arrival.
held = Table(
    "router_held", metadata,
    Column("number", Integer, primary_key=True, autoincrement=True),
    Column("channel", String(100), nullable=False, index=True),
    Column("sender", String(300), nullable=False, index=True),
    #: msgpack of `kinds.MessageReceived`.
    Column("message", LargeBinary, nullable=False),
    Column("held_ms", BigInteger, nullable=False),
)

#: Replies that did not arrive, or may not have.
deliveries = Table(
    "router_deliveries", metadata,
    Column("reply_id", String(36), primary_key=True),
    Column("chat", String(200), nullable=False),
    Column("state", String(20), nullable=False),
    Column("error", Text, nullable=False),
    Column("done_ms", BigInteger, nullable=False, index=True),
)

#: Groups whose messages came too fast to wake it: they are handed over together when `due_ms` is there.
late = Table(
    "router_late", metadata,
    Column("chat", String(200), primary_key=True),
    Column("cause", LargeBinary(16), nullable=False),
    Column("due_ms", BigInteger, nullable=False),
)

#: Chats where an agent asked something: the next message is the answer.
awaited = Table(
    "router_awaited", metadata,
    Column("chat", String(200), primary_key=True),
    Column("expires_ms", BigInteger, nullable=False),
)

#: Answers given to requests that change something: the same `command_id` is answered the same, and done once.
commands = Table(
    "router_commands", metadata,
    Column("command_id", String(200), primary_key=True),
    Column("answer", LargeBinary, nullable=False),
    Column("done_ms", BigInteger, nullable=False, index=True),
)

outbox, inbox = outbox_tables(metadata, "router")
