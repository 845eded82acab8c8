"""What one group has to do, and what it is doing: its lane.

The queue's machine (`core.dispatch`) decides which lane runs when; what the next run of a lane is, is decided here:

- one fire of a task is one run, and tasks come before messages;
- but not for ever: while messages wait, at most `FIRES_IN_A_ROW_MAX` tasks run before them;
- a run of messages takes all there are of one chat, up to `RUN_MESSAGES_MAX` and a number of bytes: it answers there;
- messages that were given up wait for the next message of their chat, and the group's other chats don't wait for them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from enum import StrEnum

#: Messages in one run, at most.
RUN_MESSAGES_MAX = 1_000
#: Tasks that run one after another while messages of their group wait. (Not kept: after a restart counting is anew.)
FIRES_IN_A_ROW_MAX = 8


class LaneState(StrEnum):
    """What a group is doing."""

    #: Nothing to do.
    IDLE = "idle"
    #: In line for a place.
    WAITING = "waiting"
    #: Its run is under way.
    RUNNING = "running"
    #: Its messages are tried again at a known time.
    BACKING_OFF = "backing off"
    #: Its messages wait for the next message.
    KEPT = "kept"


@dataclass(frozen=True, slots=True)
class Item:
    """One message that a group has to answer."""

    #: Its place in the order of arrival, unique.
    number: int
    chat: str
    is_main: bool = False
    size_bytes: int = 0
    #: The run that had it last, "" = none yet.
    last_run: str = ""


@dataclass(frozen=True, slots=True)
class Fire:
    """One due time of a task."""

    number: int
    chat: str
    task_id: str
    due_ms: int
    is_main: bool = False
    #: Its task does not want it any more: it may end what it has begun, and waits no longer.
    is_withdrawn: bool = False

    @property
    def key(self) -> tuple[str, int]:
        return (self.task_id, self.due_ms)


@dataclass(frozen=True, slots=True)
class Run:
    """A granted run: of messages (`items`) or of one task (`fire`)."""

    run_id: str
    group: str
    chat: str
    is_main: bool
    #: 1 for the first try of these messages.
    attempt: int
    granted_ms: int
    items: tuple[Item, ...] = ()
    fire: Fire | None = None


#: Names the next run of a group, of this task fire or (None) of its messages. Runs of messages never share a name.
RunIds = Callable[[str, "Fire | None"], str]


@dataclass(slots=True)
class Lane:
    """What one group has to do."""

    group: str
    #: Waiting messages, in order of arrival.
    items: list[Item] = field(default_factory=list)
    #: Waiting task fires, in order of arrival.
    fires: list[Fire] = field(default_factory=list)
    #: The fires found nothing to run in: they wait for the end of the pause, or for another reason to look again.
    fires_rest: bool = False
    run: Run | None = None
    #: The messages are to run as soon as there is a place.
    wanted: bool = False
    #: Runs of messages that failed since the last success or notice.
    tries: int = 0
    #: Retries used up.
    retries: int = 0
    #: Runs in a row that found nothing to run in.
    waits: int = 0
    #: When the messages are tried again; None = no retry is set.
    retry_ms: int | None = None
    #: Place in line, None = not in line. Smaller comes first.
    ticket: int | None = None
    #: Of the last failed run.
    error: str = ""
    #: Tasks that ran one after another while messages waited.
    fires_in_a_row: int = 0
    #: Chats whose messages were given up. (Not kept: after a restart they are tried once more with the others.)
    given_up: set[str] = field(default_factory=set)

    @property
    def has_work(self) -> bool:
        return self.has_wanted_fires or self.has_wanted_messages

    @property
    def state(self) -> LaneState:
        if self.run is not None:
            return LaneState.RUNNING
        if self.ticket is not None:
            return LaneState.WAITING
        if self.items or self.fires:
            return LaneState.BACKING_OFF if self.retry_ms is not None else LaneState.KEPT
        return LaneState.IDLE

    @property
    def has_wanted_fires(self) -> bool:
        """Fires wait for a place."""
        return bool(self.fires) and not self.fires_rest

    @property
    def has_wanted_messages(self) -> bool:
        """Messages wait for a place (not for the end of a pause, nor for the next message)."""
        return self.wanted and bool(self.items)

    def add(self, items: Iterable[Item]) -> None:
        """Messages came: they are to run, and with them what was kept of their chats."""
        for item in items:
            self.items.append(item)
            self.given_up.discard(item.chat)
        self.wanted = True

    def begin(self, name: RunIds, now_ms: int, bytes_max: int) -> Run:
        """Its next run starts; there is work for one."""
        self.ticket = None
        if self.has_wanted_fires and not (self.has_wanted_messages and self.fires_in_a_row >= FIRES_IN_A_ROW_MAX):
            self.fires_in_a_row = self.fires_in_a_row + 1 if self.has_wanted_messages else 0
            fire = self.fires.pop(0)
            self.run = Run(name(self.group, fire), self.group, fire.chat, fire.is_main, 1, now_ms, fire=fire)
        else:
            self.fires_in_a_row = 0
            taken = self._take(bytes_max)
            newest = taken[-1]
            self.run = Run(
                name(self.group, None), self.group, newest.chat, newest.is_main, self.tries + 1, now_ms, taken,
            )
        return self.run

    def take_back(self, run: Run) -> None:
        """What this run carried waits again, in front; its fires rest."""
        if run.fire is not None:
            self.fires.insert(0, run.fire)
            self.fires_rest = True
        self.items[:0] = [replace(item, last_run=run.run_id) for item in run.items]

    def wake(self) -> None:
        """A fire has run: messages that found nothing to run in need not wait for the end of their pause."""
        if self.waits:
            self.waits = 0
            self.retry_ms = None
            self.wanted = self.has_live_messages
        if not self.items:
            self.error = ""

    def withdraw(self, task_id: str) -> list[Fire]:
        """Take the task's fires that have not begun out. Returns them."""
        gone = [fire for fire in self.fires if fire.task_id == task_id]
        self.fires = [fire for fire in self.fires if fire.task_id != task_id]
        if not self.has_work:
            self.ticket = None
        if self.run is None and not self.fires and not self.items:
            # Nothing waits any more: the next wait is another one.
            self.waits = 0
            self.retry_ms = None
            self.fires_rest = False
            self.error = ""
        return gone

    def settle(self) -> None:
        """Messages were answered: counting starts anew; what else the group has may run."""
        self.tries = self.retries = self.waits = 0
        self.retry_ms = None
        self.error = ""
        self.fires_rest = False
        self.wanted = self.has_live_messages
        if not self.has_work:
            self.ticket = None

    def give_up(self, chat: str) -> None:
        """The chat's messages stay for its next message; unless one came while the run was under way."""
        self.tries = self.retries = 0
        self.retry_ms = None
        if self.wanted and any(item.chat == chat and not item.last_run for item in self.items):
            return
        self.given_up.add(chat)
        self.wanted = self.has_live_messages

    @property
    def has_live_messages(self) -> bool:
        """Messages of chats that were not given up."""
        return any(item.chat not in self.given_up for item in self.items)

    def _take(self, bytes_max: int) -> tuple[Item, ...]:
        # A run answers in one chat: what was said in another one of the group's is the next run's.
        chat = next((item.chat for item in self.items if item.chat not in self.given_up), self.items[0].chat)
        taken: list[Item] = []
        left: list[Item] = []
        size = 0
        for item in self.items:
            size += item.size_bytes if item.chat == chat else 0
            fits = len(taken) < RUN_MESSAGES_MAX and (size <= bytes_max or not taken)
            (taken if item.chat == chat and fits else left).append(item)
        self.items = left
        # Only what comes from now on starts a run before the pause is over: else what did not fit would, for ever.
        self.wanted = False
        return tuple(taken)
