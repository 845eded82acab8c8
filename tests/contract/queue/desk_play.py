"""A desk over a real database that can be killed after every commit, with clocks moved by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
from sqlalchemy import Engine

from microclaw.bus.api import Draft
from microclaw.bus.envelope import VERSION, Envelope
from microclaw.core.ids import new_id
from microclaw.core.kinds import (
    PromptMessage,
    ReplyRequested,
    RunFinished,
    RunGranted,
    RunRequested,
    ScheduledTask,
    TaskWithdrawn,
)
from microclaw.queue.desk import Desk
from microclaw.queue.tables import metadata
from microclaw.store.engine import engine_for

KINDS = RunGranted | ReplyRequested | RunFinished


def envelope(payload: msgspec.Struct | bytes, session: str, message_id: bytes | None = None) -> Envelope:
    raw = payload if isinstance(payload, bytes) else msgspec.msgpack.encode(payload)
    return Envelope(
        v=VERSION, seq=1, ts_ms=0, source="test", device_id="", session_id=session,
        message_id=message_id or new_id(0), payload=msgspec.Raw(raw),
    )


def requested(group: str, *texts: str, is_main: bool = False) -> Envelope:
    messages = tuple(PromptMessage(id=text, sender_name="Ann", sent_ms=1, text=text) for text in texts)
    payload = RunRequested(group=group, chat=f"console:{group}", is_main=is_main, messages=messages)
    return envelope(payload, f"group:{group}")


def task_due(group: str, task_id: str, due_ms: int = 7) -> Envelope:
    task = ScheduledTask(task_id=task_id, prompt="water the plants", due_ms=due_ms)
    return envelope(RunRequested(group=group, chat=f"console:{group}", task=task), f"group:{group}")


def withdrawn(group: str, task_id: str) -> Envelope:
    return envelope(TaskWithdrawn(group=group, task_id=task_id), f"group:{group}")


class Play:
    """The queue without a bus: what it would publish is in `published`, as its outbox says."""

    def __init__(self, folder: Path, max_concurrent: int = 2) -> None:
        self.folder = folder
        self.max_concurrent = max_concurrent
        self.now = 1_700_000_000_000
        self.troubles: list[str] = []
        #: message id → payload: the broker knows repeats.
        self.published: dict[bytes, Any] = {}
        self.engine: Engine | None = None
        engine = engine_for(folder / "queue.db")
        metadata.create_all(engine)
        engine.dispose()
        self.start()

    def start(self) -> None:
        """As after a kill -9: nothing of memory is left."""
        if self.engine is not None:
            self.engine.dispose()
        self.engine = engine_for(self.folder / "queue.db")
        self.desk = Desk(
            self.engine, self.max_concurrent, 1800, wall=lambda: self.now, steady=lambda: self.now,
            trouble=self.troubles.append,
        )
        self.publish(self.desk.outbox.pending())
        self.desk.resume()
        self.publish(self.desk.outbox.pending())

    def publish(self, drafts: list[Draft]) -> list[Any]:
        new = []
        for draft in drafts:
            assert draft.message_id is not None
            assert isinstance(draft.payload, bytes)
            if draft.message_id not in self.published:
                payload = msgspec.msgpack.decode(draft.payload, type=KINDS)
                self.published[draft.message_id] = payload
                new.append(payload)
        return new

    def take(self, given: Envelope) -> list[Any]:
        """Handle a delivery as the service does, and publish what it causes."""
        if given.kind == "run.requested":
            self.desk.requested(given)
        elif given.kind == "task.withdrawn":
            self.desk.withdrawn(given)
        else:
            self.desk.finished(given)
        return self.publish(self.desk.outbox.pending(given.message_id))

    def ends(self, grant: RunGranted, *, ok: bool = True, **how: Any) -> list[Any]:
        return self.take(self.end_of(grant, ok=ok, **how))

    def end_of(self, grant: RunGranted, *, ok: bool = True, **how: Any) -> Envelope:
        report = RunFinished(run_id=grant.run_id, attempt=grant.attempt, group=grant.group, ok=ok, **how)
        return envelope(report, f"group:{grant.group}")

    def until(self, later_ms: int) -> list[Any]:
        """Let time pass, a second at a time."""
        new = []
        end = self.now + later_ms
        while self.now < end:
            self.now = min(end, self.now + 1_000)
            for event in self.desk.due():
                new += self.publish(self.desk.outbox.pending(self.desk.happen(event)))
        return new

    def granted(self) -> list[RunGranted]:
        return [payload for payload in self.published.values() if isinstance(payload, RunGranted)]

    def notices(self) -> list[ReplyRequested]:
        return [payload for payload in self.published.values() if isinstance(payload, ReplyRequested)]


def texts(grant: RunGranted) -> list[str]:
    return [message.text for message in grant.messages]
