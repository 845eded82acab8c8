"""Replies that did not arrive are told to the owner, once, and never for ever."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.contract.router.router_play import RouterPlay, envelope_of

from microclaw.bus.api import Delivery
from microclaw.core.ids import derived_id, id_text
from microclaw.core.kinds import ReplyDelivered
from microclaw.core.people import Role
from microclaw.core.people_requests import ChangeUser, DeliveriesAsked
from microclaw.router.deliveries import NEWS_MS, notice_id


@pytest.fixture
async def made(tmp_path: Path) -> AsyncIterator[RouterPlay]:
    play = RouterPlay(tmp_path)
    play.registry.ensure_main("console:main")
    await play.register("telegram:-1", "fam")
    yield play
    play.stop()


async def ended(
    made: RouterPlay, reply: str, status: str, *, chat: str = "telegram:-1", ago_ms: int = 0, again: int = 0
) -> None:
    end = ReplyDelivered(chat=chat, reply_id=reply, status=status, error="flood wait\nof 3 s")  # type: ignore[arg-type]
    envelope = envelope_of(end, chat, derived_id(made.now, reply, status, again), ts_ms=made.now - ago_ms)
    made.publish(await made.deliveries.on_delivered(Delivery(envelope, 1, None)))


async def states(made: RouterPlay) -> list[tuple[str, str, str]]:
    rows = (await made.deliveries.on_list(DeliveriesAsked(), "cli")).rows
    return [(row.reply_id, row.state, row.group) for row in rows]


async def test_pain02_a_reply_that_did_not_arrive_is_told_to_the_owner_exactly_once(made: RouterPlay) -> None:
    for again in range(2):
        await ended(made, "r1", "uncertain", again=again)
        await ended(made, "r1", "uncertain", again=again)
        made.start()
    await ended(made, "r2", "failed")
    await ended(made, "r3", "sent")
    first, second = made.said("console:main")
    assert "may or may not have arrived" in first and "telegram:-1" in first and "flood wait of 3 s" in first
    assert "could not be delivered" in second
    assert sorted(await states(made)) == [("r1", "uncertain", "fam"), ("r2", "failed", "fam")]


async def test_what_was_uncertain_and_is_found_is_no_trouble_any_more(made: RouterPlay) -> None:
    await ended(made, "r1", "uncertain")
    made.start()
    await ended(made, "r1", "sent")
    assert await states(made) == [] and len(made.said()) == 1


async def test_old_news_is_noted_and_not_told(made: RouterPlay) -> None:
    await ended(made, "r1", "failed", ago_ms=NEWS_MS + 1)
    assert made.said() == [] and len(await states(made)) == 1


async def test_a_notice_that_does_not_arrive_causes_no_notice(made: RouterPlay) -> None:
    """Else a channel that is down would be told of for ever."""
    added = ChangeUser(command_id="1", action="add", name="me", role=Role.OWNER, sender="telegram:7")
    await made.people.on_change(added, "cli")
    with made.registry._engine.begin() as db:
        made.registry.open_chat(db, "telegram:7", "main", "me")
    made.registry.reload()
    await ended(made, "r1", "failed", chat="telegram:7")
    assert len(made.said("console:main")) == 1 and made.said("telegram:7") == []
    await ended(made, id_text(notice_id("r1")), "failed", chat="console:main")
    assert len(made.said()) == 1
