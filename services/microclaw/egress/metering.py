"""What model calls cost, per day, group and model."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

from sqlalchemy import Connection, select
from sqlalchemy.dialects.sqlite import insert

from microclaw.core.model_usage import Usage
from microclaw.core.requests import UsageRow
from microclaw.egress.audit_log import Alongside
from microclaw.egress.database import Database
from microclaw.egress.tables import usage as table

#: A model's name as stored.
MODEL_CHARS_MAX = 200
#: Of one call, of each kind: what a server says beyond that is nonsense, and must not break the sum.
CALL_TOKENS_MAX = 1 << 40


class Meter:
    """Adds up."""

    def __init__(self, db: Database, timezone: str, *, clock_ms: Callable[[], int]) -> None:
        """`timezone`: in which days begin and end; "" = this machine's."""
        self._db = db
        self._zone = ZoneInfo(timezone) if timezone else None
        self._clock_ms = clock_ms

    def counting(self, group: str, spent: Usage) -> Alongside:
        """What counts one call, in the transaction of its audit entry."""
        counts = {"calls": 1, "unknown_calls": 0 if spent.known else 1}
        counts |= {
            name: min(max(getattr(spent, name), 0), CALL_TOKENS_MAX)
            for name in ("input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens")
        }
        row = insert(table).values(
            day=self.today(), group_folder=group, model=spent.model[:MODEL_CHARS_MAX] or "?", **counts,
        )
        added = {name: table.c[name] + row.excluded[name] for name in counts}
        counted = row.on_conflict_do_update(index_elements=list(table.primary_key), set_=added)

        def count(db: Connection) -> None:
            db.execute(counted)

        return count

    def today(self) -> str:
        """The owner's day, YYYY-MM-DD."""
        return datetime.fromtimestamp(self._clock_ms() / 1000, UTC).astimezone(self._zone).date().isoformat()

    async def rows(self, *, since_day: str = "") -> list[UsageRow]:
        """All counts from `since_day` (YYYY-MM-DD) on, newest day first."""
        return await self._db.run(self._rows, since_day)

    def _rows(self, since_day: str) -> list[UsageRow]:
        query = select(table).where(table.c.day >= since_day).order_by(
            table.c.day.desc(), table.c.group_folder, table.c.model
        )
        with self._db.begin() as db:
            return [
                UsageRow(
                    day=row.day, group=row.group_folder, model=row.model, calls=row.calls,
                    unknown_calls=row.unknown_calls, input_tokens=row.input_tokens, output_tokens=row.output_tokens,
                    cache_read_tokens=row.cache_read_tokens, cache_write_tokens=row.cache_write_tokens,
                )
                for row in db.execute(query)
            ]
