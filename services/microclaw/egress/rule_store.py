"""The allow-list: the configuration's rules, and those of `microclaw egress allow|deny`, kept in `egress.db`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from sqlalchemy import Engine, delete, insert, select

from microclaw.core.egress_rules import Rule, Tool, Verdict, decide, parse_rule
from microclaw.core.errors import UsageError
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

    def __init__(self, engine: Engine, configured: Iterable[str]) -> None:
        """:raises UsageError: a rule of the configuration can't be read."""
        self._engine = engine
        try:
            self._configured = tuple(Added(parse_rule(text)) for text in configured)
        except UsageError as error:
            raise UsageError(f"egress.allow: {error}") from error
        self._added: tuple[Added, ...] = ()
        self._load()

    @property
    def all(self) -> tuple[Added, ...]:
        """The configuration's first."""
        return self._configured + self._added

    def decide(self, host: str, port: int, group: str, tool: Tool) -> Verdict:
        """May it, by this way?"""
        return decide((item.rule for item in self.all), host, port, group, tool)

    def change(
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
        same = (
            (table.c.group_folder == group) & (table.c.tool == rule.tool) & (table.c.host == rule.host)
            & (table.c.port == rule.port)
        )
        with self._engine.begin() as db:
            found = db.execute(delete(table).where(same)).rowcount > 0
            if verdict != "forget":
                if not found and len(self._added) >= RULES_MAX:
                    raise UsageError(f"there are {RULES_MAX} rules already: forget some, or use *.suffix")
                db.execute(insert(table), {
                    "group_folder": group, "tool": rule.tool, "host": rule.host, "port": rule.port, "verdict": verdict,
                    "websocket": rule.websocket, "opaque": rule.opaque, "added_ms": now_ms,
                })
        self._load()
        return found or verdict != "forget"

    def _load(self) -> None:
        order = (table.c.host, table.c.port, table.c.group_folder, table.c.tool)
        with self._engine.begin() as db:
            self._added = tuple(
                Added(
                    Rule(
                        row.host, row.port, row.verdict == "allow", row.group_folder, "cli", row.tool, row.websocket,
                        row.opaque,
                    ), row.added_ms,
                )
                for row in db.execute(select(table).order_by(*order))
            )
