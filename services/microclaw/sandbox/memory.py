"""Keeps watch over what agents remember: only what the owner's own words brought, or the owner allowed, is told.

The agent writes its memory files itself, so before and after each turn they are compared with the ledger. A change is
taken if all that was told in the group's conversation (and to its worker) was trusted; else the file is put back, and
the owner is asked about exactly that change. Turns are told the ledger's content, never the files': so it does not
matter what a program in the sandbox does to them meanwhile, or when we die.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import cast
from zoneinfo import ZoneInfo

from microclaw.bus.api import Bus
from microclaw.bus.errors import BusError
from microclaw.core.kinds import RunGranted
from microclaw.core.memory_changes import (
    BEFORE,
    HAND,
    WEB_UNKNOWN,
    Source,
    digest,
    hosts_of,
    lines_of,
    question_of,
    source,
    sources_of,
)
from microclaw.core.memory_files import SHARED_FOLDER, told
from microclaw.core.requests import (
    ApprovalRuling,
    Approvals,
    ApprovalsAsked,
    AskApproval,
    AuditAsked,
    AuditEntries,
    Failed,
)
from microclaw.sandbox.conversations import TRANSCRIPT
from microclaw.sandbox.memory_folder import read_memory, write_memory
from microclaw.sandbox.memory_ledger import CONVERSATION, Change, File, Folder, MemoryLedger
from microclaw.sandbox.worker import Worker, WorkerLost

#: How long egress is waited for, and how often it is asked whether the owner has answered, seconds.
ASK_S = 5.0
LOOK_EVERY_S = 2.0
#: What the last look may take when the service stops.
CLOSE_S = 3.0
#: Audit entries asked for at once.
ENTRIES = 500
#: Looks at a folder in a row: more files than one look takes may have to be put back.
LOOKS_MAX = 20

log = logging.getLogger("microclaw.sandbox")


class Memory:
    """The watch.

    :param groups: where the groups' folders are.
    :param zone: the owner's, whose days the notes are of.
    :param sessions: where the groups' conversations are.
    :param clock_ms: Unix milliseconds.
    :param ask: False: changes are taken without a yes, with their sources.
    """

    def __init__(
        self, bus: Bus, ledger: MemoryLedger, groups: Path, sessions: Path, *, zone: ZoneInfo,
        clock_ms: Callable[[], int], ask: bool = True,
    ) -> None:
        self._bus = bus
        self.ledger = ledger
        self._groups = groups
        self._sessions = sessions
        self._zone = zone
        self._clock_ms = clock_ms
        self._ask = ask
        self._locks: dict[str, asyncio.Lock] = {}
        #: Folders that a turn under way writes in, and the workers that had a turn and live.
        self._busy: set[str] = set()
        self._workers: dict[str, tuple[str, ...]] = {}
        self._wait = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    # --- turns ------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def turn(self, grant: RunGranted, worker: Worker) -> AsyncIterator[str]:
        """A turn of this worker, from before it is told anything; what it is told of memory."""
        group, is_isolated = grant.group, grant.task is not None and grant.task.context == "isolated"
        folders = (group, SHARED_FOLDER) if grant.is_main else (group,)
        scope = worker.worker_id if is_isolated else CONVERSATION
        task_id = grant.task.task_id if grant.task is not None else ""
        brought = sources_of(grant, is_task_trusted=bool(task_id) and self.ledger.is_task_trusted(task_id))
        async with self._held(*folders, SHARED_FOLDER):
            for folder in dict.fromkeys((*folders, SHARED_FOLDER)):
                if folder not in self._busy:
                    await self._settle(folder, group if folder in folders else "", is_main=grant.is_main)
            for folder in folders:
                self.ledger.belongs(folder, group, is_main=grant.is_main)
                if is_isolated:
                    await self._look_outside(folder)
                self.ledger.note(folder, scope, brought, is_awake=True)
            self._busy.update(folders)
            self._watch(worker, folders)
            text = self._told(group, is_main=grant.is_main)
        try:
            # A turn that is cut short by our own end is looked at before the next one: the ledger knows who was told.
            try:
                yield text
            except WorkerLost:
                await self._after(folders, grant, scope)
                raise
            await self._after(folders, grant, scope)
        finally:
            self._busy.difference_update(folders)
        await self._ask_about(folders)

    def brought(self, grant: RunGranted, worker_id: str, sources: Iterable[Source]) -> None:
        """A tool of the host has found this for a turn. On disk before the turn is told."""
        is_isolated = grant.task is not None and grant.task.context == "isolated"
        for folder in (grant.group, SHARED_FOLDER) if grant.is_main else (grant.group,):
            self.ledger.note(folder, worker_id if is_isolated else CONVERSATION, sources)

    async def made_task(self, grant: RunGranted, task_id: str) -> None:
        """A turn has made or changed this task: it brings the words that were told there to where it runs."""
        async with self._held(grant.group):
            _, is_trusted = await self._whose(grant.group, is_awake=True)
        self.ledger.trust_task(task_id, is_trusted=is_trusted)

    def for_turn(self, group: str, *, is_main: bool) -> str:
        """What a turn is told of memory that changes nothing (a summary)."""
        return self._told(group, is_main=is_main)

    @asynccontextmanager
    async def exchanged(self, group: str, brings: Source | None = None) -> AsyncIterator[None]:
        """Around the moment when the group, which has no worker now, gets another conversation: an empty one, or one
        that brings words of others. Killed in between, it counts as holding too many sources, never too few."""
        folders = [folder for folder, known in self.ledger.all_folders().items() if known.group == group]
        async with self._held(*folders):
            for folder in folders:
                await self._settle(folder)
                await self._look_outside(folder)
                if brings is not None:
                    self.ledger.note(folder, CONVERSATION, (brings,))
            yield
            if brings is None:
                for folder in folders:
                    self.ledger.forget_told(folder, CONVERSATION)

    # --- between turns ----------------------------------------------------------------------------------------

    async def recover(self) -> None:
        """After a start, when no worker of an earlier life is left."""
        for folder in self.ledger.all_folders():
            async with self._held(folder):
                if folder not in self._busy:
                    await self._settle(folder)
                    self._sleep(folder)
        await self._ask_about(tuple(self.ledger.all_folders()))
        self._wait.set()

    async def close(self) -> None:
        """All workers have ended, and we do: what is found at the next start is the owner's. Cut short, it is looked at
        then, with what is known of who was told what."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._workers.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_S):
                for folder, known in self.ledger.all_folders().items():
                    if known.is_awake and folder not in self._busy:
                        async with self._held(folder):
                            await self._settle(folder)
                            self._sleep(folder)

    async def keep_looking(self) -> None:
        """Put in what the owner allows, for as long as the service lives."""
        while True:
            await self._wait.wait()
            waiting = [change for change in self.ledger.held() if change.code and not change.is_expired]
            if not waiting:
                self._wait.clear()
                continue
            try:
                await self._look_at_answers(waiting)
            except BusError as error:
                log.info("nobody says yet what the owner answered", extra={"why": str(error)})
            await asyncio.sleep(LOOK_EVERY_S)

    async def allow(self, number: int) -> str:
        """The owner allows a change that waits. Returns "" or why it can't be put in."""
        change = self.ledger.change(number)
        if change is None or change.state != "held":
            return f"no change {number} waits: `microclaw memory list --held`"
        return await self._put_in(change)

    async def forget(self, name: str) -> tuple[dict[str, int], int]:
        """Take out all that came from a source: (lines by file, waiting changes)."""
        folders = tuple(self.ledger.all_folders())
        async with self._held(*folders):
            for folder in folders:
                if folder not in self._busy:
                    await self._settle(folder)
            gone, held = self.ledger.forget(name)
            for (folder, file), lines in gone.items():
                await self._put_right(folder, file, gone=lines if folder in self._busy else ())
        return {f"{folder}/{file}": len(lines) for (folder, file), lines in gone.items()}, held

    # --- inside -----------------------------------------------------------------------------------------------

    async def _after(self, folders: Sequence[str], grant: RunGranted, scope: str) -> None:
        async with self._held(*folders):
            for folder in folders:
                if scope != CONVERSATION:
                    await self._look_outside(folder, scope)
                await self._settle(folder, grant.group, grant.run_id)

    @asynccontextmanager
    async def _held(self, *folders: str) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            for folder in sorted(set(folders)):
                await stack.enter_async_context(self._locks.setdefault(folder, asyncio.Lock()))
            yield

    def _told(self, group: str, *, is_main: bool) -> str:
        def content(folder: str) -> dict[str, bytes]:
            return {name: file.content for name, file in self.ledger.files(folder).items() if file.content is not None}

        now = datetime.fromtimestamp(self._clock_ms() / 1000, self._zone)
        text = told(content(SHARED_FOLDER), content(group), is_main=is_main, now=now)
        held = {change.name for folder in ((group, SHARED_FOLDER) if is_main else (group,))
                for change in self.ledger.held(folder)}
        # Its names alone, so that the agent does not write it again at every turn.
        waits = f"# Waiting for the owner's yes\nYour changes of {', '.join(sorted(held))}: don't make them again."
        return "\n\n".join(filter(None, (text, waits if held else "")))

    async def _settle(self, folder: str, group: str = "", run_id: str = "", *, is_main: bool = False) -> None:
        """Have the folder's files and the ledger say the same. Its lock is held. `group`: whose agent writes there, if
        that is not known yet."""
        known = self.ledger.folder(folder)
        if known is None:
            await self._adopt(folder, group, is_main=is_main)
            return
        for _ in range(LOOKS_MAX):
            for name, file in self.ledger.files(folder).items():
                if file.is_behind:
                    await self._put_right(folder, name)
            files = self.ledger.files(folder)
            found = await asyncio.to_thread(
                read_memory, self._groups, folder, is_main=known.is_main, known=tuple(files)
            )
            changed = {
                name: content for name, content in found.items()
                if content != files.get(name, File(None)).content and not files.get(name, File(None)).is_behind
            }
            if not changed:
                return
            by, is_trusted = await self._whose(folder, is_awake=known.is_awake)
            if not run_id and HAND not in by:
                by.append(HAND)  # it may have been: nobody saw it done
            for name, content in changed.items():
                if is_trusted or not self._ask:
                    self.ledger.take(folder, name, content, by, run_id)
                else:
                    self.ledger.hold(folder, name, content, by, run_id)  # and put back, in the next look
            log.info("memory changed", extra={
                "group": folder, "files": sorted(changed), "run_id": run_id, "held": not is_trusted and self._ask,
            })
            self._wait.set()

    async def _adopt(self, folder: str, group: str, *, is_main: bool) -> None:
        try:
            newest = await self._bus.request("egress", AuditAsked(tail=True, limit=1), AuditEntries, timeout_s=ASK_S)
            number = newest.entries[-1].number if newest.entries else 0
        except BusError:
            number = 0
        found = await asyncio.to_thread(read_memory, self._groups, folder, is_main=is_main, known=())
        self.ledger.adopt(folder, Folder(group, is_main, False, number), found, BEFORE)
        if group and (self._sessions / group / TRANSCRIPT).exists():
            # A conversation that began before there was a watch may hold anything.
            self.ledger.note(folder, CONVERSATION, (source(BEFORE),))

    async def _whose(self, folder: str, *, is_awake: bool) -> tuple[list[str], bool]:
        """The sources of a change that was just found, and whether all are trusted."""
        if not is_awake:
            return [HAND], True
        is_clean = all(each.is_trusted for each in self.ledger.told(folder))
        if is_clean and not await self._look_outside(folder):
            self.ledger.note(folder, CONVERSATION, (source(WEB_UNKNOWN),))
        told = self.ledger.told(folder)
        return [each.name for each in told] or [HAND], all(each.is_trusted for each in told)

    async def _look_outside(self, folder: str, scope: str = CONVERSATION) -> bool:
        """Note what the group's agents reached since the last look. False: nobody can say at present."""
        known = self.ledger.folder(folder)
        if known is None:
            return True
        number = known.audit_number
        try:
            while True:
                page = (await self._bus.request(
                    "egress", AuditAsked(after=number, limit=ENTRIES), AuditEntries, timeout_s=ASK_S
                )).entries
                for worker, hosts in hosts_of(page, known.group).items():
                    found = [source(f"web:{host}") for host in hosts]
                    self.ledger.note(folder, scope if scope in (CONVERSATION, worker) else CONVERSATION, found)
                if page:
                    number = page[-1].number
                if len(page) < ENTRIES:
                    break
        except BusError as error:
            log.warning("nobody says what the agent reached", extra={"group": folder, "why": str(error)})
            return False
        if number != known.audit_number:
            self.ledger.looked(folder, number)
        return True

    async def _put_right(self, folder: str, name: str, gone: Sequence[bytes] = ()) -> None:
        """Write the ledger's content. `gone`: a turn writes there at this moment; take out only these lines."""
        content = self.ledger.files(folder)[name].content
        if gone:
            now = (await asyncio.to_thread(read_memory, self._groups, folder, is_main=False, known=(name,)))[name]
            bare = {line.rstrip() for line in gone}
            content = b"".join(line for line in lines_of(now) if line.rstrip() not in bare) or None
        if await asyncio.to_thread(write_memory, self._groups, folder, name, content):
            self.ledger.written(folder, name)

    def _watch(self, worker: Worker, folders: tuple[str, ...]) -> None:
        if worker.worker_id in self._workers:
            return
        self._workers[worker.worker_id] = folders

        def ended(_: object) -> None:
            task = asyncio.get_running_loop().create_task(self._ended(worker.worker_id))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

        worker.ended.add_done_callback(ended)

    async def _ended(self, worker_id: str) -> None:
        folders = self._workers.pop(worker_id, ())
        async with self._held(*folders):
            for folder in folders:
                if folder not in self._busy:
                    await self._settle(folder)
                    self._sleep(folder)
        await self._ask_about(folders)

    def _sleep(self, folder: str) -> None:
        if not any(folder in folders for folders in self._workers.values()):
            self.ledger.asleep(folder)

    # --- the owner's word ---

    async def _ask_about(self, folders: Sequence[str]) -> None:
        """Ask the owner about what was not asked yet; what always holds is put in at once."""
        for folder in folders:
            for change in self.ledger.held(folder):
                if change.code or change.is_expired:
                    continue
                try:
                    await self._ask_owner(change)
                except BusError as error:
                    log.warning("the owner can't be asked about a change", extra={
                        "group": folder, "number": change.number, "why": str(error),
                    })

    async def _ask_owner(self, change: Change) -> None:
        before = self.ledger.files(change.folder).get(change.name, File(None)).content
        if digest(before) != change.base:
            self.ledger.rebase(change.number, digest(before))
        known = self.ledger.folder(change.folder)
        action = question_of(
            change.number, known.group if known else change.folder, change.where, change.sources, before, change.content
        )
        ruling = await self._bus.request("egress", AskApproval(
            action=action, use_id=f"memory {change.number} {digest(change.content).hex()[:16]}",
        ), cast("type[ApprovalRuling | Failed]", ApprovalRuling | Failed), timeout_s=ASK_S)
        if isinstance(ruling, Failed) or not (ruling.allowed or ruling.code):
            log.warning("the owner is not asked about a change", extra={
                "group": change.folder, "number": change.number, "why": ruling.reason,
            })
        elif ruling.allowed:
            await self._put_in(change)
        else:
            self.ledger.asked(change.number, ruling.code)
            self._wait.set()

    async def _look_at_answers(self, waiting: Sequence[Change]) -> None:
        answer = await self._bus.request("egress", ApprovalsAsked(all=True), Approvals, timeout_s=ASK_S)
        states = {row.code: row.state for row in answer.rows}
        for change in waiting:
            match states.get(change.code, "expired"):
                case "pending":
                    pass
                case "denied":
                    self.ledger.refuse(change.number)
                case "once" | "always" | "used":
                    # "used" by us, who were killed before it was put in.
                    await self._ask_owner(change)
                case _:
                    self.ledger.asked(change.number, "", is_expired=True)

    async def _put_in(self, change: Change) -> str:
        """What the owner allowed becomes memory."""
        async with self._held(change.folder):
            if change.folder in self._busy:
                return f"the agent of {change.folder} is at work: as soon as it is done"
            await self._settle(change.folder)
            if (fresh := self.ledger.change(change.number)) is None or fresh.state != "held":
                return "it waits no more"
            now = self.ledger.files(change.folder).get(change.name, File(None)).content
            if digest(now) != change.base:
                self.ledger.rebase(change.number, digest(now))
                return f"{change.where} has changed since: look again, `microclaw memory show --held {change.number}`"
            self.ledger.take(
                change.folder, change.name, change.content, (), held=change.number, is_behind=True,
            )
            await self._put_right(change.folder, change.name)
        log.info("a change of memory was allowed", extra={"group": change.folder, "number": change.number})
        return ""
