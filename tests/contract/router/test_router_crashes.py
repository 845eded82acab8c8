"""Each message is in exactly one `run.requested`, in order, wherever the router is cut off and whatever comes again.

The handler is driven as the run loop drives it, over a real database, with the journal reduced to what it promises:
the first publish of an id counts, an unacknowledged message comes again, messages of a chat come one after the other.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections import defaultdict
from pathlib import Path

import msgspec
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from microclaw.bus.api import Bus, Delivery, Draft, Receipt
from microclaw.bus.envelope import Envelope
from microclaw.core.home import home_from
from microclaw.core.ids import derived_id
from microclaw.core.kinds import MessageReceived, RunRequested
from microclaw.core.requests import RegisterGroup
from microclaw.router import tables
from microclaw.router.inbound import Inbound
from microclaw.router.registry import Registry
from microclaw.store.engine import open_store
from microclaw.store.heads import HEADS
from microclaw.store.migrate import upgrade
from microclaw.store.outbox import Outbox

MAIN, FAMILY, STRANGER = "console:main", "telegram:1", "telegram:2"
CHATS = st.sampled_from([MAIN, FAMILY, STRANGER])
TEXTS = st.sampled_from(["hello", "@Andy do", "x" * 150_000])
GROUPS = {MAIN: "main", FAMILY: "family"}


class KilledError(Exception):
    """kill -9 at this point."""


class Published:
    """What the broker has: the first publish of an id counts."""

    def __init__(self) -> None:
        self.drafts: dict[bytes, Draft] = {}

    async def publish(self, *drafts: Draft, timeout_s: float | None = None) -> list[Receipt]:
        receipts = []
        for draft in drafts:
            assert draft.message_id is not None
            first = self.drafts.setdefault(draft.message_id, draft)
            assert first.payload == draft.payload, "the same id is the same message"
            receipts.append(Receipt(draft.message_id, 1, first is not draft))
        return receipts

    def by_group(self) -> dict[str, list[str]]:
        found: defaultdict[str, list[str]] = defaultdict(list)
        for draft in self.drafts.values():
            if msgspec.msgpack.decode(draft.payload)["kind"] != "run.requested":
                continue
            run = msgspec.msgpack.decode(draft.payload, type=RunRequested)
            found[run.group] += [line.id for line in run.messages]
        return dict(found)


class Router(RuleBasedStateMachine):
    #: Where the examples live; `template` in it is a migrated home to copy, because migrating takes longer than they.
    scratch: Path

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp(dir=self.scratch)) / "h"
        shutil.copytree(self.scratch / "template", self.root)
        self.loop = asyncio.new_event_loop()
        self.published = Published()
        self.waiting: dict[str, list[Delivery]] = {chat: [] for chat in (MAIN, FAMILY, STRANGER)}
        self.expected: dict[str, list[str]] = {chat: [] for chat in (MAIN, FAMILY)}
        self.number = 0
        self.kill_in_transaction = False
        self.start()
        wanted = RegisterGroup(command_id="1", chat=FAMILY, folder="family", name="Family")
        self.loop.run_until_complete(self.registry.on_register(wanted, "cli"))

    def clock_ms(self) -> int:
        if self.kill_in_transaction:
            raise KilledError
        return 1_700_000_000_000

    def start(self) -> None:
        """As `serve` does it."""
        home = home_from({"MICROCLAW_HOME": str(self.root)})
        self.engine = open_store(home.database("router"), HEADS["router"])
        self.outbox = Outbox(self.engine, tables.outbox, tables.inbox)
        self.registry = Registry(self.engine, home.groups, self.clock_ms)
        self.registry.ensure_main(MAIN)
        bus: Bus = self.published
        self.inbound = Inbound(self.engine, self.outbox, bus, self.registry, "Andy", self.clock_ms)
        assert self.loop.run_until_complete(self.outbox.flush(bus)) == []

    @rule(chat=CHATS, text=TEXTS, own=st.booleans(), again=st.booleans())
    def write(self, chat: str, text: str, own: bool, again: bool) -> None:
        """Somebody writes; `again`: the platform tells the same message under the same id a second time."""
        self.number += 1
        received = MessageReceived(
            chat=chat, platform_id=str(self.number), sender="a", sender_name="A", text=text, sent_ms=5, is_own_reply=own
        )
        for update in range(1 + again):
            envelope = Envelope(
                v=1, seq=1, ts_ms=1, source="telegram", device_id="", session_id=chat,
                message_id=derived_id(1, chat, self.number, update),
                payload=msgspec.Raw(msgspec.msgpack.encode(received)),
            )
            self.waiting[chat].append(Delivery(envelope, 1, None))
        if chat in self.expected and not own:
            self.expected[chat].append(str(self.number))

    @rule(chat=CHATS, killed=st.sampled_from(["", "", "in the transaction", "after commit", "after ack"]))
    def deliver(self, chat: str, killed: str) -> None:
        if not self.waiting[chat]:
            return
        delivery = self.waiting[chat][0]
        self.kill_in_transaction = killed == "in the transaction"
        try:
            drafts = self.loop.run_until_complete(self.inbound.on_message(delivery))
        except KilledError:
            self.kill_in_transaction = False
            self.restart()
            return
        if killed == "after commit":
            self.restart()
            return
        self.waiting[chat].pop(0)
        self.loop.run_until_complete(self.settle(drafts, told=killed != "after ack"))
        if killed:
            self.restart()

    async def settle(self, drafts: list[Draft], *, told: bool) -> None:
        await self.published.publish(*drafts)
        if told:
            self.outbox.settled(drafts)

    @rule()
    def restart(self) -> None:
        self.engine.dispose()
        self.start()

    @rule()
    def delete_settled(self) -> None:
        self.outbox._delete_settled()

    @invariant()
    def nothing_is_doubled_or_out_of_order(self) -> None:
        for group, found in self.published.by_group().items():
            chat = next(chat for chat, folder in GROUPS.items() if folder == group)
            assert found == self.expected[chat][:len(found)]

    def teardown(self) -> None:
        for chat in (MAIN, FAMILY):
            self.write(chat, "@Andy last", own=False, again=False)
        for chat in self.waiting:
            while self.waiting[chat]:
                self.deliver(chat, "")
        assert self.published.by_group() == {GROUPS[chat]: found for chat, found in self.expected.items()}
        with self.engine.begin() as db:
            stored = {row.chat for row in db.execute(tables.messages.select())}
            assert STRANGER not in stored, "of a chat that is not registered no content is kept"
        self.outbox._delete_settled()
        assert self.outbox.pending() == []
        self.engine.dispose()
        self.loop.close()
        shutil.rmtree(self.root.parent)


def test_each_message_is_in_exactly_one_request(tmp_path: Path) -> None:
    home = home_from({"MICROCLAW_HOME": str(tmp_path / "template")})
    home.create()
    upgrade(home)
    Router.scratch = tmp_path
    Router.TestCase.settings = settings(max_examples=40, stateful_step_count=30)
    Router.TestCase().runTest()
