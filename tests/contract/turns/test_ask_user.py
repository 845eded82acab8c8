"""An agent asks its chat; the answer is the next message there, whoever was killed in between."""

from __future__ import annotations

from typing import Any

import pytest
from tests.contract.house import House, house

from microclaw.core.kinds import MessageReceived
from microclaw.router.awaiting import ANSWER_MS_MAX

QUESTION = "Which day?\n1. Friday\n2. Saturday"


async def ask(made: House, *, registered: bool = True) -> str:
    if registered:
        await made.register("wa:fam", "fam", trigger="@Andy")
    args = {"question": "Which day?", "choices": ["Friday", "Saturday"]}
    return (await made.call("fam", "wa:fam", False, "ask_user", args)).text


def says(number: int, text: str, **more: Any) -> MessageReceived:
    return MessageReceived(**({
        "chat": "wa:fam", "platform_id": str(number), "sender": "ann", "sender_name": "Ann", "text": text,
        "sent_ms": number, "is_group": True,
    } | more))


async def test_the_next_message_is_the_answer_and_the_one_after_it_is_not() -> None:
    async with house() as made:
        assert "End your turn" in await ask(made)
        assert [(reply.chat, reply.text) for reply in made.replies()] == [("wa:fam", QUESTION)]
        await made.kill()
        await made.hears(says(1, "Saturday"))
        assert [grant.messages[-1].text for _, grant in made.grants] == ["Saturday"]
        await made.run_all()
        await made.hears(says(2, "by the way"))
        assert made.grants == []


@pytest.mark.parametrize("more", [{"is_own_reply": True}, {"from_bot": True}, {"chat": "wa:club"}])
async def test_what_is_no_persons_word_in_that_chat_is_no_answer(more: dict[str, Any]) -> None:
    async with house() as made:
        await made.register("wa:club", "club", trigger="@Andy")
        await ask(made)
        await made.hears(says(1, "beep", **more))
        assert made.grants == []
        await made.hears(says(2, "Saturday"))
        assert len(made.grants) == 1


async def test_an_answer_is_waited_for_a_day() -> None:
    async with house() as made:
        await ask(made)
        made.router.now += ANSWER_MS_MAX
        await made.hears(says(1, "Saturday"))
        assert made.grants == []


async def test_in_a_chat_that_is_not_the_groups_nothing_is_asked() -> None:
    async with house() as made:
        assert (await ask(made, registered=False)).startswith("error:")
        assert made.replies() == []
