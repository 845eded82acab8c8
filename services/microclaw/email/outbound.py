"""Sending a reply as a mail, once.

The mail's own Message-ID is made of the part's key. What the server took is put into the folder of sent mail under
that id, by us or by the server; a part in doubt is looked for there. A part whose mail itself had not begun to go
out, which is noted, was certainly not sent. Found nowhere after that moment: nobody can tell, since the server may
have taken it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime

from microclaw.channel.ledger import Entry
from microclaw.channel.link import LoggedOut, Unreachable
from microclaw.channel.open import Channel
from microclaw.channel.platform import Fate, Limits, NotSent, Rejected
from microclaw.core.channel_settings import Email
from microclaw.core.token_bucket import Rate
from microclaw.email.imap import Session
from microclaw.email.smtp import submit
from microclaw.email.threads import Threads
from microclaw.email.writing import message_id_of, written

#: Longer replies come in several mails.
TEXT_CHARS_MAX = 100_000
EVERYWHERE = Rate(per_s=2.0, burst=20)
CHAT = Rate(per_s=1.0, burst=10)
#: Kind of note: the mail of this part began to go out.
_BEGUN = "data"
BEGUN_KEPT_MS = 30 * 24 * 3600 * 1000
#: A server may take a moment to show what it took.
LOOK_S = 5.0


class Outbound:
    """The platform as the kit wants it."""

    limits = Limits(text_max=TEXT_CHARS_MAX, everywhere=EVERYWHERE, chat=CHAT, file_with_text=True)

    def __init__(
        self, channel: Channel, settings: Email, threads: Threads, name: str, clock_ms: Callable[[], int]
    ) -> None:
        """`name`: the assistant's."""
        self._channel = channel
        self._settings = settings
        self._threads = threads
        self._name = name
        self._clock_ms = clock_ms

    async def send(self, entry: Entry) -> str:
        """One mail. Its id is the platform's id of the part."""
        thread = self._threads.of(entry.chat)
        if thread is None:
            raise Rejected(f"{entry.chat} is no address and no thread that is remembered")
        password = await self._password()
        raw = written(
            key=entry.key, address=self._settings.address, name=self._name, thread=thread, text=entry.part.text,
            sent=datetime.fromtimestamp(self._clock_ms() / 1000, UTC), reply_to=entry.reply_to,
            file=await self._file(entry),
        )
        notes = self._channel.notes
        await submit(
            self._settings, password, thread.address, raw,
            lambda: notes.set(_BEGUN, {entry.key: str(self._clock_ms())}),
        )
        message_id = message_id_of(entry.key, self._settings.address)
        await self._keep(raw, message_id, password)
        self._threads.remember_ours(entry.chat, message_id)
        return message_id

    async def find(self, entry: Entry) -> str | Fate:
        """By the folder of sent mail."""
        if not self._channel.notes.get(_BEGUN, entry.key):
            return Fate.SEND_AGAIN
        password = await self._password()
        message_id = message_id_of(entry.key, self._settings.address)
        for attempt in range(2):
            if attempt:
                await asyncio.sleep(LOOK_S)
            try:
                if await asyncio.to_thread(self._is_sent, message_id, password):
                    self._threads.remember_ours(entry.chat, message_id)
                    return message_id
            except (Unreachable, LoggedOut) as error:
                raise NotSent(str(error)) from error
        return Fate.UNKNOWABLE

    def forget(self) -> None:
        """Drop notes of tries long past."""
        self._channel.notes.forget(_BEGUN, self._clock_ms() - BEGUN_KEPT_MS)

    async def _password(self) -> str:
        try:
            return await self._channel.secret()
        except (Unreachable, LoggedOut) as error:
            raise NotSent(str(error), 10.0, everywhere=True) from error

    async def _file(self, entry: Entry) -> tuple[str, str, bytes] | None:
        file = entry.part.file
        return (file.name, file.mime, await self._channel.media.read(file)) if file else None

    async def _keep(self, raw: bytes, message_id: str, password: str) -> None:
        """Put it into the folder of sent mail. That fails: it was sent all the same."""
        try:
            await asyncio.to_thread(self._put, raw, message_id, password)
        except (Unreachable, LoggedOut) as error:
            self._channel.service.trouble(f"a mail was sent and could not be put into the folder of sent mail: {error}")

    def _put(self, raw: bytes, message_id: str, password: str) -> None:
        with Session().open(self._settings, password, self._settings.mailbox) as mailbox:
            folder = mailbox.sent_folder(self._settings.sent_mailbox)
            # Some servers have put it there themselves by now.
            if folder and not mailbox.holds(folder, message_id):
                mailbox.put(folder, raw)

    def _is_sent(self, message_id: str, password: str) -> bool:
        with Session().open(self._settings, password, self._settings.mailbox) as mailbox:
            folder = mailbox.sent_folder(self._settings.sent_mailbox)
            return bool(folder) and mailbox.holds(folder, message_id)
