"""What the owner asks of the sandbox service about memory: `microclaw memory …`."""

from __future__ import annotations

import msgspec

from microclaw.core.requests import Request

#: Who answers all of these.
SERVICE = "sandbox"


class MemoryAsked(Request, frozen=True, kw_only=True, tag="memory.list"):
    """Which memory files there are, from which sources, and what waits for the owner. Answer: Memories."""


class MemoryRow(msgspec.Struct, frozen=True, kw_only=True):
    """A memory file. `where`: `folder/name`."""

    where: str
    size_bytes: int
    #: Lines by source; a line of several sources counts for each.
    lines: dict[str, int]


class HeldRow(msgspec.Struct, frozen=True, kw_only=True):
    """A change that waits for the owner."""

    number: int
    where: str
    sources: tuple[str, ...]
    made_ms: int
    #: Under which the owner was asked, "" = not (yet), or too long ago.
    code: str
    is_expired: bool


class Memories(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="memory.list.answer"):
    files: tuple[MemoryRow, ...]
    held: tuple[HeldRow, ...]


class MemoryFileAsked(Request, frozen=True, kw_only=True, tag="memory.show"):
    """A memory file, line by line; with `held`, the change of that number as a difference. Answer: MemoryFile or
    Failed."""

    where: str = ""
    held: int = 0


class MemoryLine(msgspec.Struct, frozen=True, kw_only=True):
    text: str
    #: Index in `MemoryFile.changes`; -1 = none.
    change: int = -1


class MemoryChange(msgspec.Struct, frozen=True, kw_only=True):
    number: int
    sources: tuple[str, ...]
    made_ms: int
    run_id: str


class MemoryFile(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="memory.show.answer"):
    where: str
    lines: tuple[MemoryLine, ...]
    changes: tuple[MemoryChange, ...]


class DecideMemory(Request, frozen=True, kw_only=True, tag="memory.decide"):
    """A change that waits is put in, or dropped. Twice is once. Answer: Done or Failed."""

    number: int
    allow: bool


class ForgetMemory(Request, frozen=True, kw_only=True, tag="memory.forget"):
    """Take out of all memory what came from this source. Twice is once. Answer: MemoryForgotten or Failed."""

    source: str


class MemoryForgotten(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="memory.forget.answer"):
    #: Lines that are gone, by file.
    lines: dict[str, int]
    #: Changes that waited.
    held: int
