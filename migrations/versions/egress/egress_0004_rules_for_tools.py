"""Rules for one tool, and what they allow besides: WebSocket, unopened tunnels."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "egress_0004"
down_revision = "egress_0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "egress_rules_new",
        sa.Column("group_folder", sa.String(200), nullable=False, comment="'' = all groups"),
        sa.Column("tool", sa.String(20), nullable=False, comment="web_fetch | bash; '' = both"),
        sa.Column("host", sa.String(255), nullable=False, comment="exact, or *.suffix"),
        sa.Column("port", sa.Integer, autoincrement=False, nullable=False),
        sa.Column("websocket", sa.Boolean, nullable=False, comment="of an allow: may begin one"),
        sa.Column("opaque", sa.Boolean, nullable=False, comment="of an allow: its tunnels are not opened"),
        sa.Column("verdict", sa.String(5), nullable=False, comment="allow | deny"),
        sa.Column("added_ms", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("group_folder", "tool", "host", "port", name="pk_egress_rules"),
    )
    op.execute(
        "INSERT INTO egress_rules_new (group_folder, tool, host, port, websocket, opaque, verdict, added_ms) "
        "SELECT group_folder, '', host, port, 0, 0, verdict, added_ms FROM egress_rules"
    )
    op.drop_table("egress_rules")
    op.rename_table("egress_rules_new", "egress_rules")


def downgrade() -> None:
    op.create_table(
        "egress_rules_old",
        sa.Column("group_folder", sa.String(200), nullable=False, comment="'' = all groups"),
        sa.Column("host", sa.String(255), nullable=False, comment="exact, or *.suffix"),
        sa.Column("port", sa.Integer, autoincrement=False, nullable=False),
        sa.Column("verdict", sa.String(5), nullable=False, comment="allow | deny"),
        sa.Column("added_ms", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("group_folder", "host", "port", name="pk_egress_rules"),
    )
    # Never wider than it was: an allow for one tool is dropped, a deny for one tool becomes one for all.
    op.execute(
        "INSERT OR REPLACE INTO egress_rules_old (group_folder, host, port, verdict, added_ms) "
        "SELECT group_folder, host, port, verdict, added_ms FROM egress_rules "
        "WHERE tool = '' OR verdict = 'deny' ORDER BY verdict"
    )
    op.drop_table("egress_rules")
    op.rename_table("egress_rules_old", "egress_rules")
