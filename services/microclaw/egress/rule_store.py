"""The allow-list: the configuration's rules, and those of `microclaw egress allow|deny`, kept in `egress.db`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from sqlalchemy import ColumnElement, Connection, delete, insert, select

from microclaw.core.egress_rules import Rule, Tool, Verdict, decide, parse_rule
from microclaw.core.errors import UsageError
from microclaw.egress.database import Database
from microclaw.egress.tables import rules as table

#: Rules added by hand.
RULES_MAX = 2000


@dataclass(frozen=True, slots=True)
class Added:
    """A rule and when it was added; 0 = it is the configuration's."""

    rule: Rule
    added_ms: int = 0


class RuleStore:
    """The rules in force."""

    def __init__(self, db: Database, configured: Iterable[str]) -> None:
        """:raises UsageError: a rule of the configuration can't be read."""
        self._db = db
        try:
            self._configured = tuple(Added(parse_rule(text)) for text in configured)
        except UsageError as error:
            raise UsageError(f"egress.allow: {error}") from error
        self._added: tuple[Added, ...] = ()
        db.run_at_start(self.load)

    @property
    def all(self) -> tuple[Added, ...]:
        """The configuration's first."""
        return self._configured + self._added

    def decide(self, host: str, port: int, group: str, tool: Tool) -> Verdict:
        """May it, by this way?"""
        return decide((item.rule for item in self.all), host, port, group, tool)

    async def change(
        self, text: str, verdict: str, group: str, *, now_ms: int, tool: str = "", websocket: bool = False,
        opaque: bool = False,
    ) -> bool:
        """`allow`, `deny` or `forget` this, from now on. False: `forget` found nothing.

        What was said of the same host, port, group and tool is replaced; the rest stays.

        :raises UsageError: `text` is no rule, or there are too many.
        """
        rule = parse_rule(
            text, allow=verdict != "deny", group=group, origin="cli", tool=tool, websocket=websocket, opaque=opaque,
        )
        return await self._db.run(self._change, rule, verdict, now_ms)

    # --- in the database's thread -----------------------------------------------------------------------------

    def put(self, db: Connection, rule: Rule, verdict: str, now_ms: int) -> bool:
        """`change` within a transaction, after which `load` is due. :raises UsageError: there are too many."""
        found = db.execute(delete(table).where(_same(rule))).rowcount > 0
        if verdict == "forget":
            return found
        if not found and len(self._added) >= RULES_MAX:
            raise UsageError(f"there are {RULES_MAX} rules already: forget some, or use *.suffix")
        db.execute(insert(table), {
            "group_folder": rule.group, "tool": rule.tool, "host": rule.host, "port": rule.port, "verdict": verdict,
            "websocket": rule.websocket, "opaque": rule.opaque, "added_ms": now_ms,
        })
        return True

    def stands(self, db: Connection, rule: Rule) -> bool:
        """Whether a rule added by hand still says this."""
        verdict = db.execute(select(table.c.verdict).where(_same(rule))).scalar()
        return verdict == ("allow" if rule.allow else "deny")

    def load(self) -> None:
        """What the database says is in force."""
        order = (table.c.host, table.c.port, table.c.group_folder, table.c.tool)
        with self._db.begin() as db:
            self._added = tuple(
                Added(
                    Rule(
                        row.host, row.port, row.verdict == "allow", row.group_folder, "cli", row.tool, row.websocket,
                        row.opaque,
                    ), row.added_ms,
                )
                for row in db.execute(select(table).order_by(*order))
            )

    def _change(self, rule: Rule, verdict: str, now_ms: int) -> bool:
        with self._db.begin() as db:
            changed = self.put(db, rule, verdict, now_ms)
        self.load()
        return changed


def _same(rule: Rule) -> ColumnElement[bool]:
    return (
        (table.c.group_folder == rule.group) & (table.c.tool == rule.tool) & (table.c.host == rule.host)
        & (table.c.port == rule.port)
    )
