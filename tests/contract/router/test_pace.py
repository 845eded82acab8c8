"""Floods and loops: the owner is served, the others' messages are kept, and it costs little."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.contract.router.router_play import RouterPlay

from microclaw.core.flood import KEPT_FACTOR, LATE_MS, per_minute
from microclaw.core.kinds import MessageReceived
from microclaw.core.loops import BOT_TURNS_MAX, CALM_MS, PAUSE_MS, QUICK_MS, QUICK_TURNS_MAX, Talk, Turn, heard, replied
from microclaw.core.token_bucket import TokenBucket
from microclaw.router.inbound import Inbound
from microclaw.router.pace import Paces

GROUP = "telegram:-1"


@pytest.fixture
async def made(tmp_path: Path) -> AsyncIterator[RouterPlay]:
    play = RouterPlay(tmp_path)
    play.registry.ensure_main("console:main")
    await play.register(GROUP, "fam", requires_trigger=False)
    limited(play)
    yield play
    play.stop()


def limited(made: RouterPlay) -> None:
    """Three messages in a minute wake."""
    made.paces = Paces(lambda: made.now, per_sender_per_min=3, per_chat_per_min=4)
    assert made.engine is not None
    made.inbound = Inbound(
        made.engine, made.outbox, made.inbound._bus, made.registry, "Andy", lambda: made.now, people=made.people,
        door=made.door, paces=made.paces,
    )


def says(number: int, sender: str = "ann", **more: Any) -> MessageReceived:
    return MessageReceived(**({
        "chat": GROUP, "platform_id": f"{sender}{number}", "sender": sender, "sender_name": sender, "text": "hi",
        "sent_ms": number, "is_group": True,
    } | more))


async def late(made: RouterPlay) -> list[int]:
    before = len(made.runs())
    for cause in made.inbound.wake_late():
        await made.outbox.flush(made.inbound._bus, cause)
    return [len(run.messages) for run in made.runs()[before:]]


async def test_ac57_a_flood_of_one_sender_is_answered_in_one_and_nothing_is_lost(made: RouterPlay) -> None:
    woken = [len(await made.hears(says(number))) for number in range(20)]
    assert woken == [1, 1, 1] + [0] * 17
    assert await late(made) == []
    made.now += LATE_MS
    assert await late(made) == [17] and await late(made) == []
    assert made.said() == []


async def test_ac57_a_flood_is_answered_late_though_the_router_is_killed(made: RouterPlay) -> None:
    for number in range(5):
        await made.hears(says(number))
    made.start()
    made.now += LATE_MS
    assert await late(made) == [2]


async def test_ac57_many_senders_together_wake_a_chat_no_faster(made: RouterPlay) -> None:
    woken = [len(await made.hears(says(number, f"s{number}"))) for number in range(10)]
    assert sum(woken) == 4


async def test_ac57_the_owner_is_served_in_the_middle_of_a_flood(made: RouterPlay) -> None:
    for number in range(10):
        await made.hears(says(number))
    (run,) = await made.hears(says(99, "me", from_me=True))
    assert [line.id for line in run.messages] == [*(f"ann{number}" for number in range(3, 10)), "me99"]
    assert len(await made.hears(says(1, "owner", chat="console:main", is_group=False))) == 1


async def test_ac57_what_is_beyond_all_bounds_is_not_kept_and_the_owner_is_told_once(made: RouterPlay) -> None:
    for number in range(3 * KEPT_FACTOR + 30):
        await made.hears(says(number))
    made.now += LATE_MS
    assert sum(await late(made)) + 3 == 3 * KEPT_FACTOR
    (told,) = made.said("console:main")
    assert "telegram:ann" in told


async def test_ac58_two_programs_that_answer_each_other_stop_and_the_owner_is_told_once(made: RouterPlay) -> None:
    made.paces = made.inbound._paces = Paces(lambda: made.now)
    woken = 0
    for number in range(30):
        made.now += 5_000
        woken += len(await made.hears(says(number, "bot", from_bot=True)))
        made.paces.replied(GROUP)
    assert woken == BOT_TURNS_MAX
    (told,) = made.said("console:main")
    assert "answer each other" in told
    # A person's word goes on, with all that was said.
    (run,) = await made.hears(says(31, "ann"))
    assert len(run.messages) == 30 - BOT_TURNS_MAX + 1
    assert len(await made.hears(says(32, "bot", from_bot=True))) == 1


def test_ac58_what_answers_faster_than_anybody_reads_is_a_program_too() -> None:
    talk, now, turns = Talk(), 1, []
    for _ in range(QUICK_TURNS_MAX + 5):
        talk, turn = heard(talk, from_bot=False, is_group=False, is_owner=False, now_ms=now)
        turns.append(turn)
        talk = replied(talk, now_ms=now + 1_000) if turn is Turn.GO else talk
        now += 1_000 + QUICK_MS // 3
    assert turns.index(Turn.STOP) == QUICK_TURNS_MAX and set(turns[QUICK_TURNS_MAX + 1:]) == {Turn.STOPPED}
    for is_owner, later in ((True, now), (False, now + PAUSE_MS)):
        assert heard(talk, from_bot=False, is_group=False, is_owner=is_owner, now_ms=later)[1] is Turn.GO


def test_a_person_is_never_a_loop_and_a_program_may_come_back_after_a_silence() -> None:
    talk, now = Talk(), 1
    for _ in range(200):
        talk, turn = heard(talk, from_bot=False, is_group=False, is_owner=False, now_ms=now)
        assert turn is Turn.GO
        talk = replied(talk, now_ms=now + 1_000)
        now += 2_000 + QUICK_MS
    stopped = Talk(heard_ms=now, replied_ms=now, bot_turns=BOT_TURNS_MAX, stopped=True)
    assert heard(stopped, from_bot=True, is_group=True, is_owner=False, now_ms=now + CALM_MS)[1] is Turn.GO


@given(st.lists(st.integers(-5_000, 60_000), max_size=50), st.integers(1, 100))
def test_never_more_than_a_minutes_worth_and_what_flowed_in_wakes(pauses: list[int], per_min: int) -> None:
    now = 1_000_000.0
    bucket = TokenBucket(per_minute(per_min), now)
    given_out = 0
    for pause in pauses:
        now += pause / 1000
        given_out += bucket.take(now)
    forward_ms = sum(max(0, pause) for pause in pauses)
    assert given_out <= per_min + forward_ms * per_min / 60_000 + 1
