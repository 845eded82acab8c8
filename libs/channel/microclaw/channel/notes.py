"""Small facts that a connector must not forget: how far it has read, which thread a mail belongs to."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from sqlalchemy import BigInteger, Column, Engine, MetaData, String, Table, Text, delete, select
from sqlalchemy.dialects.sqlite import insert


def notes_table(metadata: MetaData) -> Table:
    """The table of notes."""
    return Table(
        "channel_notes", metadata,
        #: What kind of fact; `cursor` is how far the platform was read.
        Column("kind", String(50), primary_key=True),
        Column("key", String(500), primary_key=True),
        Column("value", Text, nullable=False),
        Column("changed_ms", BigInteger, nullable=False, index=True),
    )


class Notes:
    """Facts by kind and key, each on disk when `set` returns."""

    def __init__(self, engine: Engine, table: Table, clock_ms: Callable[[], int]) -> None:
        self._engine = engine
        self._table = table
        self._clock_ms = clock_ms

    def get(self, kind: str, key: str, default: str = "") -> str:
        """The fact, `default` where there is none."""
        table = self._table
        with self._engine.begin() as db:
            found = db.execute(
                select(table.c.value).where(table.c.kind == kind, table.c.key == key)
            ).scalar()
        return default if found is None else str(found)

    def all(self, kind: str) -> dict[str, str]:
        """Every fact of a kind, by key."""
        table = self._table
        with self._engine.begin() as db:
            rows = db.execute(select(table.c.key, table.c.value).where(table.c.kind == kind)).all()
        return {str(row.key): str(row.value) for row in rows}

    def set(self, kind: str, facts: Mapping[str, str]) -> None:
        """Write these, all or none."""
        self.write({kind: facts})

    def write(self, facts: Mapping[str, Mapping[str, str]]) -> None:
        """Write these of several kinds, all or none."""
        now = self._clock_ms()
        rows = [
            {"kind": kind, "key": key, "value": value, "changed_ms": now}
            for kind, those in facts.items() for key, value in those.items()
        ]
        if not rows:
            return
        adding = insert(self._table)
        with self._engine.begin() as db:
            db.execute(
                adding.on_conflict_do_update(
                    index_elements=["kind", "key"],
                    set_={"value": adding.excluded.value, "changed_ms": adding.excluded.changed_ms},
                ),
                rows,
            )

    def forget(self, kind: str, before_ms: int) -> None:
        """Drop the facts of a kind that were not written since."""
        table = self._table
        with self._engine.begin() as db:
            db.execute(delete(table).where(table.c.kind == kind, table.c.changed_ms < before_ms))
