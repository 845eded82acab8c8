"""Group chats that a connector names before anybody writes there."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from tests.contract.router.router_play import RouterPlay, envelope_of

from microclaw.bus.api import Delivery
from microclaw.core.groups import open_for_registration
from microclaw.core.ids import new_id
from microclaw.core.kinds import ChatsNamed, MessageReceived, NamedChat
from microclaw.core.requests import KnownChat
from microclaw.router import registry as registry_module


async def names(made: RouterPlay, session: str, **chats: str) -> None:
    payload = ChatsNamed(chats=tuple(NamedChat(chat=chat.replace("_", ":"), name=name) for chat, name in chats.items()))
    assert await made.inbound.on_named(Delivery(envelope_of(payload, session, new_id(1)), 1, None)) == []


async def known(made: RouterPlay) -> list[KnownChat]:
    return open_for_registration((await made.groups()).chats)


def hi(chat: str, **more: str) -> MessageReceived:
    return MessageReceived(
        chat=chat, platform_id="1", sender="ann", sender_name="Ann", text="hi", sent_ms=5, is_group=True, **more
    )


async def test_a_silent_group_can_be_registered_and_counts_as_not_heard_of(tmp_path: Path) -> None:
    made = RouterPlay(tmp_path)
    await made.hears(hi("wa:loud"))
    await names(made, "wa:silent", wa_silent="Quiet corner")
    assert [(chat.chat, chat.name, chat.last_message_ms) for chat in await known(made)] == [
        ("wa:loud", "wa:loud", 5), ("wa:silent", "Quiet corner", 0),
    ]
    assert not any(chat.is_heard for chat in await known(made))
    made.stop()


async def test_a_new_name_holds_and_takes_nothing_from_what_is_known(tmp_path: Path) -> None:
    made = RouterPlay(tmp_path)
    await made.hears(hi("wa:a", chat_name="Old"))
    await names(made, "wa:a", wa_a="New")
    [chat] = await known(made)
    assert (chat.name, chat.last_message_ms) == ("New", 5)
    await made.hears(hi("wa:a"))
    [chat] = await known(made)
    assert chat.name == "New"
    made.stop()


async def test_a_connector_names_chats_of_its_own_channel_alone(tmp_path: Path) -> None:
    made = RouterPlay(tmp_path)
    await names(made, "wa:a", tg_a="Stolen", wa_b="", **{"wa_status@broadcast": "Status", "wa": "No chat"})
    assert await known(made) == []
    made.stop()


async def test_strangers_chats_are_listed_and_kept_only_so_far(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everybody who sends a mail begins one: the list goes to other services, and has to fit."""
    monkeypatch.setattr(registry_module, "DIRECT_LISTED_MAX", 2)
    made = RouterPlay(tmp_path)
    await made.register("email:us", "us")
    await made.hears(hi("wa:loud"))
    for number in range(4):
        one = msgspec.structs.replace(hi(f"email:{number}"), is_group=False, sent_ms=made.now + number)
        await made.hears(one)
    assert {chat.chat for chat in (await made.groups()).chats} == {"email:us", "wa:loud", "email:2", "email:3"}
    made.now += registry_module.DIRECT_KEPT_MS + 3
    made.registry.tidy()
    assert {chat.chat for chat in (await made.groups()).chats} == {"email:us", "wa:loud", "email:3"}
    made.stop()
