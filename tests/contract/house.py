"""The way of a message in one process: the real router, queue, scheduler and sandbox service over real databases.

Two things stand in: the bus (what is published is kept, and given again until it is acknowledged, as the journal does)
and the sandbox backend (a scripted worker as a plain process that speaks the real lines).
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast
from zoneinfo import ZoneInfo

import msgspec
from sqlalchemy import Engine
from tests.contract.queue.desk_play import Play
from tests.contract.router.router_play import RouterPlay, envelope_of
from tests.contract.scheduler.clockwork import Clockwork
from tests.unit.sandbox_service.plain import PRELUDE, PlainBackend, PlainSandbox

from microclaw.bus.api import Bus, Delivery, Draft, Receipt
from microclaw.bus.errors import Refused
from microclaw.bus.service import Retry
from microclaw.core.approvals import Action
from microclaw.core.home import home_from
from microclaw.core.kinds import (
    AuditEntry,
    MessageReceived,
    PresenceChanged,
    ReplyRequested,
    RunFinished,
    RunGranted,
    RunRequested,
)
from microclaw.core.requests import (
    ApprovalRuling,
    AskApproval,
    AuditAsked,
    AuditEntries,
    AwaitAnswer,
    ChangeTask,
    CreateTask,
    Door,
    Groups,
    GroupsAsked,
    ModelAsked,
    RegisterGroup,
    SearchMessages,
    TasksAsked,
)
from microclaw.core.settings import Approvals, Model, Sandbox, Settings
from microclaw.core.worker import ToolCall, ToolReply
from microclaw.router.awaiting import Awaiting
from microclaw.router.models import Models
from microclaw.router.searching import Searching
from microclaw.sandbox.backend import Backend, Ended, EngineMissing, RunSpec
from microclaw.sandbox.host_tools import Caller, HostTools
from microclaw.sandbox.memory import Memory
from microclaw.sandbox.memory_ledger import MemoryLedger
from microclaw.sandbox.own_settings import OwnSettings
from microclaw.sandbox.pool import Pool
from microclaw.sandbox.store import Notes
from microclaw.sandbox.tables import metadata as sandbox_tables
from microclaw.sandbox.turns import Turns
from microclaw.store.engine import engine_for

#: Longest wait for anything, seconds.
DEADLINE_S = 30.0

#: The scripted worker. SCRIPT[i] is what it does in turn number i of its group (the last one holds for the rest).
_WORKER = """
import pathlib
session = pathlib.Path(SESSION) / "session"
while True:
    turn = hear()
    if turn.get("type") == "close": sys.exit(0)
    before = session.read_text() if session.exists() else None
    with open("prompts.jsonl", "a") as log:
        log.write(json.dumps({"prompt": turn["prompt"], "session": turn["session"], "resumed": before}) + "\\n")
    number = len(open("prompts.jsonl").read().splitlines()) - 1
    calls = 0
    for act, value in SCRIPT[min(number, len(SCRIPT) - 1)]:
        if act == "send":
            calls += 1
            say(type="tool_call", run_id=turn["run_id"], call_id="c%d" % calls, name="send_message",
                args={"text": value})
            hear()
        elif act == "call":
            calls += 1
            say(type="tool_call", run_id=turn["run_id"], call_id="c%d" % calls, name=value[0], args=value[1])
            answer = hear()
            with open("answers.jsonl", "a") as log: log.write(json.dumps(answer["text"]) + "\\n")
        elif act == "done":
            say(**({"type": "turn_done", "run_id": turn["run_id"], "ok": True} | value))
        elif act == "stale":
            known = session.exists()
            say(type="turn_done", run_id=turn["run_id"], ok=not known, error=value if known else "",
                error_code="stale_session" if known else "", text="" if known else "fresh")
        elif act == "session": session.write_text(value)
        elif act == "file": pathlib.Path(value[0]).write_text(value[1])
        elif act == "stderr": sys.stderr.write(value); sys.stderr.flush()
        elif act == "raw": sys.stdout.write(value); sys.stdout.flush()
        elif act == "sleep": time.sleep(value)
        elif act == "exit": sys.exit(value)
"""

Script = Sequence[Sequence[tuple[str, Any]]]


class _Sandbox(PlainSandbox):
    """With its standard error."""

    async def _end(self) -> Ended:
        async def read() -> None:
            assert self.process.stderr is not None
            while chunk := await self.process.stderr.read(1 << 16):
                self._output.stderr(chunk)

        reading = asyncio.create_task(read())
        ended = await super()._end()
        await reading
        return Ended(ended.code, ended.out_of_memory, ended.output_cut, self._output.stderr_tail)


class ScriptedBackend(PlainBackend):
    """Workers that play a script."""

    def __init__(self, script: Script) -> None:
        super().__init__()
        self.script = script

    async def start(self, spec: RunSpec) -> PlainSandbox:
        self.started.append(spec)
        places = {mount.target: mount.source for mount in spec.mounts}
        program = f"SESSION = {str(places['/workspace/session'])!r}\nSCRIPT = {self.script!r}\n{PRELUDE}{_WORKER}"
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-I", "-S", "-u", "-c", program, stdin=pipe, stdout=pipe, stderr=pipe,
            cwd=places["/workspace/group"], env={"PATH": os.environ["PATH"]}, start_new_session=True,
        )
        self.sandboxes.append(_Sandbox(spec, process))
        return self.sandboxes[-1]


class HouseBus:
    """Keeps what is published; questions go to the room that answers them."""

    name = "sandbox"

    def __init__(self, house: House) -> None:
        self._house = house
        self.published: dict[bytes, Any] = {}
        #: Kinds that the broker refuses.
        self.refuses: set[str] = set()
        self.blobs: dict[str, bytes] = {}
        #: What the owner was asked to allow.
        self.asked: list[Action] = []

    async def publish(self, *drafts: Draft, timeout_s: float | None = None) -> list[Receipt]:
        for draft in drafts:
            kind = "" if isinstance(draft.payload, bytes) else str(draft.payload.__struct_config__.tag)
            if kind in self.refuses:
                raise Refused("denied", f"{kind} is refused")
            assert draft.message_id is not None
            self.published.setdefault(draft.message_id, draft.payload)
        return [Receipt(draft.message_id or b"", 1, duplicate=False) for draft in drafts]

    async def put_blob(self, data: bytes) -> str:
        handle = f"sha256:{hashlib.sha256(data).hexdigest()}"
        self.blobs[handle] = data
        return handle

    async def get_blob(self, handle: str) -> bytes:
        if handle not in self.blobs:
            raise Refused("not_found", f"{handle} is not kept")
        return self.blobs[handle]

    async def request(self, _service: str, question: msgspec.Struct, _answer: Any, *, timeout_s: float = 5.0) -> Any:
        house = self._house
        match question:
            case GroupsAsked():
                return await house.router.registry.on_list(question, "sandbox")
            case RegisterGroup():
                return await house.router.registry.on_register(question, "sandbox")
            case CreateTask():
                return house.clock.commands.create(question)
            case ChangeTask():
                return house.clock.commands.change(question)
            case TasksAsked():
                return house.clock.commands.list(question)
            case SearchMessages():
                assert house.router.engine is not None
                return await Searching(house.router.engine, house.router.registry).on_search(question, "sandbox")
            case AwaitAnswer():
                assert house.router.engine is not None
                return await Awaiting(
                    house.router.engine, house.router.registry, lambda: house.router.now
                ).on_await(question, "sandbox")
            case ModelAsked():
                assert house.router.engine is not None
                return await Models(house.router.engine).on_asked(question, "sandbox")
            case AuditAsked():
                return AuditEntries(entries=())
            case AskApproval():
                # The owner has not said yes.
                self.asked.append(question.action)
                return ApprovalRuling(allowed=False, reason="the owner is asked", code="ABCDEFGH")
        raise AssertionError(f"nobody answers {type(question).__name__}")


class _Doors:
    async def open(self, worker_id: str, group: str) -> Door:
        return Door(directory="/")

    def close(self, worker_id: str) -> None:
        return


class House:
    """All of it. `chats` are registered as they are named."""

    def __init__(
        self, root: Path, script: Script, backend_error: str = "", *, model: Model | None = None,
        approvals: Approvals | None = None, **sandbox: Any,
    ) -> None:
        self._approvals = approvals or Approvals()
        self.home = home_from({"MICROCLAW_HOME": str(root / "h")})
        self.home.create()
        self.settings = Settings(sandbox=Sandbox(**sandbox), model=model or Model())
        for name in ("router", "queue", "scheduler"):
            (root / name).mkdir()
        self.router = RouterPlay(root / "router")
        self.queue = Play(root / "queue")
        self.clock = Clockwork(root / "scheduler")
        self._engine: Engine = engine_for(root / "sandbox.db")
        sandbox_tables.create_all(self._engine)
        self.notes = Notes(self._engine)
        self.bus = HouseBus(self)
        self.backend = ScriptedBackend(script)
        self.backend_error = backend_error
        self.troubles: list[str] = []
        self.ends: list[RunFinished] = []
        #: Grants that are not acknowledged yet, the oldest first, and how often each was given.
        self.grants: list[tuple[bytes, RunGranted]] = []
        self.given: dict[bytes, int] = {}
        #: When each was granted.
        self._taken: dict[bytes, int] = {}
        #: Of every life.
        self._memories: list[Memory] = []
        self.wake()

    def wake(self) -> None:
        """A new life of the sandbox service."""
        async def backend() -> Backend:
            if self.backend_error:
                raise EngineMissing(self.backend_error)
            return cast(Backend, self.backend)

        bus = cast(Bus, self.bus)
        own = OwnSettings(bus)
        self.pool = Pool(
            backend, cast(Any, _Doors()), self.home, self.settings, installation="test", own=own.of,
            trouble=self.troubles.append,
        )
        self.memory = Memory(
            bus, MemoryLedger(self._engine, self._now), self.home.groups, self.home.sessions, zone=ZoneInfo("UTC"),
            clock_ms=self._now,
        )
        self._memories.append(self.memory)
        self.tools = HostTools(
            bus, self.notes, self.memory, self._now, groups=self.home.groups, policy=self._approvals
        )
        self.turns = Turns(
            self.pool, self.tools, self.notes, self.memory, self.home, self.settings, bus=bus, own=own.of,
            timezone="UTC", clock_ms=self._now,
        )

    def _now(self) -> int:
        return self.queue.now

    # --- what happens -----------------------------------------------------------------------------------------

    async def register(self, chat: str, folder: str, **facts: Any) -> Any:
        return await self.router.register(chat, folder, **facts)

    async def hears(self, received: MessageReceived, *, dies: bool = False) -> None:
        """A message comes, and goes as far as the queue's grant."""
        self._ask(await self.router.hears(received, dies=dies))

    def _ask(self, runs: Sequence[RunRequested]) -> None:
        ids = {id(payload): message_id for message_id, payload in self.router.published.items()}
        for run in runs:
            self.queue.take(envelope_of(run, f"group:{run.group}", ids[id(run)]))
        self._see_grants()

    def fire(self) -> None:
        """What is due by the scheduler's clock fires, and goes as far as the queue's grant."""
        known = set(self.clock.published)
        self.clock.tick()
        for message_id, payload in list(self.clock.published.items()):
            if message_id not in known and isinstance(payload, RunRequested):
                self.queue.take(envelope_of(payload, f"group:{payload.group}", message_id))
        self._see_grants()

    def _see_grants(self) -> None:
        for message_id, payload in self.queue.published.items():
            if isinstance(payload, RunGranted) and message_id not in self._taken:
                self._taken[message_id] = self._now()
                self.grants.append((message_id, payload))

    async def run_next(self) -> RunFinished:
        """The oldest grant, to its end."""
        return await self._run(self.grants[0])

    async def _run(self, given: tuple[bytes, RunGranted]) -> RunFinished:
        message_id, grant = given
        self.given[message_id] = self.given.get(message_id, 0) + 1
        envelope = envelope_of(grant, f"group:{grant.group}", message_id, self._taken[message_id])
        delivery = Delivery(envelope, self.given[message_id], None)
        async with asyncio.timeout(DEADLINE_S):
            drafts = await self.turns.on_granted(delivery)
        await self.bus.publish(*drafts)
        self.grants.remove(given)
        (end,) = [draft.payload for draft in drafts if isinstance(draft.payload, RunFinished)]
        self.ends.append(end)
        self.queue.take(envelope_of(end, f"group:{grant.group}", drafts[-1].message_id or b""))
        self._see_grants()
        return end

    async def begin_next(self) -> asyncio.Task[RunFinished]:
        """The oldest grant, as far as its worker's first prompt."""
        return await self._begin(self.grants[0])

    async def begin_all(self) -> list[asyncio.Task[RunFinished]]:
        """All grants there are, each in its group's worker, as far as that."""
        return [await self._begin(given) for given in self.grants]

    async def _begin(self, given: tuple[bytes, RunGranted]) -> asyncio.Task[RunFinished]:
        group = given[1].group
        seen = len(self.prompts(group))
        task = asyncio.create_task(self._run(given))
        await until(lambda: len(self.prompts(group)) > seen or task.done())
        return task

    async def run_all(self) -> None:
        while self.grants:
            await self.run_next()

    def pass_time(self, ms: int) -> None:
        """Retries that are due come."""
        self.queue.until(ms)
        self._see_grants()

    async def kill(self, running: asyncio.Task[RunFinished] | None = None) -> None:
        """kill -9 of everything: nothing of memory is left, what was not acknowledged comes again."""
        if running is not None:
            running.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await running
        await self.pool.close()
        self.router.start()
        self.queue.start()
        self.clock.start()
        self._see_grants()
        self.wake()

    async def stop_sandbox(self, *running: asyncio.Task[RunFinished]) -> float:
        """SIGTERM to the sandbox service in the middle of these runs. Returns the seconds it took."""
        began = time.monotonic()
        await self.pool.close()
        for each in running:
            with contextlib.suppress(Retry):
                await each
        took = time.monotonic() - began
        self.wake()
        return took

    async def call(self, group: str, chat: str, is_main: bool, tool: str, args: Mapping[str, Any]) -> ToolReply:
        """A call of a host's tool by the group's agent."""
        from microclaw.core.ids import id_text, new_id

        run = new_id(self.queue.now)
        grant = RunGranted(run_id=id_text(run), attempt=1, group=group, chat=chat, is_main=is_main)
        return await self.tools.call(
            Caller(grant, run, "w-1"), ToolCall(run_id=grant.run_id, call_id="c1", name=tool, args=dict(args))
        )

    async def close(self) -> None:
        await self.pool.close()
        for memory in self._memories:
            # What it is still about when its workers have ended.
            await memory.close()
        await self.backend.end()
        self.router.stop()
        for engine in (self.queue.engine, self.clock.engine, self._engine):
            assert engine is not None
            engine.dispose()

    # --- what was seen ----------------------------------------------------------------------------------------

    def prompts(self, group: str) -> list[dict[str, Any]]:
        """What the group's workers were asked, in order."""
        path = self.home.groups / group / "prompts.jsonl"
        if not path.exists():
            return []
        return [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")]

    def answers(self, group: str) -> list[str]:
        """What the group's workers were told by the host's tools (the act `call`)."""
        path = self.home.groups / group / "answers.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def waiting(self, group: str) -> int:
        """How many messages the queue holds for it."""
        return len(self.queue.desk.dispatch.lanes[group].items)

    def session(self, group: str) -> str | None:
        """What the agent left in its session folder."""
        path = self.home.sessions / group / "session"
        return path.read_text() if path.exists() else None

    def replies(self) -> list[ReplyRequested]:
        """What was said, in order; the house's own notices apart."""
        return [each for each in self.bus.published.values() if isinstance(each, ReplyRequested)]

    def notices(self) -> list[ReplyRequested]:
        return self.queue.notices()

    def presence(self) -> list[str]:
        return [each.state for each in self.bus.published.values() if isinstance(each, PresenceChanged)]

    def audits(self) -> list[AuditEntry]:
        return [each for each in self.bus.published.values() if isinstance(each, AuditEntry)]

    async def groups(self) -> Groups:
        return await self.router.groups()


async def until(condition: Any) -> None:
    """Wait until it holds."""
    async with asyncio.timeout(DEADLINE_S):
        while not condition():
            await asyncio.sleep(0.01)


@asynccontextmanager
async def house(script: Script = ((("done", {"text": "ok"}),),), **facts: Any) -> AsyncIterator[House]:
    """A house of its own."""
    root = Path(tempfile.mkdtemp(prefix="mc-h-", dir="/tmp"))
    made = House(root, script, **facts)
    try:
        yield made
    finally:
        await made.close()
        shutil.rmtree(root, ignore_errors=True)
