"""The day's budgets: the configuration's, those of `microclaw budget set`, and what of them is used."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec
from sqlalchemy import Row, delete, insert, select

from microclaw.core.budget import MICROS, Limit, Spent, cost_micros, over, price_of, spent_in
from microclaw.core.errors import UsageError
from microclaw.core.requests import BudgetRow, Budgets, SetBudget, UsageRow
from microclaw.core.settings import Budget, DayLimit
from microclaw.egress.database import Database
from microclaw.egress.metering import Meter
from microclaw.egress.notices import Notices
from microclaw.egress.tables import budgets as table

#: Groups with a budget set by hand, and the largest numbers that can be set.
BUDGETS_MAX = 1000
TOKENS_MAX = 1 << 50
MONEY_MAX = 1_000_000.0


class BudgetKeeper:
    """Says whether a group may still call the model today.

    A call under way is let finish: a budget is passed by what was under way when it ran out, never by a new call.
    """

    def __init__(self, db: Database, configured: Budget, meter: Meter, notices: Notices) -> None:
        self._db = db
        self._configured = configured
        self._meter = meter
        self._notices = notices
        self._set: dict[str, Row[tuple[object, ...]]] = {}
        db.run_at_start(self._load)

    async def refusal(self, group: str) -> str:
        """Why this group may not call the model now, "" = it may. The owner is told once a day and group."""
        rows = None
        for whose, name in (("all groups", ""), (f"group {group}", group)):
            limit, _ = self._limit(name)
            if limit == Limit():
                continue
            if rows is None:
                rows = await self._meter.rows(since_day=self._meter.today())
            if problem := over(whose, self._spent(rows, name), limit, self._configured.currency):
                await self._tell(group, problem)
                return f"{problem}; it begins anew at midnight, or: microclaw budget set"
        return ""

    async def set(self, wanted: SetBudget) -> None:
        """From the next call on. :raises UsageError: it can't be kept."""
        tokens, money = wanted.tokens_per_day, wanted.money_per_day
        if not wanted.forget and tokens is None and money is None:
            raise UsageError("a budget of what? give --tokens or --money")
        if tokens is not None and not 0 <= tokens <= TOKENS_MAX:
            raise UsageError(f"{tokens} tokens are no budget: 0 (no limit) to {TOKENS_MAX}")
        if money is not None and not 0 <= money <= MONEY_MAX:
            raise UsageError(f"{money} is no budget: 0 (no limit) to {MONEY_MAX:g}")
        if money and not self._configured.prices:
            raise UsageError('money can\'t be counted without prices: write [budget.prices."MODEL"] with input and '
                             "output into the configuration, or limit tokens")
        await self._db.run(self._keep, wanted)

    async def shown(self) -> Budgets:
        """Limits, and what of them is used today."""
        today = self._meter.today()
        rows = await self._meter.rows(since_day=today)
        names = {"", *self._configured.groups, *self._set, *(row.group for row in rows)}
        found = []
        for name in sorted(names):
            limit, origin = self._limit(name)
            spent = self._spent(rows, name)
            found.append(BudgetRow(
                group=name, tokens_per_day=limit.tokens, money_per_day_micros=limit.money_micros,
                spent_tokens=spent.tokens, spent_micros=spent.money_micros,
                origin="cli" if origin == "cli" else "config" if limit != Limit() else "none",
            ))
        return Budgets(day=today, currency=self._configured.currency, rows=tuple(found))

    def priced(self, rows: Iterable[UsageRow]) -> tuple[UsageRow, ...]:
        """The rows with what they cost, where the model's price is known."""
        return tuple(
            msgspec.structs.replace(row, cost_micros=cost_micros(row, price))
            if (price := price_of(row.model, self._configured.prices)) else row
            for row in rows
        )

    # --- inside -----------------------------------------------------------------------------------------------

    def _limit(self, group: str) -> tuple[Limit, str]:
        settings = self._configured
        wanted: Budget | DayLimit = settings.groups.get(group, DayLimit()) if group else settings
        limit = Limit(wanted.tokens_per_day, round(wanted.money_per_day * MICROS))
        by_hand = self._set.get(group)
        if by_hand is None:
            return limit, "config"
        return Limit(
            limit.tokens if by_hand.tokens_per_day is None else by_hand.tokens_per_day,
            limit.money_micros if by_hand.micros_per_day is None else by_hand.micros_per_day,
        ), "cli"

    def _spent(self, rows: Sequence[UsageRow], group: str) -> Spent:
        return spent_in((row for row in rows if not group or row.group == group), self._configured.prices)

    async def _tell(self, group: str, problem: str) -> None:
        day = self._meter.today()
        await self._notices.add(
            f"budget {day} {group}",
            f"Group {group} gets no more answers of the model today ({day}): {problem}. "
            "It goes on tomorrow; or raise it: microclaw budget set --tokens N [--group G].",
        )

    # --- in the database's thread -----------------------------------------------------------------------------

    def _keep(self, wanted: SetBudget) -> None:
        before, tokens, money = self._set.get(wanted.group), wanted.tokens_per_day, wanted.money_per_day
        row = {
            "tokens_per_day": tokens if tokens is not None else before and before.tokens_per_day,
            "micros_per_day": round(money * MICROS) if money is not None else before and before.micros_per_day,
        }
        with self._db.begin() as db:
            db.execute(delete(table).where(table.c.group_folder == wanted.group))
            if not wanted.forget:
                if before is None and len(self._set) >= BUDGETS_MAX:
                    raise UsageError(f"there are {BUDGETS_MAX} budgets already: forget some")
                db.execute(insert(table), row | {"group_folder": wanted.group})
        self._load()

    def _load(self) -> None:
        with self._db.begin() as db:
            self._set = {row.group_folder: row for row in db.execute(select(table))}
