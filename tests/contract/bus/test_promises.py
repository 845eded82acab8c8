"""What the client interface promises, each promise a test. Another engine would have to pass the same."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import msgspec
import pytest
from tests.broker_process import DEADLINE_S, BrokerProcess

from microclaw.bus.admin import DeadLetters, DeadLettersAsked, SessionsAsked, SessionsOfBus
from microclaw.bus.api import Bus, Delivery, Draft, Subscription
from microclaw.bus.envelope import Envelope
from microclaw.bus.errors import BusTimeout, EpochMismatch, NoResponder, NotAnswered, Refused
from microclaw.bus.journal import Journal
from microclaw.bus.journal_schema import JournalError
from microclaw.core.ids import derived_id, new_id
from microclaw.core.kinds import DeadLetter, MessageReceived, ReplyDelivered, ReplyRequested
from microclaw.core.requests import Done, Failed, StatusAsked


def say(text: str, session: str = "console:main", message_id: bytes | None = None) -> Draft:
    return Draft(session, ReplyRequested(chat=session, text=text), message_id=message_id)


async def next_of(stream: AsyncIterator[Delivery]) -> Delivery:
    return await asyncio.wait_for(anext(stream), DEADLINE_S)


async def nothing_from(stream: AsyncIterator[Delivery], bus: Bus) -> bool:
    """Nothing is delivered, though the broker has certainly had its turn (it answered several questions since)."""
    waiting = asyncio.ensure_future(anext(stream))
    for _ in range(5):
        await bus.publish(Draft("elsewhere", ReplyDelivered(chat="x:y", reply_id="", status="sent")))
    nothing = not waiting.done()
    waiting.cancel()
    return nothing


def text_of(delivery: Delivery) -> str:
    return delivery.envelope.read(ReplyRequested).text


async def test_seq_is_dense_and_rising_in_each_session(connect) -> None:
    bus = await connect("alpha")
    receipts = await bus.publish(say("1"), say("a", "other"), say("2"), say("b", "other"))
    assert [r.seq for r in receipts] == [1, 1, 2, 2]
    assert [r.seq for r in await bus.publish(say("3"))] == [3]


async def test_fault10_a_message_id_seen_before_gets_the_first_seq_and_is_delivered_once(connect) -> None:
    bus = await connect("alpha")
    message_id = new_id(1)
    (first,) = await bus.publish(say("once", message_id=message_id))
    await bus.publish(say("between"))
    (again,) = await bus.publish(say("once", message_id=message_id))
    assert (again.seq, again.duplicate, first.duplicate) == (first.seq, True, False)
    stream = bus.subscribe(Subscription("g", ("reply.requested",)))
    for expected in ("once", "between"):
        delivery = await next_of(stream)
        assert text_of(delivery) == expected
        await bus.ack(delivery)
    assert await nothing_from(stream, bus)


async def test_the_same_id_twice_in_one_call_is_one_message(connect) -> None:
    bus = await connect("alpha")
    message_id = new_id(1)
    receipts = await bus.publish(say("x", message_id=message_id), say("x", message_id=message_id))
    assert [(r.seq, r.duplicate) for r in receipts] == [(1, False), (1, True)]


async def test_fault10_the_same_id_with_another_body_is_refused_and_its_call_with_it(connect) -> None:
    bus = await connect("alpha")
    message_id = new_id(1)
    await bus.publish(say("first", message_id=message_id))
    with pytest.raises(Refused) as refused:
        await bus.publish(say("innocent"), say("second", message_id=message_id))
    assert refused.value.code == "id_conflict"
    assert [r.seq for r in await bus.publish(say("next"))] == [2], "nothing of the refused call was stored"


async def test_ac31_fault23_nobody_publishes_under_another_name(connect) -> None:
    bus = await connect("alpha")
    bus.name = "router"
    with pytest.raises(Refused) as refused:
        await bus.publish(say("forged"))
    assert refused.value.code == "denied"


async def test_each_group_gets_everything_and_its_consumers_share(connect) -> None:
    one, two, other = await connect("one"), await connect("two"), await connect("other")
    kinds = ("reply.requested",)
    streams = [bus.subscribe(Subscription("work", kinds, max_in_flight=1)) for bus in (one, two)]
    watching = other.subscribe(Subscription("watch", kinds))
    waiting = [asyncio.ensure_future(anext(stream)) for stream in (*streams, watching)]
    await asyncio.sleep(0)
    await one.publish(say("a", "s1"), say("b", "s2"))
    a, b, seen = await asyncio.wait_for(asyncio.gather(*waiting), DEADLINE_S)
    assert {text_of(a), text_of(b)} == {"a", "b"}
    assert text_of(seen) == "a"


async def test_kinds_match_by_segment_and_sessions_by_prefix(connect) -> None:
    bus = await connect("alpha")
    await bus.publish(
        Draft("telegram:1", MessageReceived(chat="telegram:1", platform_id="1", sender="s", sender_name="S", text="t",
                                            sent_ms=1)),
        say("not this session", "telegram:1"),
        say("this", "console:main"),
        Draft("console:main", ReplyDelivered(chat="console:main", reply_id="r", status="sent")),
    )
    stream = bus.subscribe(Subscription("g", ("reply.requested",), sessions="console:"))
    delivery = await next_of(stream)
    assert text_of(delivery) == "this"
    await bus.ack(delivery)
    both = bus.subscribe(Subscription("h", ("reply.*",), sessions="console:"))
    kinds = []
    for _ in range(2):
        delivery = await next_of(both)
        kinds.append(delivery.envelope.kind)
        await bus.ack(delivery)
    assert kinds == ["reply.requested", "reply.delivered"]


async def test_one_of_a_session_is_out_at_a_time_also_while_it_waits_for_redelivery(connect) -> None:
    bus = await connect("alpha")
    await bus.publish(say("first", "s"), say("second", "s"), say("elsewhere", "t"))
    stream = bus.subscribe(Subscription("g", ("reply.requested",)))
    first, elsewhere = await next_of(stream), await next_of(stream)
    assert [text_of(first), text_of(elsewhere)] == ["first", "elsewhere"]
    await bus.nack(first, delay_ms=50, error="not yet")
    again = await next_of(stream)
    assert (text_of(again), again.count) == ("first", 2)
    await bus.ack(again)
    assert text_of(await next_of(stream)) == "second"


async def test_a_group_that_does_not_care_for_order_has_several_of_a_session_out_and_none_waits_for_another(
    broker, connect
) -> None:
    bus = await connect("alpha")
    wants = Subscription("loose", ("reply.requested",), in_order=False)
    stream = bus.subscribe(wants)
    await bus.publish(say("0"), say("1"), say("2"))
    deliveries = [await next_of(stream) for _ in range(3)]
    await bus.nack(deliveries[1], delay_ms=3_600_000)
    await bus.ack(deliveries[2])
    await bus.publish(say("3"))
    deliveries.append(await next_of(stream))
    assert list(map(text_of, deliveries)) == ["0", "1", "2", "3"]
    await bus.close()
    broker.restart()
    # What is settled is known, and so is that the second waits for its hour.
    stream = (await connect("beta")).subscribe(wants)
    assert sorted([text_of(await next_of(stream)) for _ in range(2)]) == ["0", "3"]


async def test_fault11_no_more_than_max_in_flight_is_given_to_a_consumer(connect) -> None:
    bus = await connect("alpha")
    await bus.publish(*(say(str(n), f"s{n}") for n in range(10)))
    stream = bus.subscribe(Subscription("g", ("reply.requested",), max_in_flight=3))
    held = [await next_of(stream) for _ in range(3)]
    assert await nothing_from(stream, bus)
    await bus.ack(held[0])
    assert text_of(await next_of(stream)) == "3"


async def test_fault19_what_is_not_settled_in_time_is_delivered_again(connect) -> None:
    bus = await connect("alpha")
    await bus.publish(say("slow"))
    stream = bus.subscribe(Subscription("g", ("reply.requested",), ack_wait_ms=100, backoff_ms=(0,)))
    first = await next_of(stream)
    other = (await connect("beta")).subscribe(Subscription("g", ("reply.requested",), ack_wait_ms=100, backoff_ms=(0,)))
    again = await next_of(other)
    assert (first.count, again.count >= 2, text_of(again)) == (1, True, "slow")


async def test_in_progress_keeps_a_delivery(connect) -> None:
    bus = await connect("alpha")
    await bus.publish(say("slow"))
    subscription = Subscription("g", ("reply.requested",), ack_wait_ms=400)
    delivery = await next_of(bus.subscribe(subscription))
    other = await connect("beta")
    waiting = asyncio.ensure_future(anext(other.subscribe(subscription)))
    for _ in range(12):
        await bus.in_progress(delivery)
        await asyncio.sleep(0.1)
    assert not waiting.done(), "three times its ack_wait has passed, and it is still ours"
    waiting.cancel()
    await bus.ack(delivery)


async def test_after_max_deliver_it_is_a_dead_letter_and_the_next_comes(connect) -> None:
    bus = await connect("alpha")
    await bus.publish(say("poison", "s"), say("next", "s"))
    stream = bus.subscribe(Subscription("g", ("reply.requested",), max_deliver=3, backoff_ms=(0,)))
    for count in (1, 2, 3):
        delivery = await next_of(stream)
        assert (text_of(delivery), delivery.count) == ("poison", count)
        await bus.nack(delivery, error="boom")
    assert text_of(await next_of(stream)) == "next"


async def test_term_is_a_dead_letter_at_once(connect) -> None:
    bus = await connect("alpha")
    await bus.publish(say("never", "s"), say("next", "s"))
    stream = bus.subscribe(Subscription("g", ("reply.requested",)))
    await bus.term(await next_of(stream), "can't be read")
    assert text_of(await next_of(stream)) == "next"


async def test_a_dead_letter_is_told_in_the_session_of_its_group_and_a_notice_of_a_notice_is_not(connect) -> None:
    bus = await connect("alpha")
    stream = bus.subscribe(Subscription("g", ("reply.requested",), max_deliver=2, backoff_ms=(0,)))
    await bus.publish(say("unread", "s"), say("never", "t"))
    for _ in range(3):
        delivery = await next_of(stream)
        if text_of(delivery) == "never":
            await bus.term(delivery, "can't be read")
        else:
            await bus.nack(delivery, error=f"failed in try {delivery.count}")
    watching = bus.subscribe(Subscription("watching", ("bus.*",)))
    notices = {}
    for _ in range(2):
        delivery = await next_of(watching)
        assert (delivery.envelope.session_id, delivery.envelope.source) == ("dlq.g", "broker")
        notice = delivery.envelope.read(DeadLetter)
        notices[notice.session] = notice
        await bus.term(delivery, "nor can this")
    assert (notices["t"].group, notices["t"].seq, notices["t"].what, notices["t"].reason, notices["t"].count) == (
        "g", 1, "reply.requested", "can't be read", 1)
    assert (notices["s"].count, notices["s"].first_error, notices["s"].last_error) == (
        2, "failed in try 1", "failed in try 2")
    letters = await (await connect("cli")).request("broker", DeadLettersAsked(), DeadLetters)
    assert {letter.offset for letter in letters.letters if letter.group == "g"} == {n.offset for n in notices.values()}
    assert [envelope.seq async for envelope in taken(bus.replay("dlq.g", 0), 2)] == [1, 2]
    assert await bus.seek("dlq.watching", last=0) == 0, "nothing is there"


async def taken(envelopes: AsyncIterator[Envelope], number: int) -> AsyncIterator[Envelope]:
    for _ in range(number):
        yield await asyncio.wait_for(anext(envelopes), DEADLINE_S)


async def test_an_ack_and_what_it_publishes_are_one(connect) -> None:
    bus = await connect("alpha")
    await bus.publish(say("cause"))
    taken = new_id(5)
    await bus.publish(say("taken", "x", message_id=taken))
    stream = bus.subscribe(Subscription("g", ("reply.requested",), sessions="console:", ack_wait_ms=200))
    delivery = await next_of(stream)
    with pytest.raises(Refused):
        await bus.ack(delivery, say("other", "x", message_id=taken), say("effect", "y"))
    again = await next_of(stream)
    assert text_of(again) == "cause", "the refused call acknowledged nothing"
    (effect,) = await bus.ack(again, say("effect", "y"))
    assert effect.seq == 1, "and published nothing"
    assert await nothing_from(stream, bus)


async def test_replay_gives_the_rest_of_a_session_and_then_what_comes(connect) -> None:
    bus = await connect("alpha")
    await bus.publish(*(say(str(n)) for n in range(1, 1001)), timeout_s=DEADLINE_S)
    seen: list[int] = []
    reader = bus.replay("console:main", 990)
    publishing = asyncio.create_task(bus.publish(*(say(str(n)) for n in range(1001, 1021))))
    async with asyncio.timeout(DEADLINE_S):
        async for envelope in reader:
            seen.append(envelope.seq)
            if envelope.seq == 1020:
                break
    await publishing
    assert seen == list(range(991, 1021))


async def test_a_replay_begins_at_a_time_or_at_the_last_ones_of_a_session(broker, connect) -> None:
    bus = await connect("alpha")
    times = []
    for number in range(12):
        # Another millisecond: what is stored within one can't be told apart by time.
        while times and time.time_ns() // 1_000_000 <= times[-1] + 1:
            await asyncio.sleep(0.002)
        times.append(time.time_ns() // 1_000_000)
        await bus.publish(say(str(number), "s"), say("elsewhere", "t"))

    async def texts(after: int) -> list[str]:
        found = []
        async for envelope in bus.replay("s", after):
            found.append(envelope.read(ReplyRequested).text)
            if envelope.seq == len(times):
                break
        return found

    for _ in range(2):
        assert await texts(await bus.seek("s", last=1)) == ["11"]
        assert await texts(await bus.seek("s", last=4)) == ["8", "9", "10", "11"]
        assert await texts(await bus.seek("s", last=99)) == await texts(await bus.seek("s")) == await texts(0)
        for number, since_ms in enumerate(times):
            assert await texts(await bus.seek("s", since_ms=since_ms)) == [str(n) for n in range(number, len(times))]
        assert await texts(await bus.seek("s", since_ms=times[3], last=2)) == ["10", "11"]
        assert await bus.seek("s", since_ms=times[-1] + 3_600_000) == await bus.seek("s", last=0) == len(times)
        assert await bus.seek("nobody", since_ms=1, last=1) == 0
        # Again, with all that is known from the index over places alone.
        broker.restart()
        await (await connect("cli")).request("broker", SessionsAsked(), SessionsOfBus)
    for wrong in ({"since_ms": -1}, {"last": -1}, {"last": 1 << 63}):
        with pytest.raises(ValueError, match="0 or more"):
            await bus.seek("s", **wrong)


async def test_replay_from_beyond_the_end_is_told(connect) -> None:
    bus = await connect("alpha")
    await bus.publish(say("one"))
    with pytest.raises(EpochMismatch):
        await anext(bus.replay("console:main", 5))


@pytest.mark.parametrize("place", [-1, 1 << 63])
async def test_replay_from_no_place_is_refused_at_once(connect, place: int) -> None:
    bus = await connect("alpha")
    with pytest.raises(ValueError, match="no place"):
        await anext(bus.replay("console:main", place))


async def test_requests_are_answered_and_errors_told(connect) -> None:
    server, asker = await connect("server"), await connect("asker")

    async def answer(who: str, raw: bytes) -> msgspec.Struct:
        if who != "asker":
            return Failed(reason="who?")
        msgspec.msgpack.decode(raw, type=StatusAsked)
        return Done()

    await server.serve(answer)
    async with asyncio.timeout(DEADLINE_S):
        while True:
            try:
                assert await asker.request("server", StatusAsked(), Done | Failed) == Done()
                break
            except NoResponder:
                continue


async def test_a_failed_that_the_asker_did_not_reckon_with_is_an_error_of_the_bus(connect) -> None:
    """A full disk over there is no reason to end over here."""
    server, asker = await connect("server"), await connect("asker")

    async def answer(_who: str, raw: bytes) -> msgspec.Struct:
        return Failed(reason="its disk is full")

    await server.serve(answer)
    async with asyncio.timeout(DEADLINE_S):
        while True:
            try:
                await asker.request("server", StatusAsked(), Done)
            except NoResponder:
                continue
            except NotAnswered as error:
                assert str(error) == "server: its disk is full"
                break


async def test_a_request_to_nobody_fails_at_once(connect) -> None:
    bus = await connect("alpha")
    with pytest.raises(NoResponder):
        await bus.request("nobody", StatusAsked(), Done, timeout_s=DEADLINE_S)


async def test_a_request_without_an_answer_ends_at_its_deadline(connect) -> None:
    server, asker = await connect("server"), await connect("asker")
    asked = asyncio.Event()

    async def never(_who: str, _raw: bytes) -> msgspec.Struct:
        asked.set()
        await asyncio.Event().wait()
        raise AssertionError

    await server.serve(never)
    await server.publish(say("after serve"))
    with pytest.raises(BusTimeout):
        await asker.request("server", StatusAsked(), Done, timeout_s=0.3)
    assert asked.is_set()


async def test_a_new_group_may_start_at_new_messages(connect) -> None:
    bus = await connect("alpha")
    await bus.publish(say("old"))
    stream = bus.subscribe(Subscription("late", ("reply.requested",), start="new"))
    waiting = asyncio.ensure_future(anext(stream))
    await asyncio.sleep(0)
    await bus.publish(say("new"))
    assert text_of(await asyncio.wait_for(waiting, DEADLINE_S)) == "new"


async def test_derived_ids_make_a_redone_effect_one_message(connect) -> None:
    bus = await connect("alpha")
    for _ in range(2):
        await bus.publish(say("effect", message_id=derived_id(7, "run-1", "reply")))
    assert [r.seq for r in await bus.publish(say("next"))] == [2]


def test_fault07_a_second_broker_on_one_journal_refuses_to_start(broker: BrokerProcess) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while "ready" not in broker.log():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    second = BrokerProcess(broker.root)
    second.start()
    assert second.process is not None
    assert second.process.wait(DEADLINE_S) == 5
    assert "another broker" in broker.log()


def test_fault07_a_journal_is_opened_by_one_broker_only(tmp_path) -> None:
    journal = Journal(tmp_path / "journal.db")
    with pytest.raises(JournalError, match=r"another broker has journal\.db"):
        Journal(tmp_path / "journal.db")
    journal.close()
    Journal(tmp_path / "journal.db").close()


async def test_a_delayed_message_comes_when_it_is_due_and_holds_nobody_up(connect) -> None:
    bus = await connect("alpha")
    now_ms = time.time_ns() // 1_000_000
    later = Draft("s", ReplyRequested(chat="s", text="later"), not_before_ms=now_ms + 400)
    await bus.publish(later, say("now", "s"))
    stream = bus.subscribe(Subscription("g", ("reply.requested",)))
    first = await next_of(stream)
    assert text_of(first) == "now"
    await bus.ack(first)
    second = await next_of(stream)
    assert text_of(second) == "later"
    assert time.time_ns() // 1_000_000 >= now_ms + 400


async def test_a_delayed_message_survives_the_broker(broker, connect) -> None:
    bus = await connect("alpha")
    now_ms = time.time_ns() // 1_000_000
    stream = bus.subscribe(Subscription("g", ("reply.requested",)))
    await bus.publish(Draft("s", ReplyRequested(chat="s", text="later"), not_before_ms=now_ms + 1_500))
    broker.restart()
    assert text_of(await next_of(stream)) == "later"
    assert time.time_ns() // 1_000_000 >= now_ms + 1_500


async def test_an_expired_message_is_not_delivered_but_keeps_its_place_in_replay(connect) -> None:
    bus = await connect("alpha")
    past = time.time_ns() // 1_000_000 - 1
    await bus.publish(Draft("s", ReplyRequested(chat="s", text="stale"), expires_ms=past), say("fresh", "s"))
    stream = bus.subscribe(Subscription("g", ("reply.requested",)))
    assert text_of(await next_of(stream)) == "fresh"
    async with asyncio.timeout(DEADLINE_S):
        reader = bus.replay("s", 0)
        assert [(await anext(reader)).seq, (await anext(reader)).seq] == [1, 2]


async def test_a_fenced_message_is_stored_only_at_the_expected_place(connect) -> None:
    bus = await connect("alpha")
    first = Draft("s", ReplyRequested(chat="s", text="a"), message_id=new_id(1), expected_last_seq=0)
    assert (await bus.publish(first))[0].seq == 1
    with pytest.raises(Refused) as refused:
        await bus.publish(Draft("s", ReplyRequested(chat="s", text="b"), expected_last_seq=0))
    assert refused.value.code == "fenced"
    assert (await bus.publish(first))[0].duplicate, "a repeat is no conflict"
    assert (await bus.publish(Draft("s", ReplyRequested(chat="s", text="c"), expected_last_seq=1)))[0].seq == 2
