"""Which secrets are lent to agents, for which hosts and groups; kept in `egress.db`."""

from __future__ import annotations

from sqlalchemy import delete, insert, select

from microclaw.core.errors import UsageError
from microclaw.core.sentinels import Binding
from microclaw.egress.database import Database
from microclaw.egress.tables import bindings as table


class Bindings:
    """All bindings. A secret without one is never lent."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._by_name: dict[str, Binding] = {}
        db.run_at_start(self._load)

    def of(self, name: str) -> Binding | None:
        """The secret's; None = it is not lent."""
        return self._by_name.get(name)

    def lent_to(self, group: str) -> list[Binding]:
        """What this group is lent, by name."""
        return [found for _, found in sorted(self._by_name.items()) if found.serves(group)]

    def check(self, wanted: Binding) -> None:
        """:raises UsageError: inside, it could not be told from another one."""
        for other in self._by_name.values():
            if wanted.hosts and other.name != wanted.name and other.variable == wanted.variable:
                raise UsageError(
                    f"{wanted.name} and {other.name} would both be {wanted.variable} inside: choose another name"
                )

    async def set(self, wanted: Binding) -> None:
        """From now on; one without hosts takes the binding back."""
        await self._db.run(self._set, wanted)

    # --- in the database's thread -----------------------------------------------------------------------------

    def _set(self, wanted: Binding) -> None:
        with self._db.begin() as db:
            db.execute(delete(table).where(table.c.name == wanted.name))
            for host, port in wanted.hosts:
                db.execute(insert(table), [
                    {"name": wanted.name, "host": host, "port": port, "group_folder": group}
                    for group in wanted.groups or ("",)
                ])
        self._load()

    def _load(self) -> None:
        found: dict[str, list[tuple[tuple[str, int], str]]] = {}
        with self._db.begin() as db:
            for row in db.execute(select(table).order_by(*table.primary_key)):
                found.setdefault(row.name, []).append(((row.host, row.port), row.group_folder))
        self._by_name = {
            name: Binding(
                name, tuple(dict.fromkeys(place for place, _ in rows)),
                tuple(dict.fromkeys(group for _, group in rows if group)),
            )
            for name, rows in found.items()
        }
