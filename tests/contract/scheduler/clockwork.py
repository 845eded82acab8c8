"""The scheduler over a real database, with a clock moved by hand, that can be killed at every commit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
from sqlalchemy import Engine, delete, event, select

from microclaw.bus.envelope import VERSION, Envelope
from microclaw.core.ids import new_id
from microclaw.core.kinds import ReplyRequested, RunFinished, RunRequested, TaskWithdrawn
from microclaw.core.requests import ChangeTask, CreateTask, Failed, TaskAnswer, TaskRow, TasksAsked
from microclaw.core.tasks import task_run_id
from microclaw.scheduler import store
from microclaw.scheduler.commands import Commands
from microclaw.scheduler.firing import Firing
from microclaw.scheduler.tables import fires, metadata, outbox
from microclaw.store.engine import engine_for


class Clockwork:
    """What it would publish is in `requests` and `notices`."""

    def __init__(self, folder: Path, now: int = 1_700_000_000_000, zone: str = "UTC") -> None:
        self.folder = folder
        self.now = now
        self.zone = zone
        self.folders: frozenset[str] | None = frozenset({"main", "fam", "other"})
        self.troubles: list[str] = []
        self.published: dict[bytes, Any] = {}
        self.numbers = 0
        self.engine: Engine | None = None
        engine = engine_for(folder / "scheduler.db")
        metadata.create_all(engine)
        engine.dispose()
        self.start()

    def start(self) -> None:
        """As after a kill -9."""
        if self.engine is not None:
            self.engine.dispose()
        self.engine = engine_for(self.folder / "scheduler.db")
        # The process is killed here, never the machine: waiting for the disk would only make tests slow.
        event.listen(self.engine, "connect", lambda raw, _record: raw.execute("PRAGMA synchronous=OFF"))
        self.firing = Firing(self.engine, wall=lambda: self.now, trouble=self.troubles.append)
        self.commands = Commands(self.engine, self.firing.outbox, wall=lambda: self.now, owner_zone=self.zone)
        self.publish()

    def publish(self) -> None:
        for draft in self.firing.outbox.pending():
            assert draft.message_id is not None
            assert isinstance(draft.payload, bytes)
            payload = msgspec.msgpack.decode(draft.payload, type=RunRequested | ReplyRequested | TaskWithdrawn)
            known = self.published.setdefault(draft.message_id, payload)
            assert known == payload, "the same id must be the same message"
        assert self.engine is not None
        with self.engine.begin() as db:
            db.execute(delete(outbox))

    @property
    def requests(self) -> list[RunRequested]:
        return [payload for payload in self.published.values() if isinstance(payload, RunRequested)]

    @property
    def notices(self) -> list[str]:
        return [payload.text for payload in self.published.values() if isinstance(payload, ReplyRequested)]

    @property
    def withdrawn(self) -> list[str]:
        return [payload.task_id for payload in self.published.values() if isinstance(payload, TaskWithdrawn)]

    def fired(self) -> list[tuple[str, int]]:
        return [(request.task.task_id, request.task.due_ms) for request in self.requests if request.task]

    def create(self, schedule: str, value: str, *, command_id: str = "", **facts: Any) -> TaskRow:
        answer = self.try_create(schedule, value, command_id=command_id, **facts)
        assert isinstance(answer, TaskAnswer), answer
        return answer.task

    def try_create(self, schedule: str, value: str, *, command_id: str = "", **facts: Any) -> TaskAnswer | Failed:
        self.numbers += 1
        known = {"group": "fam", "chat": "console:fam", "prompt": "stretch"} | facts
        return self.commands.create(CreateTask(
            command_id=command_id or f"c{self.numbers}", schedule=schedule, value=value, **known,
        ))

    def change(self, task_id: str, action: str, **facts: Any) -> TaskAnswer | Failed:
        self.numbers += 1
        return self.commands.change(ChangeTask(
            **({"command_id": f"c{self.numbers}", "task_id": task_id, "action": action} | facts)  # type: ignore[arg-type]
        ))

    def tick(self) -> int:
        """One pass, as the service makes it."""
        count = 0
        while due := self.firing.due():
            count += self.firing.fire(due, self.folders)
        self.publish()
        return count

    def ends(self, task_id: str, due_ms: int, *, ok: bool = True, **how: Any) -> bool:
        report = RunFinished(run_id=task_run_id(task_id, due_ms), attempt=1, group="fam", ok=ok, **how)
        done = self.firing.finished(Envelope(
            v=VERSION, seq=1, ts_ms=0, source="sandbox", device_id="", session_id="group:fam",
            message_id=new_id(self.now), payload=msgspec.Raw(msgspec.msgpack.encode(report)),
        ))
        self.publish()
        return done

    def finish_all(self) -> None:
        """All runs under way end well."""
        assert self.engine is not None
        with self.engine.begin() as db:
            query = select(fires.c.task_id, fires.c.due_ms).where(fires.c.status == store.FIRED)
            waiting = [(row.task_id, row.due_ms) for row in db.execute(query)]
        for task_id, due_ms in waiting:
            self.ends(task_id, due_ms)

    def rows(self, viewer: str = "", viewer_is_main: bool = False) -> list[TaskRow]:
        return list(self.commands.list(TasksAsked(viewer=viewer, viewer_is_main=viewer_is_main)).tasks)

    def row(self, task_id: str) -> TaskRow:
        [found] = [row for row in self.rows() if row.id == task_id]
        return found

    def log(self, task_id: str) -> list[tuple[int, str, str]]:
        assert self.engine is not None
        return [(row.due_ms, row.status, row.result) for row in store.log_of(self.engine, task_id)]


class Killed:
    """The process dies in its next commit: before it took place or right after."""

    def __init__(self, clock: Clockwork, *, before: bool) -> None:
        self._engine = clock.engine
        self._before = before

    def _die(self, _connection: Any) -> None:
        raise KeyboardInterrupt("killed before the commit")

    def __enter__(self) -> None:
        if self._before:
            event.listen(self._engine, "commit", self._die)

    def __exit__(self, kind: type[BaseException] | None, *_rest: Any) -> bool:
        if self._before:
            event.remove(self._engine, "commit", self._die)
        return kind is KeyboardInterrupt
