"""What a run gets of a message: all of it, as it is when it is handed over."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select
from tests.contract.router.router_play import RouterPlay

from microclaw.core.kinds import Attachment, MessageReceived, Quote, RunGranted
from microclaw.core.turns import prompt_of
from microclaw.router.tables import messages

BILL = Attachment(handle="sha256:" + "a" * 64, name="bill.pdf", mime="application/pdf", size_bytes=2048)


@pytest.fixture
async def made(tmp_path: Path) -> AsyncIterator[RouterPlay]:
    play = RouterPlay(tmp_path)
    await play.register("telegram:-1", "fam")
    yield play
    play.stop()


def says(number: int, text: str, **more: Any) -> MessageReceived:
    return MessageReceived(
        chat="telegram:-1", platform_id=str(number), sender="ann", sender_name="Ann", text=text,
        sent_ms=1_700_000_000_000 + number, is_group=True, **more,
    )


async def test_quotes_files_and_the_silence_before_are_in_the_prompt_with_the_owners_time(made: RouterPlay) -> None:
    await made.hears(says(1, "lunch?"))
    await made.hears(says(2, "", attachments=(BILL,)))
    (run,) = await made.hears(says(3, "@Andy pay it", quote=Quote(id="2", sender_name="Ann", text="the bill")))
    grant = RunGranted(run_id="r", attempt=1, group="fam", chat=run.chat, messages=run.messages)
    prompt = prompt_of(grant, "Europe/Berlin")
    assert '<context timezone="Europe/Berlin" />' in prompt and "Nov 14, 2023, 11:13 PM" in prompt
    parts = ("lunch?", 'name="bill.pdf"', "application/pdf", "2048", "pay it")
    assert [prompt.count(part) for part in parts] == [1] * 5
    assert '<quoted_message from="Ann">the bill</quoted_message>' in prompt and 'reply_to="2"' in prompt


async def test_an_edit_of_what_was_handed_over_is_kept_and_answers_nothing_again(made: RouterPlay) -> None:
    await made.hears(says(1, "@Andy at eight"))
    assert await made.hears(says(1, "@Andy at nine", is_edit=True)) == []
    (run,) = await made.hears(says(2, "@Andy which was it?"))
    assert [line.text for line in run.messages] == ["@Andy which was it?"]
    assert made.engine is not None
    with made.engine.begin() as db:
        assert [row.text for row in db.execute(select(messages).order_by(messages.c.number))] == [
            "@Andy at nine", "@Andy which was it?",
        ]


async def test_an_edit_may_be_what_wakes(made: RouterPlay) -> None:
    assert await made.hears(says(1, "what time is it?")) == []
    (run,) = await made.hears(says(1, "@Andy what time is it?", is_edit=True))
    assert [line.text for line in run.messages] == ["@Andy what time is it?"]
