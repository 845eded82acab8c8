"""What the queue decides: who runs now, who waits, what is tried again.

A pure state machine. Events go in (`Wanted`, `TaskDue`, `Finished`, `RetryDue`, `LeaseOver`, `Drain`), commands come
out (`Grant`, `Ended`, `Notice`, `Ignored`); it does no I/O, never reads a clock and never sees a text.

The rules:

- one run of a group at a time, `max_concurrent` in all;
- groups wait in order of arrival and stand in line once; a group whose run ended goes behind those who wait;
- within a group tasks come before messages (`core.lanes`); one fire of a task (task, due time) is one run;
- a run of messages takes all that the group has, up to `RUN_BYTES_MAX` (the rest is the next run's);
- a failed run's messages go back in front and are tried again after 5·2ⁿ s, five times; then the chat gets a notice and
  the messages are kept for the next message, when counting starts anew. A success resets the count;
- a run that found nothing to run in was no try: what it carried waits, is tried again at most every 80 s for as long as
  it takes, and the chat is told once. A fire stays the same run in all its tries; what was seen to run in that time
  wakes all that waits; a task that was cancelled or paused meanwhile withdraws what has not begun;
- a message that comes during back-off starts a run at once, besides the retries: neither their count nor their time
  changes by its failure;
- what can't get better by itself (a bad key, a folder that can't be shown) is told at once and kept;
- a run of which something is already visible in the chat is never tried again, nor is a task.

**Nobody starves**: a group in line starts before any other group starts twice. With G groups it sees at most G-1 other
runs start; with C places, each busy at most L, the group behind k others waits at most (⌊k/C⌋ + 1) · L.

**Fencing**: only the run that was granted last counts. What an older one says later is ignored, with one exception: it
went well (or was seen in the chat) and its messages were not granted again yet; then they count as done.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import StrEnum

from microclaw.core.lanes import Fire, Item, Lane, LaneState, Run, RunIds

#: Pause before retry number 1, 2, …, in ms: runs start at 0, 5, 15, 35, 75 and 155 s.
RETRY_MS = (5_000, 10_000, 20_000, 40_000, 80_000)
#: Text of one run's messages, encoded, at most: half of what an envelope carries.
RUN_BYTES_MAX = 512 * 1024
#: Runs in a row that found nothing to run in, before the chat is told: after 15 s. An engine's restart takes less.
WAITS_TOLD = 3


class Outcome(StrEnum):
    """How a run ended, for the queue."""

    #: It went well.
    DONE = "done"
    #: It failed, and is tried again.
    RETRYING = "retrying"
    #: It failed, and something of it is in the chat: its messages count as done.
    CUT = "cut"
    #: It failed for good: messages are kept for the next message, a task is over.
    FAILED = "failed"
    #: Its task did not want it any more, and it found nothing to run in.
    WITHDRAWN = "withdrawn"


class IllegalTransition(Exception):
    """An event came that the group's state does not allow."""

    def __init__(self, group: str, event: str, expected: str, got: str) -> None:
        self.expected = expected
        self.got = got
        super().__init__(f"{event} for {group}: expected {expected}, got {got}")


# --- events ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Wanted:
    """Messages came for a group."""

    group: str
    items: tuple[Item, ...]


@dataclass(frozen=True, slots=True)
class TaskDue:
    """A task of a group is due."""

    group: str
    fire: Fire


@dataclass(frozen=True, slots=True)
class Withdrawn:
    """A task does not want what it has asked for, as far as that has not begun."""

    group: str
    task_id: str


@dataclass(frozen=True, slots=True)
class Finished:
    """The sandbox says that a run ended."""

    group: str
    run_id: str
    ok: bool
    retryable: bool = True
    visible: bool = False
    error: str = ""
    #: There was nothing to run it in.
    waiting: bool = False


@dataclass(frozen=True, slots=True)
class RetryDue:
    """A group's pause is over."""

    group: str


@dataclass(frozen=True, slots=True)
class LeaseOver:
    """A granted run was not heard of for too long: it is lost."""

    group: str
    run_id: str
    error: str


@dataclass(frozen=True, slots=True)
class Drain:
    """We are stopping: nothing new starts, what runs is left to end by itself."""


@dataclass(frozen=True, slots=True)
class Resume:
    """We started (again): those in line may run."""


Event = Wanted | TaskDue | Withdrawn | Finished | RetryDue | LeaseOver | Drain | Resume


# --- commands ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Grant:
    """Let this run."""

    run: Run


@dataclass(frozen=True, slots=True)
class Ended:
    """This run is over. Its messages are done (`DONE`, `CUT`) or the group's again (`RETRYING`, `FAILED`), its fire is
    done unless it is `RETRYING`."""

    run: Run
    outcome: Outcome
    error: str = ""
    #: Nobody told us: the lease ran out.
    lost: bool = False


@dataclass(frozen=True, slots=True)
class LateDone:
    """A run that was given up went well after all: these messages are done."""

    run_id: str
    items: tuple[Item, ...]


@dataclass(frozen=True, slots=True)
class Notice:
    """Tell the chat that its messages were not answered, or its task did not run. `again` False: trying again does not
    help by itself; `waits`: it is done as soon as there is something to run in."""

    run: Run
    error: str
    again: bool
    waits: bool = False


@dataclass(frozen=True, slots=True)
class Dropped:
    """This fire will not run: it was withdrawn before it began."""

    group: str
    fire: Fire


@dataclass(frozen=True, slots=True)
class Doomed:
    """This fire is under way and was withdrawn: it must not wait any more."""

    fire: Fire


@dataclass(frozen=True, slots=True)
class Ignored:
    """The event changes nothing: it was known already, or comes too late."""

    why: str


Command = Grant | Ended | LateDone | Notice | Dropped | Doomed | Ignored


# --- the machine -------------------------------------------------------------------------------------------


class Dispatch:
    """The queue's state. `handle` is the only way to change it."""

    def __init__(
        self, max_concurrent: int, lanes: Iterable[Lane] = (), *, run_bytes_max: int = RUN_BYTES_MAX
    ) -> None:
        if max_concurrent < 1:
            raise ValueError(f"max_concurrent is {max_concurrent}: at least one run must be allowed")
        self.max_concurrent = max_concurrent
        self.run_bytes_max = run_bytes_max
        self.draining = False
        self.lanes: dict[str, Lane] = {lane.group: lane for lane in lanes}
        #: Groups that the last event changed, for whoever keeps the state.
        self.changed: set[str] = set()
        self._tickets = max((lane.ticket or 0 for lane in self.lanes.values()), default=0)

    # --- asking --------------------------------------------------------------------------------------------

    @property
    def running(self) -> list[Run]:
        """What runs now, the oldest first."""
        return sorted((lane.run for lane in self.lanes.values() if lane.run), key=lambda run: run.granted_ms)

    @property
    def line(self) -> list[str]:
        """Groups in line, the next one first."""
        waiting = [(lane.ticket, lane.group) for lane in self.lanes.values() if lane.ticket is not None]
        return [group for _, group in sorted(waiting)]

    def state(self, group: str) -> LaneState:
        lane = self.lanes.get(group)
        return lane.state if lane else LaneState.IDLE

    def retries_due(self, now_ms: int) -> list[RetryDue]:
        """The pauses that are over, the one over longest first; of equal ones the group that waits longest."""
        due = [(lane.retry_ms, lane.items[0].number if lane.items else 0, lane.group) for lane in self.lanes.values()
               if lane.retry_ms is not None and lane.retry_ms <= now_ms]
        return [RetryDue(group) for _, _, group in sorted(due)]

    def next_retry_ms(self) -> int | None:
        """When the next pause is over."""
        return min((lane.retry_ms for lane in self.lanes.values() if lane.retry_ms is not None), default=None)

    # --- events --------------------------------------------------------------------------------------------

    def handle(self, event: Event, now_ms: int, run_ids: RunIds) -> list[Command]:
        """Take an event, give what is to be done, in order.

        :raises IllegalTransition: the event does not fit the state; nothing was changed.
        """
        self.changed = set()
        match event:
            case Wanted():
                commands = self._wanted(event)
            case TaskDue():
                commands = self._task_due(event)
            case Withdrawn():
                commands = self._withdrawn(event)
            case Finished():
                commands = self._finished(event, now_ms)
            case LeaseOver():
                commands = self._lease_over(event, now_ms)
            case RetryDue():
                commands = self._retry_due(event, now_ms)
            case Drain():
                self.draining = True
                commands = []
            case Resume():
                self.draining = False
                commands = []
        return commands + self._grants(now_ms, run_ids)

    def _wanted(self, event: Wanted) -> list[Command]:
        if not event.items:
            return [Ignored(f"no messages for {event.group}")]
        lane = self._lane(event.group)
        lane.add(event.items)
        self._stand_in_line(lane)
        return []

    def _task_due(self, event: TaskDue) -> list[Command]:
        lane = self._lane(event.group)
        known = [fire.key for fire in lane.fires]
        if lane.run is not None and lane.run.fire is not None:
            known.append(lane.run.fire.key)
        if event.fire.key in known:
            return [Ignored(f"task {event.fire.task_id} already has this run")]
        lane.fires.append(event.fire)
        # A reason to look whether there is something to run in; if not, they rest again.
        lane.fires_rest = False
        self._stand_in_line(lane)
        return []

    def _withdrawn(self, event: Withdrawn) -> list[Command]:
        lane = self._lane(event.group)
        commands: list[Command] = [Dropped(event.group, fire) for fire in lane.withdraw(event.task_id)]
        if lane.run is not None and lane.run.fire is not None and lane.run.fire.task_id == event.task_id:
            fire = replace(lane.run.fire, is_withdrawn=True)
            lane.run = replace(lane.run, fire=fire)
            commands.append(Doomed(fire))
        return commands or [Ignored(f"no run of task {event.task_id} waits")]

    def _finished(self, event: Finished, now_ms: int) -> list[Command]:
        lane = self._lane(event.group)
        if lane.run is None or lane.run.run_id != event.run_id:
            return self._finished_late(lane, event)
        if event.ok:
            return self._succeeded(lane)
        return self._failed(lane, event, now_ms)

    def _finished_late(self, lane: Lane, event: Finished) -> list[Command]:
        if event.ok or event.visible:
            done = tuple(item for item in lane.items if item.last_run == event.run_id)
            if done:
                lane.items = [item for item in lane.items if item.last_run != event.run_id]
                lane.settle()
                self._stand_in_line(lane)
                return [LateDone(event.run_id, done)]
        return [Ignored(f"run {event.run_id} is not the one that {lane.group} has now")]

    def _succeeded(self, lane: Lane) -> list[Command]:
        run = self._take_run(lane)
        lane.fires_rest = False
        if run.fire is None:
            lane.settle()
        else:
            lane.wake()
        self._stand_in_line(lane)
        return [Ended(run, Outcome.DONE)]

    def _failed(self, lane: Lane, event: Finished, now_ms: int, *, lost: bool = False) -> list[Command]:
        run = self._take_run(lane)
        if event.waiting and not event.visible:
            commands = self._put_off(lane, run, event, now_ms)
            self._stand_in_line(lane)
            return commands
        lane.fires_rest = False
        if run.fire is not None:
            if not lost:
                lane.wake()
            self._stand_in_line(lane)
            return [Ended(run, Outcome.FAILED, event.error, lost)]
        lane.error = event.error
        if event.visible:
            lane.settle()
            self._stand_in_line(lane)
            return [Ended(run, Outcome.CUT, event.error, lost)]
        lane.take_back(run)
        lane.tries += 1
        lane.waits = 0
        commands = self._give_back(lane, run, event, now_ms, lost)
        self._stand_in_line(lane)
        return commands

    def _put_off(self, lane: Lane, run: Run, event: Finished, now_ms: int) -> list[Command]:
        if run.fire is not None and run.fire.is_withdrawn:
            return [Ended(run, Outcome.WITHDRAWN, event.error), Dropped(lane.group, run.fire)]
        lane.error = event.error
        lane.take_back(run)
        commands: list[Command] = [Ended(run, Outcome.RETRYING, event.error)]
        # As with retries, a run that a new message started meanwhile changes nothing.
        if lane.retry_ms is None or lane.retry_ms <= now_ms:
            lane.retry_ms = now_ms + RETRY_MS[min(lane.waits, len(RETRY_MS) - 1)]
            lane.waits += 1
            if lane.waits == WAITS_TOLD:
                commands.append(Notice(run, event.error, again=False, waits=True))
        return commands

    def _give_back(self, lane: Lane, run: Run, event: Finished, now_ms: int, lost: bool) -> list[Command]:
        if not event.retryable:
            lane.give_up(run.chat)
            return [Ended(run, Outcome.FAILED, event.error, lost), Notice(run, event.error, again=False)]
        # A run that a new message started during the pause is besides the retries.
        if lane.retry_ms is not None and lane.retry_ms > now_ms:
            return [Ended(run, Outcome.RETRYING, event.error, lost)]
        if lane.retries >= len(RETRY_MS):
            lane.give_up(run.chat)
            return [Ended(run, Outcome.FAILED, event.error, lost), Notice(run, event.error, again=True)]
        lane.retry_ms = now_ms + RETRY_MS[lane.retries]
        lane.retries += 1
        return [Ended(run, Outcome.RETRYING, event.error, lost)]

    def _lease_over(self, event: LeaseOver, now_ms: int) -> list[Command]:
        lane = self._lane(event.group)
        if lane.run is None or lane.run.run_id != event.run_id:
            got = f"{lane.state} {lane.run.run_id if lane.run else ''}".strip()
            raise IllegalTransition(event.group, "LeaseOver", f"running {event.run_id}", got)
        return self._failed(lane, Finished(event.group, event.run_id, ok=False, error=event.error), now_ms, lost=True)

    def _retry_due(self, event: RetryDue, now_ms: int) -> list[Command]:
        lane = self._lane(event.group)
        if lane.retry_ms is None or lane.retry_ms > now_ms:
            raise IllegalTransition(event.group, "RetryDue", f"a retry due by {now_ms}", f"{lane.retry_ms}")
        lane.retry_ms = None
        lane.fires_rest = False
        # While a run of the messages is under way it *is* the retry: its failure counts and sets the next pause.
        if lane.has_live_messages and (lane.run is None or lane.run.fire is not None):
            lane.wanted = True
        self._stand_in_line(lane)
        return []

    # --- inside --------------------------------------------------------------------------------------------

    def _lane(self, group: str) -> Lane:
        self.changed.add(group)
        return self.lanes.setdefault(group, Lane(group))

    def _take_run(self, lane: Lane) -> Run:
        if lane.run is None:
            raise IllegalTransition(lane.group, "Finished", LaneState.RUNNING, lane.state)
        run, lane.run = lane.run, None
        return run

    def _stand_in_line(self, lane: Lane) -> None:
        if lane.run is None and lane.ticket is None and lane.has_work:
            self._tickets += 1
            lane.ticket = self._tickets

    def _grants(self, now_ms: int, run_ids: RunIds) -> list[Command]:
        commands: list[Command] = []
        free = self.max_concurrent - sum(lane.run is not None for lane in self.lanes.values())
        for group in self.line:
            if self.draining or free <= 0:
                break
            commands.append(Grant(self._lane(group).begin(run_ids, now_ms, self.run_bytes_max)))
            free -= 1
        return commands
