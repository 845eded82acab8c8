"""Where events meet the database: each takes effect in one transaction, with what it causes in the outbox."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence

import msgspec
from sqlalchemy import Connection, Engine

from microclaw.bus.api import Draft
from microclaw.bus.envelope import ENVELOPE_BYTES_MAX, Envelope
from microclaw.bus.service import Poison
from microclaw.core.dispatch import (
    Command,
    Dispatch,
    Doomed,
    Dropped,
    Ended,
    Event,
    Finished,
    Grant,
    Ignored,
    LateDone,
    LeaseOver,
    Notice,
    Outcome,
    Resume,
    TaskDue,
    Wanted,
    Withdrawn,
)
from microclaw.core.groups import is_folder
from microclaw.core.ids import derived_id, id_from_text, id_text, id_time, new_id
from microclaw.core.kinds import RunFinished, TaskWithdrawn
from microclaw.core.lanes import Fire, Item, LaneState
from microclaw.core.requests import RunRow
from microclaw.core.tasks import task_run_id
from microclaw.queue import store
from microclaw.queue.notices import OWNER_QUIET_MS, notice_draft, owner_draft
from microclaw.queue.opaque import NOTHING, OpaqueGranted, OpaqueRequested, fire_name, is_there
from microclaw.queue.tables import inbox, outbox
from microclaw.store.outbox import Outbox

#: One message, encoded, at most: what a grant can carry besides its own fields.
ITEM_BYTES_MAX = ENVELOPE_BYTES_MAX - 8 * 1024
#: A grant that the sandbox has not begun after this is void.
START_S_MAX = 600
#: What a lease has over the longest start and the longest run.
LEASE_MARGIN_S = 60

LOST = "the run gave no sign of its end in time; look at the sandbox with `microclaw logs sandbox`"

#: Tells the owner, in `status`.
Trouble = Callable[[str], None]


class SteadyClock:
    """Milliseconds that start as Unix time and then never jump, so that a changed clock moves no pause or lease."""

    def __init__(self) -> None:
        self._began = time.time() - time.monotonic()

    def __call__(self) -> int:
        return int((self._began + time.monotonic()) * 1000)


class Desk:
    """The state machine over its database.

    `wall` is Unix milliseconds, for what people see and other services read; `steady` never jumps: pauses and leases
    are reckoned with it.
    """

    def __init__(
        self, engine: Engine, max_concurrent: int, longest_run_s: float, *,
        wall: Callable[[], int], steady: Callable[[], int], trouble: Trouble,
        log: logging.Logger | None = None,
    ) -> None:
        self.outbox = Outbox(engine, outbox, inbox)
        #: Where the owner is told of other groups' failures, "" = not known (yet): then `status` alone says it.
        self.owner_chat = ""
        self._engine = engine
        self._max_concurrent = max_concurrent
        self._lease_ms = round((START_S_MAX + longest_run_s + LEASE_MARGIN_S) * 1000)
        self._wall = wall
        self._steady = steady
        self._trouble = trouble
        self._log = log or logging.getLogger("microclaw.queue")
        self._load()

    def _load(self) -> None:
        self.dispatch = Dispatch(self._max_concurrent, store.load_lanes(self._engine, self._steady()))
        self._number = store.last_number(self._engine)
        #: Cause → when the owner was last told of it. (Not kept: after a restart it may be told once more.)
        self._owner_told: dict[str, int] = {}
        #: When each run is given up, by the steady clock. After a restart it starts anew: rather late than twice.
        self._leases = {run.run_id: self._steady() + self._lease_ms for run in self.dispatch.running}

    # --- events from the bus ----------------------------------------------------------------------------------

    def requested(self, envelope: Envelope) -> None:
        """A `run.requested`. Seen before: nothing happens.

        :raises Poison: it can never be run.
        """
        request = envelope.read(OpaqueRequested)
        if not is_folder(request.group):
            raise Poison(f"{request.group!r} is no group's folder")
        if any(len(bytes(message)) > ITEM_BYTES_MAX for message in request.messages):
            raise Poison(f"a message of {request.group} is longer than {ITEM_BYTES_MAX} bytes")
        with self._transaction() as db:
            if self.outbox.seen(db, envelope.message_id):
                return
            drafts: list[Draft] = []
            if request.messages:
                drafts += self._take(db, Wanted(request.group, self._add_messages(db, request)))
            if is_there(request.task):
                drafts += self._take_task(db, request, request.task)
            self.outbox.put(db, envelope.message_id, drafts, now_ms=self._wall())

    def finished(self, envelope: Envelope) -> None:
        """A `run.finished`. Seen before, or of a run that is not under way: nothing happens."""
        report = envelope.read(RunFinished)
        event = Finished(
            report.group, report.run_id, ok=report.ok, retryable=report.retryable, visible=report.visible,
            error=report.error, waiting=report.waiting,
        )
        with self._transaction() as db:
            if not self.outbox.seen(db, envelope.message_id):
                self.outbox.put(db, envelope.message_id, self._take(db, event), now_ms=self._wall())

    def withdrawn(self, envelope: Envelope) -> None:
        """A `task.withdrawn`. Seen before, or nothing of the task waits: nothing happens.

        :raises Poison: it names no group.
        """
        task = envelope.read(TaskWithdrawn)
        if not is_folder(task.group):
            raise Poison(f"{task.group!r} is no group's folder")
        with self._transaction() as db:
            if not self.outbox.seen(db, envelope.message_id):
                drafts = self._take(db, Withdrawn(task.group, task.task_id))
                self.outbox.put(db, envelope.message_id, drafts, now_ms=self._wall())

    # --- events of time -----------------------------------------------------------------------------------------

    def due(self) -> list[Event]:
        """What time alone brings about now."""
        now = self._steady()
        lost = [LeaseOver(run.group, run.run_id, LOST)
                for run in self.dispatch.running if self._leases.get(run.run_id, now + 1) <= now]
        return [*lost, *self.dispatch.retries_due(now)]

    def next_due_s(self) -> float | None:
        """Seconds until `due` has something; None = nothing is awaited."""
        moments = list(self._leases.values())
        if (retry := self.dispatch.next_retry_ms()) is not None:
            moments.append(retry)
        return None if not moments else max(0.0, (min(moments) - self._steady()) / 1000)

    def happen(self, event: Event) -> bytes:
        """Take an event of time. Returns the cause under which its drafts are in the outbox."""
        cause = new_id(self._wall())
        with self._transaction() as db:
            self.outbox.add(db, cause, self._take(db, event), now_ms=self._wall())
        return cause

    def resume(self) -> bytes:
        """We started: what stands in line may run."""
        return self.happen(Resume())

    # --- questions --------------------------------------------------------------------------------------------

    def running(self, limit: int) -> tuple[RunRow, ...]:
        return store.running_rows(self._engine, limit)

    def failed(self, limit: int) -> tuple[RunRow, ...]:
        return store.failed_rows(self._engine, limit)

    def waiting(self, limit: int) -> tuple[RunRow, ...]:
        """Groups with something to do that are not running it, the oldest first."""
        since = store.waiting_since(self._engine)
        rows = [
            RunRow(
                run_id="", group=lane.group, attempt=lane.tries + 1, since_ms=since.get(lane.group, 0),
                error=lane.error, state=LaneState.WAITING if lane.state is LaneState.RUNNING else lane.state,
            )
            for lane in self.dispatch.lanes.values() if lane.items or lane.fires
        ]
        return tuple(sorted(rows, key=lambda row: row.since_ms)[:limit])

    def counts(self) -> dict[str, int]:
        """How many groups are in which state."""
        states = [lane.state for lane in self.dispatch.lanes.values()]
        return {state.replace(" ", "_"): states.count(state) for state in LaneState if state is not LaneState.IDLE}

    def tidy(self) -> None:
        """Forget what nobody will ask for."""
        store.trim(self._engine, self._wall())
        self.outbox.forget(now_ms=self._wall())

    # --- inside -----------------------------------------------------------------------------------------------

    def _transaction(self) -> _Transaction:
        return _Transaction(self._engine, self._load)

    def _add_messages(self, db: Connection, request: OpaqueRequested) -> tuple[Item, ...]:
        added = []
        for message in request.messages:
            payload = bytes(message)
            self._number += 1
            item = Item(self._number, request.chat, request.is_main, len(payload))
            store.add_item(db, request.group, item, payload, self._wall())
            added.append(item)
        return tuple(added)

    def _take_task(self, db: Connection, request: OpaqueRequested, task: msgspec.Raw) -> list[Draft]:
        name = fire_name(task)
        fire = Fire(self._number + 1, request.chat, name.task_id, name.due_ms, request.is_main)
        if store.knows_run(db, task_run_id(*fire.key)):
            self._log.info("task already ran", extra={"task_id": name.task_id, "due_ms": name.due_ms})
            return []
        self._number += 1
        # Before the machine takes it: a grant reads it back from here.
        store.add_item(db, request.group, fire, bytes(task), self._wall())
        return self._take(db, TaskDue(request.group, fire), fire)

    def _take(self, db: Connection, event: Event, fire: Fire | None = None) -> list[Draft]:
        now = self._wall()
        commands = self.dispatch.handle(event, self._steady(), self._run_id)
        drafts: list[Draft] = []
        for command in commands:
            drafts += self._carry_out(db, command, fire, now)
        store.keep_lanes(db, [self.dispatch.lanes[group] for group in sorted(self.dispatch.changed)])
        running = {run.run_id for run in self.dispatch.running}
        self._leases = {
            run_id: self._leases.get(run_id, self._steady() + self._lease_ms) for run_id in running
        }
        return drafts

    def _carry_out(self, db: Connection, command: Command, fire: Fire | None, now: int) -> Sequence[Draft]:
        match command:
            case Grant():
                return [self._grant(db, command, now)]
            case Ended():
                store.end_run(db, command, now)
                return self._ended(command, now)
            case LateDone():
                store.end_late(db, command)
                self._log.info("late end counts", extra={"run_id": command.run_id, "messages": len(command.items)})
            case Notice():
                if command.waits:
                    self._log.warning("runs wait", extra={"group": command.run.group, "error": command.error})
                return [notice_draft(command, now), *self._tell_owner(command, now)]
            case Dropped():
                store.drop_item(db, command.fire.number)
                return [_withdrawn_end(command, now)]
            case Doomed():
                store.doom_item(db, command.fire.number)
            case Ignored():
                if fire is not None:
                    store.drop_item(db, fire.number)
                self._log.info("ignored", extra={"why": command.why})
        return []

    def _grant(self, db: Connection, grant: Grant, now: int) -> Draft:
        run = grant.run
        contents = store.start_run(db, run, now)
        self._log.info("granted", extra={
            "run_id": run.run_id, "group": run.group, "attempt": run.attempt, "messages": len(run.items),
        })
        payload = OpaqueGranted(
            run_id=run.run_id, attempt=run.attempt, group=run.group, chat=run.chat, is_main=run.is_main,
            messages=() if run.fire else tuple(contents), task=contents[0] if run.fire else NOTHING,
            expires_ms=now + START_S_MAX * 1000,
        )
        # Named at random: a task's run may be granted more than once.
        return Draft(f"group:{run.group}", payload, message_id=new_id(now), ts_ms=now)

    def _tell_owner(self, notice: Notice, now: int) -> list[Draft]:
        self._owner_told = {
            error: at_ms for error, at_ms in self._owner_told.items() if now - OWNER_QUIET_MS < at_ms <= now
        }
        draft = owner_draft(notice, self.owner_chat, now)
        if draft is None or notice.error in self._owner_told:
            return []
        self._owner_told[notice.error] = now
        return [draft]

    def _ended(self, ended: Ended, now: int) -> list[Draft]:
        run = ended.run
        self._log.info("ended", extra={
            "run_id": run.run_id, "group": run.group, "attempt": run.attempt, "outcome": ended.outcome,
            "lost": ended.lost,
        })
        if ended.outcome is Outcome.FAILED:
            self._trouble(f"a run of {run.group} failed for good: {ended.error}")
        if not ended.lost:
            return []
        # Whoever waits for the end of this run (the scheduler's log) hears of it from us.
        report = RunFinished(
            run_id=run.run_id, attempt=run.attempt, group=run.group, ok=False, error=ended.error,
            retryable=ended.outcome is Outcome.RETRYING,
        )
        return [Draft(f"group:{run.group}", report, message_id=_derived(run.run_id, "lost"), ts_ms=now)]

    def _run_id(self, _group: str, fire: Fire | None) -> str:
        return task_run_id(*fire.key) if fire else id_text(new_id(self._wall()))


def _derived(run_id: str, what: str) -> bytes:
    return derived_id(id_time(id_from_text(run_id)), what, run_id)


def _withdrawn_end(dropped: Dropped, now: int) -> Draft:
    """Whoever waits for the end of this fire (the scheduler's log) hears of it from us."""
    run_id = task_run_id(*dropped.fire.key)
    report = RunFinished(run_id=run_id, attempt=1, group=dropped.group, ok=True, skipped=True, withdrawn=True)
    return Draft(f"group:{dropped.group}", report, message_id=_derived(run_id, "withdrawn"), ts_ms=now)


class _Transaction:
    """A database transaction that takes the machine in memory back with it: its state is read anew if it fails."""

    def __init__(self, engine: Engine, reload: Callable[[], None]) -> None:
        self._begun = engine.begin()
        self._reload = reload

    def __enter__(self) -> Connection:
        return self._begun.__enter__()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        try:
            self._begun.__exit__(kind, error, trace)  # type: ignore[arg-type]
        except BaseException:
            self._reload()
            raise
        if error is not None:
            self._reload()
