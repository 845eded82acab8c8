"""The tables of `egress.db`; the egress service alone writes them."""

from __future__ import annotations

from sqlalchemy import BigInteger, Boolean, Column, Index, Integer, LargeBinary, String, Table, Text

from microclaw.store.schema import new_metadata

metadata = new_metadata()

doors = Table(
    "egress_doors", metadata,
    Column("worker_id", String(40), primary_key=True),
    Column("group_folder", String(200), nullable=False),
    Column("opened_ms", BigInteger, nullable=False),
)

rules = Table(
    "egress_rules", metadata,
    Column("group_folder", String(200), primary_key=True, comment="'' = all groups"),
    Column("tool", String(20), primary_key=True, comment="web_fetch | bash; '' = both"),
    Column("host", String(255), primary_key=True, comment="exact, or *.suffix"),
    Column("port", Integer, primary_key=True, autoincrement=False),
    Column("websocket", Boolean, nullable=False, comment="of an allow: may begin one"),
    Column("opaque", Boolean, nullable=False, comment="of an allow: its tunnels are not opened"),
    Column("verdict", String(5), nullable=False, comment="allow | deny"),
    Column("added_ms", BigInteger, nullable=False),
)

usage = Table(
    "egress_usage", metadata,
    Column("day", String(10), primary_key=True, comment="YYYY-MM-DD in the owner's time zone"),
    Column("group_folder", String(200), primary_key=True),
    Column("model", String(200), primary_key=True),
    Column("calls", Integer, nullable=False),
    Column("unknown_calls", Integer, nullable=False, comment="answers that said nothing of their tokens"),
    Column("input_tokens", BigInteger, nullable=False),
    Column("output_tokens", BigInteger, nullable=False),
    Column("cache_read_tokens", BigInteger, nullable=False),
    Column("cache_write_tokens", BigInteger, nullable=False),
)

audit = Table(
    "egress_audit", metadata,
    Column("number", BigInteger, primary_key=True, autoincrement=False, comment="from 1, dense"),
    Column("ts_ms", BigInteger, nullable=False),
    Column("actor", String(200), nullable=False),
    Column("action", String(200), nullable=False),
    Column("subject", Text, nullable=False),
    Column("outcome", String(40), nullable=False),
    Column("detail", Text, nullable=False),
    Column("cause", LargeBinary(16), nullable=True, unique=True, comment="message id, where an envelope brought it"),
    Column("hash", LargeBinary(32), nullable=False, comment="over the hash before it and all of the above"),
)

budgets = Table(
    "egress_budgets", metadata,
    Column("group_folder", String(200), primary_key=True, comment="'' = all groups together"),
    Column("tokens_per_day", BigInteger, nullable=True, comment="0 = no limit; NULL = as configured"),
    Column("micros_per_day", BigInteger, nullable=True, comment="0 = no limit; NULL = as configured"),
)

approvals = Table(
    "egress_approvals", metadata,
    Column("code", String(8), primary_key=True),
    Column("kind", String(20), nullable=False, comment="host | message | task"),
    Column("group_folder", String(200), nullable=False),
    Column("target", Text, nullable=False, comment="host:port, or a chat"),
    Column("detail", Text, nullable=False, comment="the rest of what would be done"),
    Column("hash", LargeBinary(32), nullable=False, comment="over the four before it", index=True),
    Column("state", String(10), nullable=False, comment="pending | once | always | used | denied | revoked"),
    Column("asked_ms", BigInteger, nullable=False),
    Column("expires_ms", BigInteger, nullable=False),
    Column("answered_ms", BigInteger, nullable=True),
    Column("answered_by", String(200), nullable=False),
    Column("used_by", String(200), nullable=False, comment="which doing of it used a yes for once"),
    Index("ix_egress_approvals_state", "state", "group_folder"),
)

notices = Table(
    "egress_notices", metadata,
    Column("name", String(200), primary_key=True, comment="what it is about; said once"),
    Column("text", Text, nullable=False),
    Column("made_ms", BigInteger, nullable=False),
    Column("told", Boolean, nullable=False, comment="the bus has it"),
)

bindings = Table(
    "egress_bindings", metadata,
    Column("name", String(64), primary_key=True, comment="of the secret"),
    Column("host", String(255), primary_key=True, comment="exact"),
    Column("port", Integer, primary_key=True, autoincrement=False),
    Column("group_folder", String(200), primary_key=True, comment="'' = all groups"),
)
