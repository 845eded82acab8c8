"""A sandbox that is only a peer on the bus: it takes grants, some time, and says how they ended.

It keeps account of all it is given, so that a test can say what the queue promised: who ran beside whom, which
messages were in which prompt, and how long a group had to stand in line.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass, field

from microclaw.bus.api import Bus, Delivery, Draft, Subscription
from microclaw.core.ids import derived_id
from microclaw.core.kinds import RunFinished, RunGranted


@dataclass(frozen=True)
class Fate:
    """What becomes of a run."""

    takes_s: float
    #: `ok`, `dies` (tried again), `cut` (failed, but seen in the chat), `hopeless` (kept for the next message).
    end: str = "ok"
    #: The sandbox service is killed in the middle of it: the grant comes again, and the run goes on.
    service_dies: bool = False


#: Decides about a run. It must say the same of the same run.
Fates = Callable[[RunGranted], Fate]


@dataclass(frozen=True)
class Event:
    """What happened to a group, in the order in which the peer saw it."""

    #: `said` (a message is on the bus), `begun`, `ended`.
    what: str
    group: str
    texts: tuple[str, ...]
    #: Of an end: `Fate.end`.
    end: str = ""


@dataclass
class SandboxPeer:
    """Takes every grant there is."""

    bus: Bus
    fates: Fates
    events: list[Event] = field(default_factory=list)
    #: Of each group, the messages that runs have settled, in order.
    done: dict[str, list[str]] = field(default_factory=dict)
    #: The most that ran at the same time, and run ids in the order of their first delivery.
    most: int = 0
    grants: list[RunGranted] = field(default_factory=list)
    deliveries: int = 0
    #: What must never be.
    faults: list[str] = field(default_factory=list)
    _given: dict[str, Delivery] = field(default_factory=dict)
    _ends: dict[str, Draft] = field(default_factory=dict)
    _active: dict[str, str] = field(default_factory=dict)
    _tasks: dict[str, asyncio.Task[None]] = field(default_factory=dict)

    async def work(self) -> None:
        """Until it is cancelled."""
        subscription = Subscription("sandbox", ("run.granted",), max_in_flight=256, ack_wait_ms=60_000)
        try:
            async for delivery in self.bus.subscribe(subscription):
                self._take(delivery, delivery.envelope.read(RunGranted))
        finally:
            for task in self._tasks.values():
                task.cancel()
            await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    @property
    def settled(self) -> int:
        """Messages that no run will have any more."""
        return sum(map(len, self.done.values()))

    def said(self, group: str, text: str) -> None:
        """A message of this group is on the bus."""
        self.events.append(Event("said", group, (text,)))

    # --- inside ---------------------------------------------------------------------------------------------------

    def _take(self, delivery: Delivery, grant: RunGranted) -> None:
        self.deliveries += 1
        self._given[grant.run_id] = delivery
        if grant.run_id not in self._ends and grant.run_id not in self._active:
            self._begin(grant)
        if grant.run_id not in self._tasks or self._tasks[grant.run_id].done():
            self._tasks[grant.run_id] = asyncio.create_task(self._run(grant))

    def _begin(self, grant: RunGranted) -> None:
        texts = tuple(message.text for message in grant.messages)
        if grant.group in [run.group for run in self.grants if run.run_id in self._active]:
            self.faults.append(f"two runs of {grant.group} at once")
        self._active[grant.run_id] = grant.group
        self.grants.append(grant)
        self.most = max(self.most, len(self._active))
        self.events.append(Event("begun", grant.group, texts))

    async def _run(self, grant: RunGranted) -> None:
        if grant.run_id not in self._ends:
            fate = self.fates(grant)
            await asyncio.sleep(fate.takes_s)
            if fate.service_dies and self._given[grant.run_id].count == 1:
                await self.bus.nack(self._given[grant.run_id], delay_ms=0)
                return
            self._end(grant, fate.end)
        await self.bus.ack(self._given[grant.run_id], self._ends[grant.run_id])

    def _end(self, grant: RunGranted, end: str) -> None:
        texts = [message.text for message in grant.messages]
        self._ends[grant.run_id] = Draft(
            f"group:{grant.group}",
            RunFinished(
                run_id=grant.run_id, attempt=grant.attempt, group=grant.group, ok=end == "ok",
                visible=end == "cut", retryable=end != "hopeless", error="" if end == "ok" else end,
            ),
            message_id=derived_id(0, "end", grant.run_id), ts_ms=0,
        )
        del self._active[grant.run_id]
        self.events.append(Event("ended", grant.group, tuple(texts), end))
        if end in ("ok", "cut"):
            self.done.setdefault(grant.group, []).extend(texts)


def fates_of(seed: int, last: Callable[[str], str], *, deaths_in_a_row: int, longest_s: float) -> Fates:
    """Random ends that follow from what the run is, whatever else happens.

    `last` names a group's last message: a run that has it is never hopeless, for nothing would ever take it up again.
    """

    def fate(grant: RunGranted) -> Fate:
        texts = [message.text for message in grant.messages]
        chance = random.Random(f"{seed} {texts[0]} {texts[-1]} {grant.attempt}")
        ends = ["ok"] * 14 + ["cut"]
        if grant.attempt <= deaths_in_a_row:
            ends += ["dies"] * 2
        if last(grant.group) not in texts:
            ends += ["hopeless"]
        return Fate(chance.random() * longest_s, chance.choice(ends), service_dies=chance.random() < 0.05)

    return fate


def waits(events: list[Event]) -> dict[str, int]:
    """Of each group: the most grants to *other* groups that it saw go by while it wanted to run and did not.

    A group wants to run from when a message of it is on the bus that no run has had yet; a pause between two tries is
    no waiting in line.
    """
    longest: dict[str, int] = {}
    groups = {event.group for event in events}
    for group in groups:
        had: set[str] = set()
        waiting: set[str] = set()
        since: int | None = None
        running = False
        others = 0
        for event in events:
            if event.group != group:
                others += event.what == "begun"
                continue
            if event.what == "said":
                waiting |= set(event.texts) - had
            elif event.what == "begun":
                if since is not None:
                    longest[group] = max(longest.get(group, 0), others - since)
                had |= set(event.texts)
                waiting -= set(event.texts)
            running = event.what == "begun" or (event.what == "said" and running)
            since = None if running or not waiting else others if since is None else since
    return longest
