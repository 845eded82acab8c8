"""What is asked of a running mesh, and how long it takes: single messages, first messages, many messages at once."""

from __future__ import annotations

import asyncio
import random
import statistics
import time
import uuid
from collections import defaultdict
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass

from bench.chat_turns import TurnWatch
from tests.mesh.harness import Mesh

from microclaw.bus.api import Bus, Draft
from microclaw.bus.client import connect
from microclaw.bus.envelope import Envelope
from microclaw.core.ids import new_id
from microclaw.core.kinds import MessageReceived
from microclaw.core.requests import Failed, GroupAnswer, Groups, GroupsAsked, Lines, Read, RegisterGroup, Said, Say

#: A person's messages don't come at once after an answer; the mesh is idle again when the next one is said.
PAUSE_S = (0.02, 0.1)
#: Nothing here takes so long unless it is broken.
PATIENCE_S = 60.0
#: How long the replay of a chat may give nothing new before it is taken for all there is.
REPLAY_IDLE_S = 0.5
ASK_AGAIN_S = 0.01
TEXT = "What is there for dinner tonight? " * 3


@dataclass(frozen=True)
class Way:
    """One message's way: moments as `time.time()`, in s."""

    said: float
    #: The worker wrote the turn's first line.
    begun: float
    #: The worker wrote the turn's last line.
    done: float
    #: The reply was read.
    read: float

    @property
    def start_ms(self) -> float:
        return (self.begun - self.said) * 1000

    @property
    def reply_ms(self) -> float:
        return (self.read - self.said) * 1000


def quantile(values: Sequence[float], part: float) -> float:
    """The smallest value that this part of all does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))]


async def register(mesh: Mesh, folder: str, *, needs_trigger: bool = False) -> str:
    """A group of its own for this chat; returns the chat."""
    chat = f"console:{folder}"
    await (await mesh.bus("cli")).request("router", RegisterGroup(
        command_id=uuid.uuid4().hex, chat=chat, folder=folder, name=folder, trigger="@Andy",
        requires_trigger=needs_trigger,
    ), GroupAnswer)
    return chat


async def send(mesh: Mesh, chat: str, folder: str, count: int) -> list[Way]:
    """Messages one after the other, each said when the answer to the last one has been read."""
    rng = random.Random(count)
    watch = TurnWatch(mesh.home.sessions / folder)
    bus = await mesh.bus()
    last = (await mesh.ask(Read(chat=chat, only_last=True), Lines)).last
    ways = []
    try:
        for number in range(count):
            await asyncio.sleep(rng.uniform(*PAUSE_S))
            watch.expect()
            reading = asyncio.create_task(
                bus.request("console", Read(chat=chat, after=last, wait_ms=20_000), Lines, timeout_s=25.0)
            )
            await asyncio.sleep(0.005)
            said = time.time()
            answer = await bus.request(
                "console", Say(chat=chat, text=f"{TEXT}{number}", platform_id=uuid.uuid4().hex), Said
            )
            assert isinstance(answer, Said)
            begun = await asyncio.wait_for(watch.begun(), PATIENCE_S)
            lines = await asyncio.wait_for(reading, PATIENCE_S)
            read = time.time()
            assert len(lines.lines) == 1, f"one answer was awaited: {lines}"
            last = lines.last
            ways.append(Way(said, begun, watch.writes[-1], read))
    finally:
        watch.close()
    return ways


async def cold(mesh: Mesh, name: str, count: int) -> list[Way]:
    """First messages of groups whose sandbox does not run."""
    ways = []
    for number in range(count):
        folder = f"{name}{number}"
        ways += await send(mesh, await register(mesh, folder), folder, 1)
    return ways


# --- hops -----------------------------------------------------------------------------------------------------------


async def hops(mesh: Mesh, chat: str, folder: str, ways: Sequence[Way]) -> dict[str, float]:
    """How long the message is on each part of its way, ms, means: by the times that the journal's envelopes carry."""
    kinds: dict[str, list[float]] = defaultdict(list)
    for session in (chat, f"group:{folder}"):
        for envelope in await _journal(await mesh.bus(), session):
            # Whole milliseconds, rounded down: half of one more on the average.
            kinds[envelope.kind].append(envelope.ts_ms / 1000 + 0.0005)
    parts: dict[str, list[float]] = defaultdict(list)
    stages = ("message.received", "run.requested", "run.granted", "reply.delivered")
    for index, way in enumerate(ways, start=-len(ways)):
        taken, requested, granted, shown = (kinds[kind][index] for kind in stages)
        moments = {
            "said → console has it": (way.said, taken),
            "→ router: run.requested": (taken, requested),
            "→ queue: run.granted": (requested, granted),
            "→ worker has the turn": (granted, way.begun),
            "→ the turn has ended": (way.begun, way.done),
            "→ console's ledger": (way.done, shown),
            "→ read": (shown, way.read),
        }
        for name, (begin, end) in moments.items():
            parts[name].append((end - begin) * 1000)
    return {name: statistics.fmean(values) for name, values in parts.items()}


async def _journal(bus: Bus, session: str) -> list[Envelope]:
    found: list[Envelope] = []
    # A generator that waits for ever at the end: it is asked no more after a silence.
    async with aclosing(bus.replay(session, 0)) as coming:  # type: ignore[type-var]
        try:
            while True:
                found.append(await asyncio.wait_for(anext(coming), REPLAY_IDLE_S))
        except TimeoutError:
            return found


# --- many -----------------------------------------------------------------------------------------------------------


async def said_per_s(mesh: Mesh, chats: Sequence[str], width: int, run_s: float) -> float:
    """Lines that the console took and the journal has; as many clients as chats, `width` lines of each in flight."""
    clients = [await connect(mesh.home.bus, f"typist{number}", timeout_s=PATIENCE_S) for number in range(len(chats))]
    begun = time.monotonic()
    done = 0

    async def type_lines(bus: Bus, chat: str) -> None:
        nonlocal done
        while time.monotonic() < begun + run_s:
            line = Say(chat=chat, text=TEXT, platform_id=uuid.uuid4().hex)
            answer = await bus.request("console", line, Said | Failed, timeout_s=PATIENCE_S)  # type: ignore[arg-type]
            assert isinstance(answer, Said), answer
            done += 1

    try:
        await asyncio.gather(*(
            type_lines(bus, chat) for bus, chat in zip(clients, chats, strict=True) for _ in range(width)
        ))
        return done / (time.monotonic() - begun)
    finally:
        for client in clients:
            await client.close()


async def published_per_s(mesh: Mesh, chats: Sequence[str], width: int, total: int) -> tuple[float, float]:
    """Messages published directly: (in the journal, in the router's database) per second."""
    bus = await mesh.bus()
    # The router tells of each chat when it was last heard of: these times show how far it is.
    base_ms = time.time_ns() // 1_000_000
    numbers = iter(range(total))
    begun = time.monotonic()

    async def publish(chat: str) -> None:
        for number in numbers:
            name = uuid.uuid4().hex
            message = MessageReceived(
                chat=chat, platform_id=name, text=TEXT, sender="owner", sender_name="Owner", sent_ms=base_ms + number
            )
            await bus.publish(Draft(chat, message, message_id=new_id(base_ms)))
            newest[chat] = max(newest[chat], message.sent_ms)

    newest = dict.fromkeys(chats, 0)
    await asyncio.gather(*(publish(chat) for chat in chats for _ in range(width)))
    journal_s = time.monotonic() - begun
    while True:
        heard = {row.chat: row.last_message_ms for row in (await mesh.ask(GroupsAsked(), Groups)).chats}
        if all(heard[chat] >= sent_ms for chat, sent_ms in newest.items()):
            return total / journal_s, total / (time.monotonic() - begun)
        await asyncio.sleep(ASK_AGAIN_S)
