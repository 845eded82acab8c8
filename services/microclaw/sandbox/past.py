"""A group's conversation so far: put aside, compacted, and what its owner is told of that."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from zoneinfo import ZoneInfo

from microclaw.bus.api import Draft
from microclaw.bus.service import Retry
from microclaw.core.home import Home
from microclaw.core.ids import derived_id, id_text, id_time
from microclaw.core.kinds import ControlRequested, ReplyRequested, RunGranted
from microclaw.core.memory_changes import source
from microclaw.core.requests import Done, Failed, ForkSession
from microclaw.core.settings import Settings
from microclaw.core.turns import Watch
from microclaw.core.worker import ToolCall, ToolReply, Turn
from microclaw.sandbox.backend import SandboxError
from microclaw.sandbox.memory import Memory
from microclaw.sandbox.own_settings import OwnSettings
from microclaw.sandbox.pool import Pool, Tenant
from microclaw.sandbox.worker import WorkerLost

#: What a compaction may take, beside the wait for the run under way.
COMPACT_S_MAX = 900

log = logging.getLogger("microclaw.sandbox")


class Past:
    """Looks after the sessions' folders between turns.

    :param timezone: the owner's, an IANA name.
    :param clock_ms: Unix milliseconds.
    """

    def __init__(
        self, pool: Pool, home: Home, settings: Settings, groups: OwnSettings, memory: Memory, *, timezone: str,
        clock_ms: Callable[[], int],
    ) -> None:
        self._pool = pool
        self._home = home
        self._settings = settings
        self._groups = groups
        self._memory = memory
        self._zone = ZoneInfo(timezone)
        self._clock_ms = clock_ms

    def is_newer_there(self, group: str, at_ms: int) -> bool:
        """Whether what was to be put aside under this name was, and the group has another conversation since."""
        return self._aside(group, at_ms).is_dir() and (self._home.sessions / group).is_dir()

    def set_aside(self, group: str, at_ms: int) -> None:
        """Have the group's next worker begin without a memory of earlier turns. What there is stays beside it under
        this time, and is a page in the group's `conversations`. The group has no worker at this moment."""
        folder = self._home.sessions / group
        if not folder.is_dir():
            return
        # Imported late: a service that nobody asks stays small.
        from microclaw.agent.archive import archive
        from microclaw.sandbox.conversations import to_archive

        try:
            turns = to_archive(self._home.sessions, group)
            if turns:
                archive(
                    self._home.groups / group, turns, assistant=self._settings.assistant.name, zone=self._zone
                )
        except OSError as error:
            log.warning("the conversation could not be written to a page", extra={
                "group": group, "why": error.strerror or str(error),
            })
        folder.rename(self._aside(group, at_ms))

    def _aside(self, group: str, at_ms: int) -> Path:
        return self._home.sessions / f"{group}.stale-{at_ms}"

    async def on_fork(self, wanted: ForkSession, asker: str) -> Done | Failed:
        """Answer `sessions.fork`."""
        from microclaw.sandbox.conversations import exists, fork, no_conversation

        if asker != "cli":
            return Failed(reason=f"{asker} may not do that: use `microclaw sessions fork`", code="denied")
        if await self._groups.group(wanted.group) is None:
            return Failed(reason=f"there is no group {wanted.group[:70]!r}: `microclaw groups list` shows them")
        if wanted.name == wanted.group:
            return Failed(reason=f"{wanted.group} has this conversation already")
        failed: list[Failed] = []

        async def exchange() -> None:
            # Before the other one goes: a wrong name changes nothing.
            if not exists(self._home.sessions, wanted.name):
                failed.append(no_conversation(wanted.name))
                return
            # Whose words the other one holds is not known here.
            async with self._memory.exchanged(wanted.group, source(f"session:{wanted.name}")):
                self.set_aside(wanted.group, self._clock_ms())
                if (failure := fork(self._home.sessions, wanted.name, wanted.group)) is not None:
                    failed.append(failure)

        try:
            await self._pool.begin_anew(wanted.group, exchange)
        except OSError as error:
            return Failed(reason=f"the conversation can't be copied: {error.strerror or error}", code="internal")
        return failed[0] if failed else Done()

    async def change(self, wanted: ControlRequested, control_id: bytes) -> Draft:
        """Compact the group's conversation, or take that back; what the owner is told of it. Waits for the run under
        way. :raises Retry: the service stops in the middle of it."""
        group = await self._groups.group(wanted.group)
        if group is None:
            text = f"There is no group {wanted.group}, or the router does not answer; nothing has changed."
        else:
            tenant = Tenant(group.folder, group.chat, group.is_main)
            try:
                text = await self._ask_worker(tenant, wanted, id_text(control_id))
            except (SandboxError, WorkerLost, OSError) as error:
                if self._pool.closing:
                    raise Retry("the sandbox service is stopping", delay_ms=0) from error
                text = f"The conversation could not be compacted, nothing has changed: {error}"
        return _notice(wanted.chat, text, control_id, "past")

    async def _ask_worker(self, tenant: Tenant, wanted: ControlRequested, run_id: str) -> str:
        async def no_tool(call: ToolCall) -> ToolReply:
            return ToolReply(run_id=call.run_id, call_id=call.call_id, ok=False, text="error: use no tool now")

        async with self._pool.lease(tenant) as worker:
            turn = Turn(
                run_id=run_id, prompt="", now_ms=self._clock_ms(), deadline_s=COMPACT_S_MAX,
                do="compact" if wanted.action == "compact" else "uncompact",
                memory=self._memory.for_turn(tenant.group, is_main=tenant.is_main),
            )
            done = await worker.turn(turn, no_tool, Watch(time.monotonic(), COMPACT_S_MAX))
        return done.text or f"The conversation could not be compacted: {done.error or 'the agent does not say why'}"

    async def told(self, grant: RunGranted, grant_id: bytes, compacted: str) -> list[Draft]:
        """The one notice, to the owner alone, that a conversation was compacted by itself. `compacted`: where its text
        is; "" = it was not."""
        if not compacted:
            return []
        chat = grant.chat if grant.is_main else await self._groups.main_chat()
        log.info("conversation compacted", extra={"group": grant.group, "run_id": grant.run_id, "told": bool(chat)})
        if not chat:
            return []
        text = (
            f"The conversation of {grant.group} has become long: its older part is told to the model as a summary from "
            f"now on. All of it is in {compacted} of the group's folder."
        )
        return [_notice(chat, text, grant_id, "compacted")]


def _notice(chat: str, text: str, cause: bytes, what: str) -> Draft:
    ts_ms = id_time(cause)
    return Draft(
        chat, ReplyRequested(chat=chat, text=text, origin="notice"), message_id=derived_id(ts_ms, cause, what),
        ts_ms=ts_ms,
    )
