"""Which folders and chats there can be, and who gets registered."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from microclaw.core.groups import (
    Registration,
    Rejected,
    channel_of,
    decide_registration,
    is_chat,
    is_conversation,
    is_folder,
    missing_fields,
    native_of,
    open_for_registration,
)
from microclaw.core.requests import Group, KnownChat

FOLDER_CHARS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-"


@pytest.mark.parametrize("folder", ["main", "family-chat", "Team_42", "a", "a" * 64, "a_", "0"])
def test_folder_names(folder: str) -> None:
    assert is_folder(folder)


@pytest.mark.parametrize("folder", [
    "", ".", "..", "../x", "/etc", "a/b", "a\\b", "a b", " main", "main ", "main\n", "a.b", "-x", "_x", "global",
    "Global", "GLOBAL", "a" * 65, "é", "a\x00b", "ａ",
])
def test_what_is_no_folder_name(folder: str) -> None:
    assert not is_folder(folder)


@given(st.text())
def test_a_folder_never_leaves_its_parent(folder: str) -> None:
    if is_folder(folder):
        assert set(folder) <= set(FOLDER_CHARS) and folder[0] not in "-_"


def test_a_chat_is_channel_and_native_id() -> None:
    assert is_chat("telegram:-100123") and is_chat("email:a b@example.org") and is_chat("imessage:any;+;chat1")
    for chat in ("", "telegram", "telegram:", ":1", "Tele:1", "x:" + "a" * 200, "x:a\nb", "x: a", "x:\u202ea"):
        assert not is_chat(chat), chat
    assert (channel_of("x:a:b"), native_of("x:a:b")) == ("x", "a:b")
    assert not is_conversation("status@broadcast") and not is_conversation("whatsapp:status@broadcast")
    assert is_conversation("whatsapp:1@g.us")


def known(chat: str, ms: int, is_group: bool = True) -> KnownChat:
    return KnownChat(chat=chat, name=chat, last_message_ms=ms, is_group=is_group, registered=False)


def test_open_groups_are_listed_latest_first_without_bookkeeping_and_direct_chats() -> None:
    found = [known("a:old", 1), known("__group_sync__", 9), known("a:new", 5), known("a:mid", 3)]
    found.append(known("a:dm", 7, is_group=False))
    assert [chat.chat for chat in open_for_registration(found)] == ["a:new", "a:mid", "a:old"]


MAIN = Group(chat="console:main", folder="main", name="Main", requires_trigger=False, is_main=True, added_ms=1)
FAMILY = Group(chat="telegram:1", folder="family", name="Family", trigger="@Bob", added_ms=2)


def decide(**wanted: object) -> Group | Rejected:
    fields = {"chat": "telegram:2", "folder": "new", "name": "New"} | wanted
    return decide_registration(Registration(**fields), [MAIN, FAMILY], now_ms=50)


def test_a_new_chat_becomes_a_group_that_is_not_main() -> None:
    assert decide(trigger=" @X ", requires_trigger=False) == Group(
        chat="telegram:2", folder="new", name="New", trigger="@X", requires_trigger=False, is_main=False, added_ms=50
    )


def test_a_taken_folder_is_refused_in_any_case_and_the_first_chat_keeps_it() -> None:
    for folder in ("family", "Family", "MAIN"):
        refused = decide(folder=folder)
        assert isinstance(refused, Rejected) and refused.conflict


def test_the_same_chat_is_updated_and_stays_main_and_as_old_as_it_was() -> None:
    main = decide(chat="console:main", folder="main", name="Boss", trigger="@Boss")
    assert isinstance(main, Group) and main.is_main and main.added_ms == 1 and main.name == "Boss"
    moved = decide(chat="telegram:1", folder="kin")
    assert isinstance(moved, Group) and moved.folder == "kin" and not moved.is_main and moved.added_ms == 2
    assert isinstance(decide(chat="console:main", folder="other"), Rejected)


@pytest.mark.parametrize("wanted", [
    {"chat": ""}, {"folder": " "}, {"name": ""}, {"chat": "no-channel"}, {"folder": "../x"}, {"name": "a\nb"},
    {"name": "n" * 201}, {"trigger": "t" * 101}, {"trigger": "@a\x00"},
])
def test_what_is_incomplete_or_malformed_is_refused_in_one_line(wanted: dict[str, str]) -> None:
    refused = decide(**wanted)
    assert isinstance(refused, Rejected) and not refused.conflict and "\n" not in refused.reason


def test_an_agent_must_name_every_field() -> None:
    whole = {"chat": "a:1", "folder": "f", "name": "n", "trigger": ""}
    assert missing_fields(whole) == ()
    assert missing_fields({"chat": "a:1", "name": 5}) == ("name", "folder", "trigger")
    assert missing_fields(whole | {"folder": ""}) == ("folder",)
