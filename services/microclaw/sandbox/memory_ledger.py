"""What agents remember, on disk: what turns are told, the sources of its lines, and what waits for the owner."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import msgspec
from sqlalchemy import Connection, Engine, Row, Select, delete, insert, select, update
from sqlalchemy.dialects.sqlite import insert as insert_or

from microclaw.core.memory_changes import SOURCES_MAX, Source, digest, lines_of, named, origins_after, source, without
from microclaw.sandbox.tables import memory_changes as changes
from microclaw.sandbox.tables import memory_files as files
from microclaw.sandbox.tables import memory_folders as folders
from microclaw.sandbox.tables import memory_sources as sources_
from microclaw.sandbox.tables import memory_tasks as tasks

#: The scope of what a group's conversation holds; other scopes are workers' ids.
CONVERSATION = "conversation"
#: How long a change is remembered that no line comes from any more, ms.
KEPT_MS = 30 * 24 * 3600 * 1000
#: Held changes of one folder; of more, the oldest is refused.
HELD_MAX = 50


@dataclass(frozen=True, slots=True)
class File:
    """A memory file as turns are told it."""

    content: bytes | None
    is_behind: bool = False


@dataclass(frozen=True, slots=True)
class Change:
    """A change, whatever became of it. `content`, `base`: of a held one."""

    number: int
    folder: str
    name: str
    state: str
    run_id: str
    sources: tuple[str, ...]
    made_ms: int
    content: bytes | None
    base: bytes
    code: str
    is_expired: bool

    @property
    def where(self) -> str:
        return f"{self.folder}/{self.name}"


@dataclass(frozen=True, slots=True)
class Folder:
    """A folder that is watched over: whose agents write there, and how far they were looked at."""

    group: str
    is_main: bool
    is_awake: bool
    audit_number: int


class MemoryLedger:
    """The tables. Synchronous: what is taken, held or put back is one transaction each.

    :param clock_ms: Unix milliseconds.
    """

    def __init__(self, engine: Engine, clock_ms: Callable[[], int]) -> None:
        self._engine = engine
        self._clock_ms = clock_ms
        #: Folder → name → file; this process is the only writer.
        self._files: dict[str, dict[str, File]] = {}

    # --- folders and what is told in them ---

    def folder(self, folder: str) -> Folder | None:
        """None = nobody has kept watch over it yet."""
        with self._engine.begin() as db:
            row = db.execute(select(folders).where(folders.c.folder == folder)).first()
        return None if row is None else _folder(row)

    def all_folders(self) -> dict[str, Folder]:
        with self._engine.begin() as db:
            return {
                row.folder: _folder(row)
                for row in db.execute(select(folders).order_by(folders.c.folder))
            }

    def adopt(self, folder: str, fresh: Folder, found: dict[str, bytes | None], by: str) -> None:
        """Begin to keep watch; what is there is memory, and comes from `by`."""
        with self._engine.begin() as db:
            db.execute(insert(folders), {
                "folder": folder, "group_folder": fresh.group, "is_main": fresh.is_main, "is_awake": fresh.is_awake,
                "audit_number": fresh.audit_number,
            })
            for name, content in found.items():
                if content is not None:
                    self._take(db, folder, name, content, (by,), "", is_behind=False)
        self._files.pop(folder, None)

    def belongs(self, folder: str, group: str, *, is_main: bool) -> None:
        """This group's agents write there."""
        with self._engine.begin() as db:
            db.execute(update(folders).where(
                folders.c.folder == folder, (folders.c.group_folder != group) | (folders.c.is_main.is_(not is_main)),
            ).values(group_folder=group, is_main=is_main))

    def note(self, folder: str, scope: str, told: Iterable[Source], *, is_awake: bool | None = None) -> None:
        """These sources are told to agents that write there. On disk when this returns; what is known costs nothing."""
        with self._engine.begin() as db:
            if is_awake is not None:
                db.execute(update(folders).where(
                    folders.c.folder == folder, folders.c.is_awake.is_(not is_awake)
                ).values(is_awake=is_awake))
            known = {
                Source(row.source, row.is_trusted)
                for row in db.execute(select(sources_).where(sources_.c.folder == folder, sources_.c.scope == scope))
            }
            for each in told:
                if len(known) >= SOURCES_MAX:
                    each = source("many others", is_trusted=each.is_trusted)
                if each not in known:
                    known.add(each)
                    db.execute(insert_or(sources_).values(
                        folder=folder, scope=scope, source=each.name, is_trusted=each.is_trusted,
                    ).on_conflict_do_nothing())

    def told(self, folder: str) -> tuple[Source, ...]:
        """All sources that are or were told to agents that may still write there."""
        with self._engine.begin() as db:
            rows = db.execute(select(sources_).where(sources_.c.folder == folder))
            return tuple(sorted({Source(row.source, row.is_trusted) for row in rows}))

    def looked(self, folder: str, audit_number: int) -> None:
        """The audit log was looked at up to this entry."""
        with self._engine.begin() as db:
            db.execute(update(folders).where(folders.c.folder == folder).values(audit_number=audit_number))

    def forget_told(self, folder: str, scope: str) -> None:
        """The conversation is over, or the worker has ended."""
        with self._engine.begin() as db:
            db.execute(delete(sources_).where(sources_.c.folder == folder, sources_.c.scope == scope))

    def asleep(self, folder: str) -> None:
        """No worker writes there any more."""
        with self._engine.begin() as db:
            db.execute(update(folders).where(folders.c.folder == folder).values(is_awake=False))
            db.execute(delete(sources_).where(sources_.c.folder == folder, sources_.c.scope != CONVERSATION))

    def trust_task(self, task_id: str, *, is_trusted: bool) -> None:
        """Whether a task was made, and last changed, where only trusted words were."""
        with self._engine.begin() as db:
            if is_trusted:
                db.execute(insert_or(tasks).values(task_id=task_id).on_conflict_do_nothing())
            else:
                db.execute(delete(tasks).where(tasks.c.task_id == task_id))

    def is_task_trusted(self, task_id: str) -> bool:
        with self._engine.begin() as db:
            return db.execute(select(tasks.c.task_id).where(tasks.c.task_id == task_id)).first() is not None

    # --- files ---

    def files(self, folder: str) -> dict[str, File]:
        """The memory of a folder."""
        if folder not in self._files:
            with self._engine.begin() as db:
                self._files[folder] = {
                    row.name: File(row.content, row.is_behind)
                    for row in db.execute(select(files).where(files.c.folder == folder))
                }
        return dict(self._files[folder])

    def origins(self, folder: str, name: str) -> list[int]:
        """For each line of a file, the change that brought it."""
        with self._engine.begin() as db:
            return self._origins(db, folder, name)

    def take(
        self, folder: str, name: str, content: bytes | None, by: Iterable[str], run_id: str = "", *, held: int = 0,
        is_behind: bool = False,
    ) -> None:
        """This is memory from now on. `held`: it was that change, which the owner allowed."""
        with self._engine.begin() as db:
            self._take(db, folder, name, content, named(by), run_id, held=held, is_behind=is_behind)
            self._tidy(db, folder)
        self._files.pop(folder, None)

    def hold(
        self, folder: str, name: str, content: bytes | None, by: Iterable[str], run_id: str
    ) -> None:
        """This is not memory before the owner says so; the file is to be put back."""
        base = self.files(folder).get(name, File(None))
        with self._engine.begin() as db:
            waiting = [row for row in db.execute(_held(folder)) if row.name == name]
            if not any(row.content == content and row.base == digest(base.content) for row in waiting):
                db.execute(insert(changes), {
                    "folder": folder, "name": name, "state": "held", "run_id": run_id,
                    "sources": msgspec.msgpack.encode(named(by)), "made_ms": self._clock_ms(), "content": content,
                    "base": digest(base.content), "code": "", "is_expired": False,
                })
            for row in db.execute(_held(folder)).all()[:-HELD_MAX]:
                _settle(db, row.number, "refused")
            self._write(db, folder, name, base.content, self._origins(db, folder, name), is_behind=True)
        self._files.pop(folder, None)

    def rebase(self, number: int, base: bytes) -> None:
        """The file has changed since: what the owner was asked is not what would happen; to be asked anew."""
        with self._engine.begin() as db:
            db.execute(update(changes).where(changes.c.number == number).values(base=base, code=""))

    def written(self, folder: str, name: str) -> None:
        """The file in the folder is as it should be."""
        with self._engine.begin() as db:
            db.execute(
                update(files).where(files.c.folder == folder, files.c.name == name).values(is_behind=False)
            )
        self._files.pop(folder, None)

    def forget(self, source: str) -> tuple[dict[tuple[str, str], list[bytes]], int]:
        """Take out every line that came from a source, and refuse what waits from it.

        Returns the lines by (folder, name), whose files are to be put right, and how many waiting changes went.
        """
        gone: dict[tuple[str, str], list[bytes]] = {}
        with self._engine.begin() as db:
            rows = db.execute(select(changes.c.number, changes.c.state, changes.c.sources)).all()
            meant = {row.number: row.state for row in rows if source in _names(row.sources)}
            for row in db.execute(select(files).where(files.c.content.is_not(None))).all():
                lines = lines_of(row.content)
                origins = msgspec.msgpack.decode(row.origins, type=list[int])
                kept, left = without(lines, origins, meant)
                if len(kept) == len(lines):
                    continue
                gone[row.folder, row.name] = [
                    line for line, origin in zip(lines, origins, strict=True) if origin in meant
                ]
                self._write(db, row.folder, row.name, b"".join(kept) if kept else None, left, is_behind=True)
            held = [number for number, state in meant.items() if state == "held"]
            for number, state in meant.items():
                if state in ("in", "held"):
                    _settle(db, number, "forgotten")
        self._files.clear()
        return gone, len(held)

    # --- changes ---

    def held(self, folder: str = "") -> list[Change]:
        """What waits for the owner, oldest first."""
        with self._engine.begin() as db:
            return [_change(row) for row in db.execute(_held(folder))]

    def change(self, number: int) -> Change | None:
        with self._engine.begin() as db:
            row = db.execute(select(changes).where(changes.c.number == number)).first()
        return None if row is None else _change(row)

    def asked(self, number: int, code: str, *, is_expired: bool = False) -> None:
        """The owner was asked, or did not answer in time."""
        with self._engine.begin() as db:
            db.execute(update(changes).where(changes.c.number == number).values(code=code, is_expired=is_expired))

    def refuse(self, number: int) -> None:
        """The owner said no."""
        with self._engine.begin() as db:
            _settle(db, number, "refused")

    def lines_by_source(self) -> list[tuple[str, str, Counter[str], int]]:
        """(folder, name, lines by source, bytes) of every file."""
        with self._engine.begin() as db:
            by = {row.number: _names(row.sources) for row in db.execute(select(changes.c.number, changes.c.sources))}
            found = []
            there = select(files).where(files.c.content.is_not(None)).order_by(files.c.folder, files.c.name)
            for row in db.execute(there):
                count: Counter[str] = Counter()
                for origin in msgspec.msgpack.decode(row.origins, type=list[int]):
                    count.update(by.get(origin, ()))
                found.append((row.folder, row.name, count, len(row.content)))
            return found

    # --- inside ---

    def _take(
        self, db: Connection, folder: str, name: str, content: bytes | None, by: tuple[str, ...], run_id: str, *,
        is_behind: bool, held: int = 0,
    ) -> None:
        before = db.execute(select(files).where(files.c.folder == folder, files.c.name == name)).first()
        if held:
            _settle(db, held, "in")
            number = held
        else:
            made = db.execute(insert(changes), {
                "folder": folder, "name": name, "state": "in", "run_id": run_id,
                "sources": msgspec.msgpack.encode(by), "made_ms": self._clock_ms(), "content": None, "base": b"",
                "code": "", "is_expired": False,
            })
            (number,) = made.inserted_primary_key or (0,)
        old = lines_of(before.content) if before is not None else []
        known = msgspec.msgpack.decode(before.origins, type=list[int]) if before is not None else []
        self._write(
            db, folder, name, content, origins_after(old, known, lines_of(content), number), is_behind=is_behind
        )

    def _write(
        self, db: Connection, folder: str, name: str, content: bytes | None, origins: list[int], *, is_behind: bool
    ) -> None:
        row = insert_or(files).values(
            folder=folder, name=name, content=content, origins=msgspec.msgpack.encode(origins), is_behind=is_behind,
        )
        db.execute(row.on_conflict_do_update(
            index_elements=[files.c.folder, files.c.name],
            set_={"content": content, "origins": msgspec.msgpack.encode(origins), "is_behind": is_behind},
        ))

    def _origins(self, db: Connection, folder: str, name: str) -> list[int]:
        raw = db.execute(
            select(files.c.origins).where(files.c.folder == folder, files.c.name == name)
        ).scalar()
        return [] if raw is None else msgspec.msgpack.decode(raw, type=list[int])

    def _tidy(self, db: Connection, folder: str) -> None:
        """Forget changes that nothing comes from any more."""
        old = {
            row.number for row in db.execute(select(changes.c.number).where(
                changes.c.folder == folder, changes.c.state != "held", changes.c.made_ms < self._clock_ms() - KEPT_MS,
            ))
        }
        if not old:
            return
        for raw in db.execute(select(files.c.origins).where(files.c.folder == folder)).scalars():
            old -= set(msgspec.msgpack.decode(raw, type=list[int]))
        db.execute(delete(changes).where(changes.c.number.in_(sorted(old)[:500])))


def _held(folder: str) -> Select[tuple[Any, ...]]:
    query = select(changes).where(changes.c.state == "held").order_by(changes.c.number)
    return query.where(changes.c.folder == folder) if folder else query


def _settle(db: Connection, number: int, state: str) -> None:
    db.execute(update(changes).where(changes.c.number == number).values(state=state, content=None))


def _folder(row: Row[tuple[Any, ...]]) -> Folder:
    return Folder(row.group_folder, row.is_main, row.is_awake, row.audit_number)


def _names(raw: bytes) -> tuple[str, ...]:
    return msgspec.msgpack.decode(raw, type=tuple[str, ...])


def _change(row: Row[tuple[Any, ...]]) -> Change:
    return Change(
        row.number, row.folder, row.name, row.state, row.run_id, _names(row.sources), row.made_ms, row.content,
        row.base, row.code, row.is_expired,
    )
