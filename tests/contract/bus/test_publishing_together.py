"""Publishes that are awaited side by side share frames; each still succeeds or fails for itself."""

from __future__ import annotations

import asyncio

import pytest
from tests.broker_process import DEADLINE_S

from microclaw.bus.api import Draft, Receipt
from microclaw.bus.errors import BusTimeout, Refused
from microclaw.bus.intake import CALL_MESSAGES_MAX
from microclaw.core.ids import new_id
from microclaw.core.kinds import ReplyRequested


def say(text: str, session: str = "s", message_id: bytes | None = None, expected: int | None = None) -> Draft:
    return Draft(session, ReplyRequested(chat=session, text=text), message_id=message_id, expected_last_seq=expected)


async def together(bus, drafts: list[Draft]) -> list[Receipt | BaseException]:
    answers = await asyncio.wait_for(
        asyncio.gather(*(bus.publish(draft) for draft in drafts), return_exceptions=True), DEADLINE_S
    )
    return [answer if isinstance(answer, BaseException) else answer[0] for answer in answers]


async def test_they_are_stored_in_the_order_they_were_called_in(connect) -> None:
    bus = await connect("alpha")
    receipts = await together(bus, [say(str(n)) for n in range(2 * CALL_MESSAGES_MAX + 50)])
    assert [receipt.seq for receipt in receipts] == list(range(1, 2 * CALL_MESSAGES_MAX + 51))


async def test_one_that_is_refused_takes_no_other_with_it(connect) -> None:
    bus = await connect("alpha")
    known = new_id(1)
    await bus.publish(say("known", message_id=known))
    answers = await together(bus, [
        say("a"), Draft("s", b"\x81\xa4kind\xa5No-No"), say("known", message_id=known), say("b"),
        say("other", message_id=known), say("c"), say("fenced", expected=1), say("d", expected=4),
    ])
    codes = [answer.code if isinstance(answer, Refused) else (answer.seq, answer.duplicate) for answer in answers]
    assert codes == [(2, False), "malformed", (1, True), (3, False), "id_conflict", (4, False), "fenced", (5, False)]


async def test_more_than_one_frame_holds_goes_in_several(connect) -> None:
    bus = await connect("alpha")
    receipts = await together(bus, [say("x" * 1_000_000) for _ in range(24)])
    assert sorted(receipt.seq for receipt in receipts) == list(range(1, 25))


async def test_a_call_that_no_frame_holds_is_refused_and_the_connection_lives(connect) -> None:
    bus = await connect("alpha")
    for drafts in ([say("x" * 1_000_000)] * 24, [say("x")] * (CALL_MESSAGES_MAX + 1)):
        with pytest.raises(Refused) as refused:
            await bus.publish(*drafts)
        assert refused.value.code == "too_big"
    assert (await bus.publish(say("small")))[0].seq == 1


async def test_one_that_is_given_up_is_not_sent_again(broker, connect) -> None:
    bus = await connect("alpha")
    await bus.publish(say("0"))
    broker.kill()
    given_up = asyncio.ensure_future(bus.publish(say("cancelled")))
    kept = asyncio.ensure_future(bus.publish(say("kept")))
    await asyncio.sleep(0)
    given_up.cancel()
    with pytest.raises(BusTimeout):
        await bus.publish(say("late"), timeout_s=0.05)
    broker.start()
    (receipt,) = await asyncio.wait_for(kept, DEADLINE_S)
    assert receipt.seq == 2
    assert (await bus.publish(say("1")))[0].seq == 3
