"""From rows of Messages' database to `message.received`.

Rows come in the order of their ROWID; the cursor moves when the journal has them. Edits are rows that changed: they
are found by their time. A database that was made anew (its newest row is older than the cursor) is read again from
the time that was reached; ids made of the messages' guids keep what was heard before from being heard twice.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
from msgspec.structs import replace

from microclaw.channel.inbound import CURSOR, Heard
from microclaw.channel.media import Skipped
from microclaw.channel.open import Channel
from microclaw.core.kinds import Attachment, MessageReceived, Quote
from microclaw.imessage.database import EDITABLE_ROWS, MARK_TYPE_MIN, Database, File, Row, opened, unix_ms
from microclaw.imessage.typed_stream import NotTypedStream, text_of

log = logging.getLogger("microclaw.imessage")

#: Rows of one look.
ROWS_MAX = 100
#: Messages writes a row before its chat and its files are there: such a row, and what follows it, waits so long,
#: seconds.
SETTLE_S_MAX = 10.0
#: Stands in a text where a file is.
_FILE_MARK = "\ufffc"
WITHDRAWN = "[withdrawn]"
#: Longest part of a message that another one answers, characters.
QUOTE_CHARS_MAX = 500
#: Who wrote it, where that is this account itself.
ME = "me"


def shown_text(row: Row) -> str:
    """The text of a message as people see it."""
    text = row.text
    if text is None and row.body is not None:
        try:
            text = text_of(row.body)
        except NotTypedStream as error:
            log.warning("a message's text can't be read", extra={"guid": row.guid, "why": str(error)})
            text = "[a message whose text can't be read]"
    return (text or "").replace(_FILE_MARK, "").strip()


def is_message(row: Row) -> bool:
    """Whether somebody said something: not a tapback, not "… named the conversation", not our own words come back.

    What one writes to oneself stands there twice, as sent and as received; the second one counts for nothing.
    """
    is_echo = not row.from_me and row.sender and row.sender == row.own_address
    return row.mark_type < MARK_TYPE_MIN and row.item_type == 0 and not is_echo


class Cursor(msgspec.Struct, frozen=True):
    """How far the database was read."""

    rowid: int
    #: The message at that row, which tells whether it is still the same database.
    guid: str
    #: The newest time of a message, and of an edit, as Apple writes it.
    date: int
    edited: int

    def note(self) -> dict[str, str]:
        """As it is kept."""
        return {"row": msgspec.json.encode(self).decode()}


class Inbound:
    """Follows the database."""

    def __init__(self, channel: Channel, path: Path, is_ours: Callable[[Row], bool]) -> None:
        """`is_ours`: whether we sent this row ourselves, by the ledger."""
        self._channel = channel
        self._path = path
        self._is_ours = is_ours
        #: When a row that is not whole yet was first seen, by the steady clock.
        self._unsettled: dict[int, float] = {}
        #: Edits at the very time of the cursor that were taken.
        self._taken_edits: set[tuple[str, int]] = set()

    async def look(self) -> None:
        """Take what is new. Raises `database.CantRead`, `database.OtherSchema`."""
        start = self._cursor() or self._begin()
        with opened(self._path) as db:
            if _is_anew(db, start):
                self._channel.service.trouble(
                    "Messages' database was made anew: it is read again from where we were, nothing is taken twice"
                )
                start = replace(start, rowid=db.rowid_before(start.date), guid="")
            rows = db.after(start.rowid, ROWS_MAX)
            edits = [] if rows else db.edited_since(start.edited, start.rowid, ROWS_MAX)
            files = {row.rowid: db.files(row.rowid) for row in rows if row.has_files}
            quoted = {row.answers: db.by_guid(row.answers) for row in rows if row.answers}
        heard: list[Heard] = []
        reached = start
        for row in rows:
            if not self._is_settled(row, files.get(row.rowid, [])):
                break
            if is_message(row):
                heard.append(Heard(await self._message(row, files.get(row.rowid, []), quoted.get(row.answers))))
            reached = replace(reached, rowid=row.rowid, guid=row.guid, date=max(reached.date, row.date))
        if reached != start:
            await self._channel.inbound.take(heard, reached.note())
        if edits:
            await self._take_edits(edits, reached)

    async def _take_edits(self, rows: list[Row], cursor: Cursor) -> None:
        fresh = [row for row in rows if (row.guid, row.changed) not in self._taken_edits and is_message(row)]
        heard = [Heard(await self._edit(row), edition=row.changed) for row in fresh]
        newest = max(row.changed for row in rows)
        if heard or newest != cursor.edited:
            await self._channel.inbound.take(heard, replace(cursor, edited=newest).note())
        at_newest = {(row.guid, row.changed) for row in rows if row.changed == newest}
        self._taken_edits = at_newest if newest != cursor.edited else self._taken_edits | at_newest

    def _begin(self) -> Cursor:
        """At the first start: from now on. What was written before is not ours to answer."""
        with opened(self._path) as db:
            last = db.last_rowid()
            rows = db.after(last - 1, 1)
            edited = max((row.changed for row in db.edited_since(0, last, EDITABLE_ROWS)), default=0)
        start = Cursor(last, rows[0].guid if rows else "", rows[0].date if rows else 0, edited + 1)
        self._channel.notes.set(CURSOR, start.note())
        return start

    def _cursor(self) -> Cursor | None:
        text = self._channel.inbound.cursor("row")
        return msgspec.json.decode(text, type=Cursor) if text else None

    def _is_settled(self, row: Row, files: list[File]) -> bool:
        """Whether all of it is there; what stays incomplete for too long is taken as it is."""
        whole = bool(row.chat_identifier) and all(file.arrived for file in files) and (bool(files) or not row.has_files)
        now = time.monotonic()
        if whole or now - self._unsettled.setdefault(row.rowid, now) > SETTLE_S_MAX:
            self._unsettled.pop(row.rowid, None)
            return True
        return False

    async def _message(self, row: Row, files: list[File], quoted: Row | None) -> MessageReceived:
        kept: list[Attachment] = []
        text = shown_text(row)
        for file in files:
            taken = await self._take_file(file)
            if isinstance(taken, Attachment):
                kept.append(taken)
            else:
                text = f"{text}\n{taken.text}".strip()
        quote = None
        if quoted is not None:
            quote = Quote(
                id=quoted.guid, sender_name=quoted.sender or ME, text=shown_text(quoted)[:QUOTE_CHARS_MAX]
            )
        return self._told(row, text, quote=quote, attachments=tuple(kept))

    async def _edit(self, row: Row) -> MessageReceived:
        return self._told(row, WITHDRAWN if row.retracted else shown_text(row), is_edit=True)

    def _told(
        self, row: Row, text: str, *, quote: Quote | None = None, attachments: tuple[Attachment, ...] = (),
        is_edit: bool = False,
    ) -> MessageReceived:
        # A row without a chat is one of two people whose chat was deleted meanwhile.
        identifier = row.chat_identifier or row.sender or ME
        sender = ME if row.from_me else row.sender
        return MessageReceived(
            chat=f"imessage:{identifier}", platform_id=row.guid, sender=sender, sender_name=sender, text=text,
            sent_ms=unix_ms(row.date), chat_name=row.chat_name or identifier, is_group=row.is_group,
            from_me=row.from_me, is_own_reply=row.from_me and self._is_ours(row), is_edit=is_edit, quote=quote,
            attachments=attachments,
        )

    async def _take_file(self, file: File) -> Attachment | Skipped:
        async def fetch(bytes_max: int) -> bytes:
            return await asyncio.to_thread(_read, file.path, bytes_max)

        try:
            return await self._channel.media.take(file.name, file.size_bytes or None, fetch)
        except OSError as error:
            return Skipped(f"[file {file.name}: can't be read ({error.strerror})]")


def _is_anew(db: Database, cursor: Cursor) -> bool:
    """Whether this is another database than the one that was read so far."""
    there = db.guid_at(cursor.rowid)
    return db.last_rowid() < cursor.rowid or bool(there and cursor.guid and there != cursor.guid)


def _read(path: str, bytes_max: int) -> bytes:
    with Path(path).expanduser().open("rb") as file:
        return file.read(bytes_max + 1)
