"""Traffic whose every message can be accounted for: numbered messages in several groups, and all that comes back."""

from __future__ import annotations

import asyncio
import json
import random
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

from microclaw.bus.errors import BusError
from microclaw.core.errors import MicroclawError
from microclaw.core.requests import ConsoleLine, GroupAnswer, Lines, Read, RegisterGroup, Said, Say
from microclaw.prove.account import Account, account, missing
from microclaw.prove.mesh_run import MeshRun

#: Groups; the even ones only get echoes, the others' messages call tools.
GROUPS = 6
#: Messages of one group that may be without an answer: bounds what is under way, and the time it takes to end.
WINDOW = 4
#: Between two messages of a group, s.
PAUSE_S_MAX = 0.5
#: A reminder is due so long after its message was said, s.
DUE_S = (1, 8)
#: One question for new lines waits so long, ms.
READ_WAIT_MS = 2_000
#: A message must be taken within this; supervisord may be away meanwhile.
SAY_TIMEOUT_S = 180.0
CANCEL_S = 0.5
#: What a message calls → how often, relatively.
CALLS = {"nothing": 5, "bash": 2, "send_message": 2, "schedule_task": 2}

_SEEN = re.compile(r"^(echo|answer|sent|reminded|Task|error):? ?(\S*)", re.MULTILINE)


@dataclass
class Group:
    """One group's part in it."""

    folder: str
    #: Tokens of the messages that were taken, in their order.
    accepted: list[str] = field(default_factory=list)
    answers: list[str] = field(default_factory=list)
    #: Tokens whose agent should have called `send_message`, and that were seen sent.
    to_send: list[str] = field(default_factory=list)
    sent: list[str] = field(default_factory=list)
    #: Tokens of reminders that the scheduler took, and that came.
    promised: list[str] = field(default_factory=list)
    reminded: list[str] = field(default_factory=list)
    #: Tokens whose agent should have called bash.
    to_do: list[str] = field(default_factory=list)
    #: When each message was said, and how long its answer took.
    said_at: dict[str, float] = field(default_factory=dict)
    said_during: dict[str, str] = field(default_factory=dict)
    notices: list[str] = field(default_factory=list)
    #: Of these, so many were followed by an answer or a nudge.
    answered_notices: int = 0
    #: The newest line read.
    last_line: int = 0
    #: Lines whose number did not follow the one before.
    gaps: int = 0
    #: Reminders asked for whose answer has not come yet, and those of which it said that they could not be taken: the
    #: scheduler may have taken them all the same, too late to be heard.
    asked: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)

    @property
    def chat(self) -> str:
        return f"console:{self.folder}"


class Traffic:
    """Says and reads until told to stop. `clock_ms`: the mesh's idea of the time."""

    def __init__(self, mesh: MeshRun, seed: int, clock_ms: Callable[[], int]) -> None:
        self.groups = [Group(f"p{number}") for number in range(GROUPS)]
        #: How long the slowest answer took, s, and which it was.
        self.slowest_s = 0.0
        self.slowest = ""
        #: What is being done to the mesh, for `slowest`.
        self.during = ""
        #: Told of every answer: when its message was said.
        self.on_answer: Callable[[float], None] = lambda _said_at: None
        self._mesh = mesh
        self._seed = seed
        self._clock_ms = clock_ms
        self._flowing = asyncio.Event()
        self._changed = asyncio.Event()
        self._work: list[asyncio.Task[None]] = []
        self._sending = 0

    async def start(self) -> None:
        """Register the groups, and let it flow."""
        for group in self.groups:
            await self._mesh.ask(
                RegisterGroup(command_id=f"register-{group.folder}", chat=group.chat, folder=group.folder,
                              name=group.folder, requires_trigger=False), GroupAnswer,
            )
        self._flowing.set()
        for number, group in enumerate(self.groups):
            self._work.append(asyncio.create_task(self._send(group, number)))
            self._work.append(asyncio.create_task(self._read(group)))

    def pause(self) -> None:
        """Nothing new is said; what is under way ends."""
        self._flowing.clear()

    def resume(self) -> None:
        """Go on."""
        self._flowing.set()

    async def stop(self) -> None:
        """End it."""
        # Again and again: Python 3.11's `wait_for` forgets that it was cancelled when its answer comes just then.
        while waiting := [task for task in self._work if not task.done()]:
            for task in waiting:
                task.cancel()
            await asyncio.wait(waiting, timeout=CANCEL_S)

    def failed(self) -> BaseException | None:
        """Why it ended by itself."""
        return next((task.exception() for task in self._work if task.done() and not task.cancelled()), None)

    def progress(self) -> int:
        """Grows with everything that is seen."""
        return sum(len(group.answers) + len(group.reminded) + len(group.sent) for group in self.groups)

    @property
    def accepted(self) -> int:
        return sum(len(group.accepted) for group in self.groups)

    def quiet(self) -> bool:
        """Whether everything that is still to come has come."""
        return self._sending == 0 and not any(
            missing(group.accepted, group.answers) or missing(group.promised, group.reminded) or group.asked
            or missing(group.to_send, group.sent) for group in self.groups
        )

    async def nudge(self) -> None:
        """One more message in each group whose messages were given up with a notice, and kept for the next one."""
        for group in self.groups:
            if len(group.notices) > group.answered_notices and missing(group.accepted, group.answers):
                group.answered_notices = len(group.notices)
                await self._say(group, *self._nudge(group))

    def _nudge(self, group: Group) -> tuple[str, str]:
        token = f"{group.folder}-nudge{len(group.notices)}"
        # A script hides the echoes beside it.
        return token, f"#!say answer {token}" if self.groups.index(group) % 2 else token

    def streams(self, done: dict[str, list[str]]) -> dict[str, Account]:
        """The account of every stream. `done`: what bash wrote down, by group."""
        found = {}
        for group in self.groups:
            found[f"{group.folder} answers"] = account(group.accepted, group.answers)
            taken = set(group.accepted)
            found[f"{group.folder} sent"] = account([token for token in group.to_send if token in taken], group.sent)
            # Those that are due at the same time run one after the other in any order.
            late = [token for token in group.refused if token in group.reminded]
            found[f"{group.folder} reminders"] = account(group.promised + late, group.reminded, ordered=False)
            # A command that was cut off by a kill is not done again: what became of it nobody knows, says its answer.
            traces = [token for token in group.to_do if token in set(done.get(group.folder, []))]
            found[f"{group.folder} commands"] = account(traces, done.get(group.folder, []))
        return found

    def lost(self) -> list[str]:
        """What is missing, by name."""
        return [
            f"{what} {token}" for group in self.groups for what, tokens in (
                ("answer", missing(group.accepted, group.answers)), ("sent", missing(group.to_send, group.sent)),
                ("reminder", missing(group.promised, group.reminded)),
            ) for token in tokens
        ]

    # --- saying -----------------------------------------------------------------------------------------------------

    async def _send(self, group: Group, number: int) -> None:
        chance = random.Random(f"{self._seed} {group.folder}")  # noqa: S311 - repeatable, not secret
        for count in range(1_000_000):
            await self._flowing.wait()
            # What a notice gave up is kept for the group's next message.
            while len(group.accepted) - len(group.answers) >= WINDOW + len(group.notices) - group.answered_notices:
                self._changed.clear()
                await self._changed.wait()
            await self._flowing.wait()
            token = f"{group.folder}-{count}"
            call = chance.choices([*CALLS], [*CALLS.values()])[0] if number % 2 else ""
            text = self._text(token, call, chance)
            await self._say(group, token, text)
            await asyncio.sleep(chance.uniform(0, PAUSE_S_MAX))

    async def _say(self, group: Group, token: str, text: str) -> None:
        self._sending += 1
        try:
            group.said_at[token] = time.monotonic()
            group.said_during[token] = self.during
            await self._mesh.ask(Say(chat=group.chat, text=text, platform_id=token), Said, SAY_TIMEOUT_S)
        finally:
            self._sending -= 1
        group.accepted.append(token)

    def _text(self, token: str, call: str, chance: random.Random) -> str:
        group = self.groups[int(token[1:].split("-")[0])]
        after_s = chance.randint(*DUE_S)
        if not call:
            return token  # the echo of it
        lines = []
        if call == "bash":
            group.to_do.append(token)
            lines.append(f"#!bash echo {token} >> done; echo done {token}")
        elif call == "send_message":
            group.to_send.append(token)
            lines.append(f"#!quiet send_message {json.dumps({'text': f'sent {token}'})}")
        elif call == "schedule_task":
            group.asked.append(token)
            due = datetime.fromtimestamp(self._clock_ms() / 1000 + after_s, UTC).isoformat()
            wanted = {"prompt": f"#!say reminded {token}", "schedule_type": "once", "schedule_value": due}
            lines.append(f"#!tool schedule_task {json.dumps(wanted)}")
        return "\n".join([*lines, f"#!say answer {token}"])

    # --- reading ----------------------------------------------------------------------------------------------------

    async def _read(self, group: Group) -> None:
        while True:
            try:
                found = await self._mesh.ask(
                    Read(chat=group.chat, after=group.last_line, wait_ms=READ_WAIT_MS), Lines, SAY_TIMEOUT_S
                )
            except BusError as error:
                raise MicroclawError(f"the console did not answer for {SAY_TIMEOUT_S:.0f} s: {error}") from error
            for line in found.lines:
                group.gaps += line.number != group.last_line + 1
                group.last_line = line.number
                self._take(group, line)
            self._changed.set()

    def _take(self, group: Group, line: ConsoleLine) -> None:
        if line.origin == "notice":
            group.notices.append(line.text)
            return
        said = ""
        for what, token in _SEEN.findall(line.text):
            if what in ("Task", "error"):
                said = what
            elif what in ("echo", "answer"):
                self._answered(group, token, taken=said == "Task")
                said = ""
            elif what == "sent":
                group.sent.append(token)
            else:
                group.reminded.append(token)

    def _answered(self, group: Group, token: str, *, taken: bool) -> None:
        group.answers.append(token)
        group.answered_notices = len(group.notices)
        if token in group.asked:
            group.asked.remove(token)
            (group.promised if taken else group.refused).append(token)
        at = group.said_at.get(token)
        if at is not None:
            if (took_s := time.monotonic() - at) > self.slowest_s:
                self.slowest_s, self.slowest = took_s, f"{token}, said in {group.said_during[token] or 'peace'}"
            self.on_answer(at)
