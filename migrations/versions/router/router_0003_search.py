"""The full-text index over messages, kept by the database itself in the transaction of each message.

It holds words only and reads the texts from `router_messages`. A later revision that makes that table anew (a batch
change other than adding a column) has to make the three triggers again and rebuild the index.
"""

from __future__ import annotations

from alembic import op

revision = "router_0003"
down_revision = "router_0002"
branch_labels = None
depends_on = None

INDEX = (
    "CREATE VIRTUAL TABLE router_search USING fts5("
    "sender_name, text, content='router_messages', content_rowid='number', tokenize='unicode61 remove_diacritics 2')"
)
DROP = (
    "INSERT INTO router_search(router_search, rowid, sender_name, text) "
    "VALUES ('delete', old.number, old.sender_name, old.text);"
)
ADD = "INSERT INTO router_search(rowid, sender_name, text) VALUES (new.number, new.sender_name, new.text);"
TRIGGERS = (
    f"CREATE TRIGGER router_search_added AFTER INSERT ON router_messages BEGIN {ADD} END",
    f"CREATE TRIGGER router_search_gone AFTER DELETE ON router_messages BEGIN {DROP} END",
    "CREATE TRIGGER router_search_changed AFTER UPDATE OF number, sender_name, text ON router_messages "
    f"BEGIN {DROP} {ADD} END",
)


def upgrade() -> None:
    op.execute(INDEX)
    for trigger in TRIGGERS:
        op.execute(trigger)
    op.execute("INSERT INTO router_search(router_search) VALUES ('rebuild')")


def downgrade() -> None:
    for name in ("router_search_added", "router_search_gone", "router_search_changed"):
        op.execute(f"DROP TRIGGER {name}")
    op.execute("DROP TABLE router_search")
