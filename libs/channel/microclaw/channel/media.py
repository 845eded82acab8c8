"""Files that come and go with messages: by handle, never inline. The broker keeps them beside the journal, once each.

What a file is, its content says, not its sender.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import puremagic

from microclaw.bus.api import Bus
from microclaw.core.kinds import Attachment

#: Longest name of a file, characters.
NAME_CHARS_MAX = 120
_UNKNOWN = "application/octet-stream"
_TEXT_SAMPLE_BYTES = 4096
#: The first page of an Ogg file, which says what is in it.
_OGG_HEAD_BYTES = 128


@dataclass(frozen=True, slots=True)
class Skipped:
    """A file that was not fetched. `text` is one line for the agent."""

    text: str


class Media:
    """Takes files in, and hands them out."""

    def __init__(self, bus: Bus, bytes_max: int) -> None:
        """`bytes_max`: larger files are not fetched."""
        self._bus = bus
        self._bytes_max = bytes_max

    async def take(
        self, name: str, size_bytes: int | None, fetch: Callable[[int], Awaitable[bytes]]
    ) -> Attachment | Skipped:
        """Fetch a file and keep it. `fetch(bytes_max)` reads at most so many and one more byte, so that a file that is
        larger than it says is noticed.

        :raises Exception: whatever `fetch` raises: the message is taken later, with its file.
        """
        shown = safe_name(name)
        if size_bytes is not None and size_bytes > self._bytes_max:
            return Skipped(f"[file {shown} of {size_bytes} bytes: too large to fetch]")
        data = await fetch(self._bytes_max)
        if len(data) > self._bytes_max:
            return Skipped(f"[file {shown}: too large to fetch]")
        if not data:
            return Skipped(f"[file {shown}: empty]")
        handle = await self._bus.put_blob(data)
        return Attachment(handle=handle, name=shown, mime=mime_of(data, shown), size_bytes=len(data))

    async def read(self, file: Attachment) -> bytes:
        """The content. Raises `bus.errors.Refused`: it is not kept any more."""
        return await self._bus.get_blob(file.handle)


def mime_of(data: bytes, name: str = "") -> str:
    """What the content is, as a MIME type; the name helps only where the content is plain text."""
    try:
        found = puremagic.magic_string(data)
    except (puremagic.PureError, ValueError):
        found = []
    mime = next((guess.mime_type for guess in found if guess.mime_type and guess.confidence >= 0.3), "")
    if mime == "application/ogg" and any(mark in data[:_OGG_HEAD_BYTES] for mark in (b"OpusHead", b"\x01vorbis")):
        return "audio/ogg"  # a voice note
    if mime:
        return str(mime)
    try:
        text = data[:_TEXT_SAMPLE_BYTES].decode("utf-8")
    except UnicodeDecodeError as error:
        if error.start < min(len(data), _TEXT_SAMPLE_BYTES) - 4:
            return _UNKNOWN
        text = ""
    if "\0" in text:
        return _UNKNOWN
    return "text/markdown" if name.endswith(".md") else "text/csv" if name.endswith(".csv") else "text/plain"


def safe_name(name: str) -> str:
    """A file's name that can't lead out of a folder, hide, or fool a terminal."""
    last = re.split(r"[/\\]", name)[-1]
    kept = "".join(char if char.isprintable() and char not in '<>:"|?*' else "_" for char in last).strip(" .")
    if len(kept) > NAME_CHARS_MAX:
        stem, dot, ending = kept.rpartition(".")
        ending = dot + ending if dot and len(ending) <= 10 else ""
        kept = (stem if ending else kept)[: NAME_CHARS_MAX - len(ending)] + ending
    return kept or "file"
