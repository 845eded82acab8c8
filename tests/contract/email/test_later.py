"""What a mail server wants later is sent later: real servers, and a clock moved by hand."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest
from tests.contract.egress.authority import make_authority
from tests.contract.router.router_play import envelope_of
from tests.fakes.mail_servers import ADDRESS, PASSWORD, Dovecot, MailSink

from microclaw.bus.api import Bus, Delivery
from microclaw.channel import outbound as kit
from microclaw.channel import tables
from microclaw.channel.ledger import Ledger
from microclaw.channel.link import Link
from microclaw.channel.notes import Notes
from microclaw.core.channel_settings import Email
from microclaw.core.delivery import Age
from microclaw.core.ids import derived_id
from microclaw.core.kinds import ReplyDelivered, ReplyRequested
from microclaw.core.settings import Assistant
from microclaw.email.outbound import Outbound
from microclaw.email.smtp import LATER_S
from microclaw.email.threads import Threads
from microclaw.store.engine import engine_for
from microclaw.store.outbox import Outbox

ANN, BOB = "ann@friends.example", "bob@friends.example"
WAIT_S = 60


class Post:
    """The way out of the e-mail connector, its waiting apart."""

    def __init__(self, folder: Path) -> None:
        authority = make_authority(folder, ("localhost",))
        self.imap = Dovecot(folder, authority)
        self.smtp = MailSink(authority, self.imap)
        self.now_s = 1_000.0
        #: How long it was waited, each time.
        self.waits: list[float] = []
        #: Cleared: who waits does so until it is set.
        self.passes = asyncio.Event()
        self.passes.set()
        self.stopping = asyncio.Event()
        self.engine = engine_for(folder / "email.db")
        tables.metadata.create_all(self.engine)
        notes, link = Notes(self.engine, tables.notes, lambda: 1), Link("email", lambda: 1)
        link.connected(ADDRESS)
        settings = Email(
            enabled=True, address=ADDRESS, imap_host="localhost", imap_port=self.imap.port, smtp_port=self.smtp.port,
            ca_file=str(authority.ca),
        )
        service = SimpleNamespace(trouble=logging.getLogger("test").warning)
        channel = cast(Any, SimpleNamespace(notes=notes, secret=self._secret, service=service))
        self.out = kit.Outbound(
            Outbound(channel, settings, Threads(notes), "Andy", lambda: 1), Ledger(self.engine, lambda: 1),
            self.engine, Outbox(self.engine, tables.outbox, tables.inbox), cast(Bus, None), link,
            assistant=Assistant(prefix=False), age=Age(60_000, 3_600_000), clock_ms=lambda: 1, stopping=self.stopping,
            clock_s=lambda: self.now_s, sleep=self._sleep,
        )

    async def _secret(self) -> str:
        return PASSWORD

    async def _sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        await self.passes.wait()
        self.now_s += seconds

    async def send(self, number: int, to: str) -> ReplyDelivered:
        chat = f"email:{to}"
        envelope = envelope_of(ReplyRequested(chat=chat, text=f"text {number}"), chat, derived_id(1, chat, number))
        [draft] = await asyncio.wait_for(self.out.on_reply(Delivery(envelope, 1, None)), WAIT_S)
        assert isinstance(draft.payload, bytes)
        return msgspec.msgpack.decode(draft.payload, type=ReplyDelivered)

    async def wait_of(self, count: int) -> None:
        async with asyncio.timeout(WAIT_S):
            while len(self.waits) < count:
                await asyncio.sleep(0.01)


@pytest.fixture
async def post(tmp_path: Path) -> AsyncIterator[Post]:
    # Dovecot runs as another user where we are root.
    for folder in (tmp_path, tmp_path.parent, tmp_path.parent.parent):
        folder.chmod(0o755)
    made = Post(tmp_path)
    made.imap.start()
    await made.smtp.start()
    try:
        yield made
    finally:
        await made.smtp.stop()
        made.imap.stop()
        made.engine.dispose()


async def test_pain02_later_is_a_minute_later_before_and_after_the_mail_itself_and_it_is_sent_once(post: Post) -> None:
    post.smtp.at_rcpt = ["451 4.7.1 greylisted, try again later"] * 2
    post.smtp.after_data = ["452 4.3.1 no room, try again later"]
    assert (await post.send(1, ANN)).status == "sent"
    assert post.waits == [60.0] * 3
    assert post.smtp.texts(ANN) == ["text 1"]


async def test_pain02_who_is_put_off_holds_up_nobody_else_and_a_stop_does_not_wait_for_it(post: Post) -> None:
    post.passes.clear()
    post.smtp.at_rcpt = ["451 4.7.1 greylisted, try again later"]
    put_off = asyncio.create_task(post.send(1, ANN))
    await post.wait_of(1)
    assert (await post.send(2, BOB)).status == "sent"
    assert (post.waits, post.smtp.texts(ANN)) == ([LATER_S], [])
    post.stopping.set()
    with pytest.raises(kit.Retry):
        await put_off
    post.stopping.clear()
    post.passes.set()
    # It stands in the ledger as not sent, and is taken up again.
    assert (await post.send(1, ANN)).status == "sent"
    assert post.smtp.texts(ANN) == ["text 1"]


async def test_pain02_a_server_that_is_going_down_is_asked_again_in_a_moment(post: Post) -> None:
    post.smtp.at_rcpt = ["421 4.3.2 going down"]
    assert (await post.send(1, ANN)).status == "sent"
    [wait] = post.waits
    assert 0 < wait < 5
