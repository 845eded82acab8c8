"""A history that is taken over wakes nobody, doubles nothing, and is read or waits as it was."""

from __future__ import annotations

from pathlib import Path

from tests.contract.router.router_play import RouterPlay

from microclaw.core.kinds import MessageReceived
from microclaw.core.requests import Failed, Imported, ImportMessages
from microclaw.router.history import MESSAGES_MAX, History


def said(number: int, chat: str = "wa:fam") -> MessageReceived:
    return MessageReceived(
        chat=chat, platform_id=f"m{number}", sender="ann", sender_name="Ann", text=f"text {number}", sent_ms=number,
    )


async def test_what_was_read_stays_read_and_the_rest_goes_with_the_next_message(tmp_path: Path) -> None:
    made = RouterPlay(tmp_path)
    await made.register("wa:fam", "fam", requires_trigger=False)
    assert made.engine is not None
    history = History(made.engine, made.registry)
    for _ in range(2):
        read = await history.on_import(ImportMessages(messages=(said(1), said(2, "wa:other"))), "cli")
        unread = await history.on_import(ImportMessages(messages=(said(3),), is_read=False), "cli")
    assert (read, unread) == (Imported(added=0, known=1, elsewhere=1), Imported(added=0, known=1, elsewhere=0))
    (run,) = await made.hears(said(4))
    assert [prompt.id for prompt in run.messages] == ["m3", "m4"]
    assert "wa:other" in [chat.chat for chat in (await made.groups()).chats]


async def test_only_the_owner_and_only_so_much(tmp_path: Path) -> None:
    made = RouterPlay(tmp_path)
    assert made.engine is not None
    history = History(made.engine, made.registry)
    many = tuple(said(number) for number in range(MESSAGES_MAX + 1))
    for messages, asker in (((said(1),), "sandbox"), (many, "cli"), ((said(1, "nowhere"),), "cli")):
        assert isinstance(await history.on_import(ImportMessages(messages=messages), asker), Failed)
