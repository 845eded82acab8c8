"""What egress has to tell the owner: kept until the bus has it, said once in the main chat."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from sqlalchemy import Connection, delete, select, update
from sqlalchemy.dialects.sqlite import insert

from microclaw.bus.api import Bus, Draft
from microclaw.bus.errors import BusTimeout, EnvelopeError, NoResponder, Refused
from microclaw.core.ids import derived_id
from microclaw.core.kinds import ReplyRequested
from microclaw.core.requests import Groups, GroupsAsked
from microclaw.egress.database import Database
from microclaw.egress.tables import notices as table

#: How long a notice is remembered, so that it is not said again, ms.
KEPT_MS = 7 * 24 * 3600 * 1000
#: While the router or the broker is away, the pause before trying again.
AGAIN_S = 1.0
#: Of a notice's name.
NAME_CHARS_MAX = 200


class Notices:
    """The notices. Added in the transaction of what they tell; said by `keep_telling`."""

    def __init__(self, db: Database, *, clock_ms: Callable[[], int], clean: Callable[[str], str]) -> None:
        """`clean` masks known secrets."""
        self._db = db
        self._clock_ms = clock_ms
        self._clean = clean
        self._new = asyncio.Event()
        #: In which `keep_telling` runs.
        self._loop: asyncio.AbstractEventLoop | None = None

    async def add(self, name: str, text: str) -> None:
        """Tell this once: the same name again is not said again."""
        await self._db.run(self._add, name, text)

    def put(self, db: Connection, name: str, text: str) -> None:
        """The same within a transaction, in the database's thread."""
        row = insert(table).values(
            name=name[:NAME_CHARS_MAX], text=self._clean(text), made_ms=self._clock_ms(), told=False,
        )
        db.execute(row.on_conflict_do_nothing(index_elements=[table.c.name]))
        if self._loop is not None:
            # Before the commit, but what waits is read in this thread too, and so after it.
            self._loop.call_soon_threadsafe(self._new.set)

    async def waiting(self) -> list[tuple[str, str, int]]:
        """(name, text, made_ms) of those that the bus does not have yet, oldest first."""
        return await self._db.run(self._untold)

    async def keep_telling(self, bus: Bus, trouble: Callable[[str], None]) -> None:
        """Say what is to be said, for as long as the service lives."""
        self._loop = asyncio.get_running_loop()
        while True:
            self._new.clear()
            for name, text, made_ms in await self.waiting():
                chat = await _owners_chat(bus)
                draft = Draft(
                    chat, ReplyRequested(chat=chat, text=text, origin="notice"),
                    message_id=derived_id(made_ms, "egress.notice", name), ts_ms=made_ms,
                )
                try:
                    await bus.publish(draft)
                except (Refused, EnvelopeError) as refused:
                    if isinstance(refused, Refused) and refused.code in ("busy", "no_space"):
                        await asyncio.sleep(AGAIN_S)
                        self._new.set()
                        break
                    trouble(f"a notice to the owner was refused ({refused}): {text}")
                await self._db.run(self._told, name)
            await self._new.wait()

    # --- in the database's thread -----------------------------------------------------------------------------

    def _add(self, name: str, text: str) -> None:
        with self._db.begin() as db:
            self.put(db, name, text)

    def _untold(self) -> list[tuple[str, str, int]]:
        with self._db.begin() as db:
            found = db.execute(select(table).where(table.c.told.is_(False)).order_by(table.c.made_ms, table.c.name))
            return [(row.name, row.text, row.made_ms) for row in found]

    def _told(self, name: str) -> None:
        with self._db.begin() as db:
            db.execute(update(table).where(table.c.name == name).values(told=True))
            db.execute(delete(table).where(table.c.told, table.c.made_ms < self._clock_ms() - KEPT_MS))


async def _owners_chat(bus: Bus) -> str:
    """Where the owner is told things, as soon as the router knows it."""
    while True:
        try:
            known = await bus.request("router", GroupsAsked(), Groups)
        except (NoResponder, BusTimeout):
            await asyncio.sleep(AGAIN_S)
            continue
        if known.owner_chat:
            return known.owner_chat
        await asyncio.sleep(AGAIN_S)
