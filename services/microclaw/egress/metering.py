"""What model calls cost, per day, group and model."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

from sqlalchemy import Engine, select
from sqlalchemy.dialects.sqlite import insert

from microclaw.core.model_usage import Usage
from microclaw.core.requests import UsageRow
from microclaw.egress.tables import usage as table

#: A model's name as stored.
MODEL_CHARS_MAX = 200


class Meter:
    """Adds up."""

    def __init__(self, engine: Engine, timezone: str, *, clock_ms: Callable[[], int]) -> None:
        """`timezone`: in which days begin and end; "" = this machine's."""
        self._engine = engine
        self._zone = ZoneInfo(timezone) if timezone else None
        self._clock_ms = clock_ms

    def add(self, group: str, spent: Usage) -> None:
        """Count one call."""
        counts = {
            "calls": 1, "unknown_calls": 0 if spent.known else 1,
            "input_tokens": spent.input_tokens, "output_tokens": spent.output_tokens,
            "cache_read_tokens": spent.cache_read_tokens, "cache_write_tokens": spent.cache_write_tokens,
        }
        row = insert(table).values(
            day=self.today(), group_folder=group, model=spent.model[:MODEL_CHARS_MAX] or "?", **counts,
        )
        added = {name: table.c[name] + row.excluded[name] for name in counts}
        with self._engine.begin() as db:
            db.execute(row.on_conflict_do_update(index_elements=list(table.primary_key), set_=added))

    def today(self) -> str:
        """The owner's day, YYYY-MM-DD."""
        return datetime.fromtimestamp(self._clock_ms() / 1000, UTC).astimezone(self._zone).date().isoformat()

    def rows(self, *, since_day: str = "") -> list[UsageRow]:
        """All counts from `since_day` (YYYY-MM-DD) on, newest day first."""
        query = select(table).where(table.c.day >= since_day).order_by(
            table.c.day.desc(), table.c.group_folder, table.c.model
        )
        with self._engine.begin() as db:
            return [
                UsageRow(
                    day=row.day, group=row.group_folder, model=row.model, calls=row.calls,
                    unknown_calls=row.unknown_calls, input_tokens=row.input_tokens, output_tokens=row.output_tokens,
                    cache_read_tokens=row.cache_read_tokens, cache_write_tokens=row.cache_write_tokens,
                )
                for row in db.execute(query)
            ]
