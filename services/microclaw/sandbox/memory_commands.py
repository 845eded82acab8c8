"""The owner's commands about memory: what it is, whose words it holds, and out with them."""

from __future__ import annotations

from microclaw.bus.api import Draft
from microclaw.bus.service import Service
from microclaw.core.kinds import AuditEntry
from microclaw.core.memory_changes import difference, lines_of
from microclaw.core.memory_requests import (
    DecideMemory,
    ForgetMemory,
    HeldRow,
    Memories,
    MemoryAsked,
    MemoryChange,
    MemoryFile,
    MemoryFileAsked,
    MemoryForgotten,
    MemoryLine,
    MemoryRow,
)
from microclaw.core.requests import Done, Failed
from microclaw.sandbox.memory import Memory
from microclaw.sandbox.memory_ledger import Change

#: Rows of each kind in one answer, and characters of one file in it.
ROWS_MAX = 500
FILE_CHARS_MAX = 300_000


class MemoryCommands:
    """Answers `memory.*`."""

    def __init__(self, service: Service, memory: Memory) -> None:
        self._service = service
        self._memory = memory
        self._ledger = memory.ledger

    def register(self) -> None:
        self._service.answer(MemoryAsked, self.on_list)
        self._service.answer(MemoryFileAsked, self.on_file)
        self._service.answer(DecideMemory, self.on_decide)
        self._service.answer(ForgetMemory, self.on_forget)

    async def on_list(self, _question: MemoryAsked, _asker: str) -> Memories:
        """Answer `memory.list`."""
        files = [
            MemoryRow(where=f"{folder}/{name}", size_bytes=size, lines=dict(lines))
            for folder, name, lines, size in self._ledger.lines_by_source()
        ]
        held = [
            HeldRow(
                number=each.number, where=each.where, sources=each.sources, made_ms=each.made_ms, code=each.code,
                is_expired=each.is_expired,
            )
            for each in self._ledger.held()
        ]
        return Memories(files=tuple(files[:ROWS_MAX]), held=tuple(held[:ROWS_MAX]))

    async def on_file(self, question: MemoryFileAsked, _asker: str) -> MemoryFile | Failed:
        """Answer `memory.show`."""
        if question.held:
            change = self._ledger.change(question.held)
            if change is None or change.state != "held":
                return Failed(reason=_not_waiting(question.held), code="not_found")
            before = self._ledger.files(change.folder).get(change.name)
            text = difference(before.content if before else None, change.content)[:FILE_CHARS_MAX]
            lines = [MemoryLine(text=line) for line in text.splitlines()]
            return MemoryFile(where=change.where, lines=tuple(lines), changes=(_row(change),))
        folder, _, name = question.where.partition("/")
        file = self._ledger.files(folder).get(name)
        if file is None or file.content is None:
            return Failed(
                reason=f"there is no memory file {question.where[:100]!r}: `microclaw memory list`", code="not_found"
            )
        changes: dict[int, MemoryChange] = {}
        lines, left = [], FILE_CHARS_MAX
        for line, origin in zip(lines_of(file.content), self._ledger.origins(folder, name), strict=True):
            if origin not in changes and (found := self._ledger.change(origin)) is not None:
                changes[origin] = _row(found)
            text = line.rstrip(b"\r\n").decode("utf-8", "backslashreplace")
            left -= len(text)
            if left < 0:
                lines.append(MemoryLine(text="[cut here: the file is too long to be shown whole]"))
                break
            lines.append(MemoryLine(text=text, change=origin))
        index = {number: place for place, number in enumerate(changes)}
        return MemoryFile(
            where=question.where,
            lines=tuple(MemoryLine(text=line.text, change=index.get(line.change, -1)) for line in lines),
            changes=tuple(changes.values()),
        )

    async def on_decide(self, wanted: DecideMemory, asker: str) -> Done | Failed:
        """Answer `memory.decide`."""
        if asker != "cli":
            return _not_yours(asker)
        change = self._ledger.change(wanted.number)
        done = "in" if wanted.allow else "refused"
        if change is not None and change.state == done:
            return Done()
        if change is None or change.state != "held":
            return Failed(reason=_not_waiting(wanted.number), code="not_found")
        if not wanted.allow:
            self._ledger.refuse(wanted.number)
        elif reason := await self._memory.allow(wanted.number):
            return Failed(reason=reason, code="conflict")
        await self._tell(asker, "memory.allow" if wanted.allow else "memory.refuse", change.where)
        return Done()

    async def on_forget(self, wanted: ForgetMemory, asker: str) -> MemoryForgotten | Failed:
        """Answer `memory.forget`."""
        if asker != "cli":
            return _not_yours(asker)
        lines, held = await self._memory.forget(wanted.source)
        await self._tell(asker, "memory.forget", wanted.source, f"{sum(lines.values())} lines, {held} waiting changes")
        return MemoryForgotten(lines=lines, held=held)

    async def _tell(self, asker: str, action: str, subject: str, detail: str = "") -> None:
        entry = AuditEntry(actor=asker, action=action, subject=subject[:200], outcome="ok", detail=detail)
        await self._service.bus.publish(Draft("service:sandbox", entry))


def _row(change: Change) -> MemoryChange:
    return MemoryChange(
        number=change.number, sources=change.sources, made_ms=change.made_ms, run_id=change.run_id
    )


def _not_waiting(number: int) -> str:
    return f"no change {number} waits: `microclaw memory list --held`"


def _not_yours(asker: str) -> Failed:
    return Failed(reason=f"{asker} may not do that: use `microclaw memory`", code="denied")
