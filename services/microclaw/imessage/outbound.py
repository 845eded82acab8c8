"""Sending, and finding out by Messages' database what became of it.

That AppleScript reports success proves nothing (since macOS 26 messages to groups can vanish so): a part is sent
when its row stands in the database. Before each try the newest row is noted; our own row is the first one behind it
with our text that no other part has claimed. No row although no osascript is at work any more, and time enough has
passed: Messages did not send it, and it is tried again, a few times.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path

import msgspec

from microclaw.bus.service import now_ms
from microclaw.channel.ledger import Entry
from microclaw.channel.media import safe_name
from microclaw.channel.open import Channel
from microclaw.channel.plain_text import plain_text
from microclaw.channel.platform import Fate, Limits, NotSent, Rejected, Unsure
from microclaw.core.delivery import PartState
from microclaw.core.groups import native_of
from microclaw.core.token_bucket import Rate
from microclaw.imessage.database import CantRead, OtherSchema, Row, opened
from microclaw.imessage.inbound import shown_text
from microclaw.imessage.script import SCRIPT_S_MAX, Osascript

#: Messages has no limit of its own that matters; longer bubbles are hard to read.
TEXT_CHARS_MAX = 4_000
#: Messages writes the row of what it took within this.
CONFIRM_S = 10.0
CONFIRM_POLL_S = 0.2
#: A part without a row after so many tries is left, and the owner told.
TRIES_MAX = 3
#: Apple slows down accounts that send like machines.
EVERYWHERE = Rate(per_s=2.0, burst=10)
CHAT = Rate(per_s=1.0, burst=5)

_MARK = "mark"
MARKS_KEPT_MS = 7 * 24 * 3600 * 1000


class Mark(msgspec.Struct, frozen=True):
    """A try to send: what came before it, and what its row will look like."""

    rowid: int
    begun_ms: int
    chat: str
    text: str
    file: str = ""


class Outbound:
    """The platform as the kit wants it."""

    limits = Limits(text_max=TEXT_CHARS_MAX, everywhere=EVERYWHERE, chat=CHAT)

    def __init__(self, channel: Channel, path: Path, osascript: Osascript, outbox: Path) -> None:
        """`outbox`: files are put there for Messages, which may not read every folder."""
        self._channel = channel
        self._path = path
        self._osascript = osascript
        self._outbox = outbox
        self._one = asyncio.Lock()

    async def send(self, entry: Entry) -> str:
        """Send one part and wait for its row."""
        async with self._one:
            file = await self._file(entry)
            text = "" if file else plain_text(entry.part.text).strip()
            place, last = self._place(native_of(entry.chat))
            mark = Mark(last, now_ms(), native_of(entry.chat), text, file.name if file else "")
            if not place:
                raise Rejected("there is no such conversation in Messages on this Mac")
            self._channel.notes.set(_MARK, {entry.key: msgspec.json.encode(mark).decode()})
            await self._osascript.send(place, str(file) if file else text, is_file=file is not None)
            until = asyncio.get_running_loop().time() + CONFIRM_S
            while asyncio.get_running_loop().time() < until:
                if found := self._row_of(mark, entry):
                    return found
                await asyncio.sleep(CONFIRM_POLL_S)
        raise Unsure("Messages took it and its database does not show it")

    async def find(self, entry: Entry) -> str | Fate:
        """By the database."""
        mark = self._mark(entry.key)
        if mark is None:
            # The mark is on disk before osascript starts.
            return Fate.SEND_AGAIN
        try:
            found = self._row_of(mark, entry)
        except (CantRead, OtherSchema) as error:
            raise NotSent(str(error), 5.0) from error
        if found:
            return found
        passed_s = (now_ms() - mark.begun_ms) / 1000
        if self._osascript.is_running():
            if not 0 <= passed_s <= SCRIPT_S_MAX:
                self._osascript.end_the_stuck_one()
            raise NotSent("an osascript of an earlier try is still at work", 1.0)
        if 0 <= passed_s < CONFIRM_S:
            raise NotSent("Messages may still write it down", 1.0)
        return Fate.SEND_AGAIN if entry.attempts < TRIES_MAX else Fate.UNKNOWABLE

    def is_ours(self, row: Row) -> bool:
        """Whether a row of this account is one that we sent: by its id in the ledger, or it is the row of a try under
        way."""
        chat = f"imessage:{row.chat_identifier}"
        if self._channel.ledger.is_ours(chat, row.guid):
            return True
        for key, text in self._channel.notes.all(_MARK).items():
            mark = msgspec.json.decode(text, type=Mark)
            if mark.chat == row.chat_identifier and mark.rowid < row.rowid and self._is_under_way(key) \
                    and self._looks_like(mark, row):
                return True
        return False

    def forget(self) -> None:
        """Drop marks of tries long past, and our copies of the files that went with them: Messages has its own."""
        before_ms = now_ms() - MARKS_KEPT_MS
        for text in self._channel.notes.all(_MARK).values():
            mark = msgspec.json.decode(text, type=Mark)
            if mark.file and mark.begun_ms < before_ms:
                with suppress(OSError):  # it stays, then
                    (self._outbox / mark.file).unlink()
        self._channel.notes.forget(_MARK, before_ms)

    def _is_under_way(self, key: str) -> bool:
        reply_id, _, number = key.partition("-")
        entries = self._channel.ledger.of_reply(bytes.fromhex(reply_id))
        return any(entry.number == int(number) and entry.state is PartState.SENDING for entry in entries)

    def _mark(self, key: str) -> Mark | None:
        text = self._channel.notes.get(_MARK, key)
        return msgspec.json.decode(text, type=Mark) if text else None

    def _place(self, chat_identifier: str) -> tuple[str, int]:
        """What AppleScript calls the chat ("" = there is none), and the newest row."""
        try:
            with opened(self._path) as db:
                return db.chat_guid(chat_identifier), db.last_rowid()
        except (CantRead, OtherSchema) as error:
            raise NotSent(str(error), 5.0) from error

    def _row_of(self, mark: Mark, entry: Entry) -> str:
        """The guid of the row that this try made, "" = there is none."""
        with opened(self._path) as db:
            rows = db.own_after(mark.rowid, mark.chat)
            names = {row.rowid: {file.name for file in db.files(row.rowid)} for row in rows if mark.file}
        return next((
            row.guid for row in rows
            if self._looks_like(mark, row, names.get(row.rowid, set()))
            and not self._channel.ledger.is_ours(entry.chat, row.guid)
        ), "")

    def _looks_like(self, mark: Mark, row: Row, names: set[str] | None = None) -> bool:
        if mark.file:
            return mark.file in names if names is not None else row.has_files
        return shown_text(row) == mark.text

    async def _file(self, entry: Entry) -> Path | None:
        if entry.part.file is None:
            return None
        data = await self._channel.media.read(entry.part.file)
        # Its own name for each part, so that its row is known by it.
        path = self._outbox / f"{entry.key[-12:]}-{safe_name(entry.part.file.name)}"
        await asyncio.to_thread(_write, path, data)
        return path


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.write_bytes(data)

