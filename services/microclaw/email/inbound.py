"""From mails in a folder to `message.received`.

A mail is marked read on the server only after the journal has it. The cursor is the UID; when the server numbers its
mails anew (UIDVALIDITY changes) the folder is read again from the day that was reached, and what is known is passed
over.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import UTC, date, datetime, timedelta
from typing import ParamSpec, TypeVar

import msgspec
from msgspec.structs import replace

from microclaw.channel.inbound import CURSOR, Heard
from microclaw.channel.link import Unreachable
from microclaw.channel.media import Skipped
from microclaw.channel.open import Channel
from microclaw.core.channel_settings import Email
from microclaw.core.kinds import Attachment, MessageReceived
from microclaw.core.text import with_subject
from microclaw.email.imap import FAILURES, Fetched, Mailbox, Session
from microclaw.email.reading import Mail, Unreadable, bare_subject, read_mail
from microclaw.email.threads import KEPT_MS, Threads
from microclaw.email.trust import is_from_proven

log = logging.getLogger("microclaw.email")

P = ParamSpec("P")
Result = TypeVar("Result")


class OwnThread:
    """Blocking work, one piece after the other, in a thread that nobody else uses."""

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(1, "imap")

    async def run(self, work: Callable[P, Result], *args: P.args, **kwargs: P.kwargs) -> Result:
        """Do it there."""
        return await asyncio.get_running_loop().run_in_executor(self._executor, lambda: work(*args, **kwargs))

    def end(self) -> None:
        """Nothing more will be done; what is under way comes to its end by itself."""
        self._executor.shutdown(wait=False, cancel_futures=True)


class Place(msgspec.Struct, frozen=True):
    """How far the folder was read."""

    uidvalidity: int
    uid: int
    #: The day of the newest mail that was taken, ISO.
    day: str

    def note(self) -> dict[str, str]:
        """As it is kept."""
        return {"folder": msgspec.json.encode(self).decode()}


class Inbound:
    """Follows the folder."""

    def __init__(self, channel: Channel, settings: Email, threads: Threads, clock_ms: Callable[[], int]) -> None:
        self._channel = channel
        self._settings = settings
        self._threads = threads
        self._clock_ms = clock_ms

    async def connect(self) -> None:
        """Stay logged in, and take what comes. Raises `Unreachable`, `LoggedOut`."""
        settings, link = self._settings, self._channel.link
        password = await self._channel.secret()
        if not settings.authserv_id:
            self._channel.service.trouble(
                "channels.email.authserv_id is not set: nobody's From is believed, so no mail is taken; docs/email.md "
                "tells how to find the name"
            )
        session, thread, stack = Session(), OwnThread(), ExitStack()
        try:
            mailbox = await thread.run(stack.enter_context, session.open(settings, password, settings.mailbox))
            place = await self._begin(mailbox, thread)
            link.connected(settings.address)
            self._threads.forget(self._clock_ms() - KEPT_MS)
            while True:
                place = await self._take_new(mailbox, place, thread)
                await thread.run(mailbox.wait, settings.poll_s)
                link.event()
        except FAILURES as error:
            raise Unreachable(f"{settings.imap_host}: {error or type(error).__name__}") from error
        finally:
            # Cut first: the thread may be waiting for the server.
            session.cut()
            thread.end()

    async def _begin(self, mailbox: Mailbox, thread: OwnThread) -> Place:
        text = self._channel.inbound.cursor("folder")
        if not text:
            # What came before the first start is not ours to answer.
            place = Place(mailbox.uidvalidity, mailbox.uidnext - 1, self._today())
            self._channel.notes.set(CURSOR, place.note())
            return place
        place = msgspec.json.decode(text, type=Place)
        if place.uidvalidity == mailbox.uidvalidity:
            return place
        self._channel.service.trouble(
            "the mail server numbers its mails anew: the folder is read again from where we were, "
            "nothing is taken twice"
        )
        day = date.fromisoformat(place.day) - timedelta(days=1)
        uids = await thread.run(mailbox.since, day)
        return Place(mailbox.uidvalidity, min(uids, default=mailbox.uidnext) - 1, place.day)

    async def _take_new(self, mailbox: Mailbox, place: Place, thread: OwnThread) -> Place:
        while mails := await thread.run(mailbox.new_since, place.uid):
            for fetched in mails:
                mail = self._read(fetched)
                heard = None if mail is None or self._passed_over(mail, fetched) else await self._heard(mail, fetched)
                place = replace(place, uid=fetched.uid, day=max(place.day, fetched.arrived.date().isoformat()))
                if mail is None or heard is None:
                    await self._channel.inbound.take([], place.note())
                    continue
                said = heard.message
                # Before anybody can answer it; that it was taken is noted with the cursor, after the journal has it.
                self._threads.join(said.chat, mail.sender, mail.subject, said.platform_id)
                await self._channel.inbound.take(
                    [heard], place.note(), self._threads.taken(said.chat, mail.sender, said.platform_id)
                )
                await thread.run(mailbox.mark_read, [fetched.uid])
        return place

    def _read(self, fetched: Fetched) -> Mail | None:
        """None = nobody can: it stays as it is in its folder, and holds up none behind it."""
        try:
            return read_mail(fetched.raw, _ms(fetched.arrived))
        except Unreadable as reason:
            self._channel.service.trouble(
                f"the mail with the UID {fetched.uid} can't be read and is left where it is: {reason}"
            )
            return None

    async def _heard(self, mail: Mail, fetched: Fetched) -> Heard:
        message_id = mail.message_id or f"uid-{fetched.uid}@{fetched.arrived.timestamp():.0f}"
        chat = self._threads.chat_of(mail.sender, message_id, mail.answers)
        begins = self._threads.begins(chat, message_id)
        return Heard(await self._message(mail, message_id, chat, begins, fetched))

    def _passed_over(self, mail: Mail, fetched: Fetched) -> bool:
        """Whether this mail is none for us; it stays as it is in its folder."""
        if mail.failed_id and self._threads.is_ours(mail.failed_id):
            self._channel.service.trouble(f"a mail of ours came back: {mail.failed_id}")
        why = mail.robot
        if not why and not mail.sender:
            why = "its From names nobody, or several"
        elif not why and mail.sender == self._settings.address.casefold():
            why = "we wrote it"
        elif not why and mail.message_id and self._threads.is_known(mail.message_id, mail.sender):
            why = "it was taken before"
        if why:
            log.info("passed over", extra={"uid": fetched.uid, "why": why})
        return bool(why)

    async def _message(
        self, mail: Mail, message_id: str, chat: str, begins: bool, fetched: Fetched
    ) -> MessageReceived:
        kept: list[Attachment] = []
        lines = [mail.text]
        if not fetched.whole:
            lines.append(f"[the mail has {fetched.size_bytes} bytes: too large to fetch]")
        for file in mail.files:
            taken = await self._channel.media.take(file.name, len(file.data), _given(file.data))
            if isinstance(taken, Skipped):
                lines.append(taken.text)
            else:
                kept.append(taken)
        text = "\n".join(line for line in lines if line).strip()
        if begins and bare_subject(mail.subject):
            text = with_subject(text, mail.subject)
        proven = is_from_proven(mail.results, self._settings.authserv_id, mail.sender)
        if not proven:
            log.warning("nobody vouches for its From", extra={"uid": fetched.uid})
        return MessageReceived(
            chat=chat, platform_id=message_id, sender=mail.sender, sender_name=mail.sender_name or mail.sender,
            text=text, sent_ms=mail.sent_ms,
            chat_name=bare_subject(mail.subject) or mail.sender, is_sender_proven=proven,
            is_forwarded=mail.is_forwarded, attachments=tuple(kept),
        )

    def _today(self) -> str:
        return datetime.fromtimestamp(self._clock_ms() / 1000, UTC).date().isoformat()


def _given(data: bytes) -> Callable[[int], Awaitable[bytes]]:
    async def fetch(_bytes_max: int) -> bytes:
        return data

    return fetch


def _ms(moment: datetime) -> int:
    # IMAPClient gives the server's moment in this machine's zone, without saying so.
    return int(moment.timestamp() * 1000)
