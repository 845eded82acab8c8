"""Notes about runs that must outlive this process."""

from __future__ import annotations

from sqlalchemy import Connection, Engine, delete, insert, select, update
from sqlalchemy.dialects.sqlite import insert as upsert

from microclaw.sandbox.tables import runs, stops
from microclaw.store.old_rows import delete_old

#: How long a note is kept, in ms; the newest are whatever their age.
NOTES_KEPT_MS = 7 * 24 * 3600 * 1000


class Notes:
    """Of runs, and of the owner's stops."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def begun(self, run_id: str, now_ms: int) -> None:
        """This run is under way: it may go on after its grant has expired."""
        with self._engine.begin() as db:
            _note(db, run_id, now_ms)

    def not_begun(self, run_id: str) -> None:
        """This run found nothing to run in: its next grant is one of its own, that may expire."""
        with self._engine.begin() as db:
            db.execute(delete(runs).where(runs.c.run_id == run_id, runs.c.visible_ms.is_(None)))

    def visible(self, run_id: str, now_ms: int) -> None:
        """Something of this run is about to be said in a chat: from now on it is never tried again."""
        with self._engine.begin() as db:
            _note(db, run_id, now_ms)
            db.execute(
                update(runs).where(runs.c.run_id == run_id, runs.c.visible_ms.is_(None)).values(visible_ms=now_ms)
            )

    def is_begun(self, run_id: str) -> bool:
        with self._engine.begin() as db:
            return _is_noted(db, run_id)

    def is_visible(self, run_id: str) -> bool:
        query = select(runs.c.run_id).where(runs.c.run_id == run_id, runs.c.visible_ms.is_not(None))
        with self._engine.begin() as db:
            return db.execute(query).first() is not None

    def stop(self, group: str, at_ms: int) -> None:
        """The owner stopped what was granted to the group up to this moment."""
        row = upsert(stops).values(folder=group, stopped_ms=at_ms)
        with self._engine.begin() as db:
            db.execute(row.on_conflict_do_update(index_elements=[stops.c.folder], set_={"stopped_ms": at_ms}))

    def is_stopped(self, group: str, granted_ms: int, now_ms: int) -> bool:
        """Whether the owner's last stop means the run that was granted to the group at this moment. Grants of a group
        come one after the other: a stop that does not mean this one means no later one, and is forgotten."""
        with self._engine.begin() as db:
            stopped_ms = db.execute(select(stops.c.stopped_ms).where(stops.c.folder == group)).scalar()
            if stopped_ms is None:
                return False
            # A stop that is still to come was before the clock was set back.
            if granted_ms <= stopped_ms <= now_ms:
                return True
            db.execute(delete(stops).where(stops.c.folder == group))
            return False

    def forget(self, now_ms: int) -> None:
        """Drop the notes that nobody can ask for any more."""
        with self._engine.begin() as db:
            delete_old(db, runs, runs.c.noted_ms, now_ms - NOTES_KEPT_MS)


def _is_noted(db: Connection, run_id: str) -> bool:
    return db.execute(select(runs.c.run_id).where(runs.c.run_id == run_id)).first() is not None


def _note(db: Connection, run_id: str, now_ms: int) -> None:
    if not _is_noted(db, run_id):
        db.execute(insert(runs), {"run_id": run_id, "noted_ms": now_ms})
