"""Who somebody is to the house, and what becomes of what they write."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from microclaw.core.groups import is_folder
from microclaw.core.kinds import MessageReceived
from microclaw.core.people import (
    SHOWN_NAME_CHARS,
    Entry,
    Rejected,
    Role,
    User,
    Wanted,
    admit,
    change_role,
    entry,
    folder_for,
    gives_codes,
    is_sender,
    is_user_name,
    may_command,
    may_decide,
    name_for,
    sender_of,
    shown,
    standing,
)
from microclaw.core.requests import Group

MAIN = Group(chat="console:main", folder="main", name="Main", is_main=True)
FAMILY = Group(chat="telegram:-1", folder="fam", name="Family")
OWNER = User(name="me", role=Role.OWNER, folder="main", senders=("telegram:1",))
ADMIN = User(name="ann", role=Role.ADMIN, folder="telegram-ann", senders=("telegram:2",))
MEMBER = User(name="bob", role=Role.MEMBER, folder="telegram-bob", senders=("telegram:3",))


def says(chat: str = "telegram:1", **more: object) -> MessageReceived:
    return MessageReceived(**({
        "chat": chat, "platform_id": "1", "sender": "1", "sender_name": "S", "text": "hi", "sent_ms": 1,
    } | more))


@pytest.mark.parametrize(("received", "user", "group", "home", "wanted"), [
    (says("console:main"), None, MAIN, True, Role.OWNER),
    (says("console:x"), None, None, False, Role.OWNER),
    (says("console:fam", is_group=True), None, FAMILY, True, None),
    (says(), OWNER, None, False, Role.OWNER),
    (says(), ADMIN, FAMILY, True, Role.ADMIN),
    (says(), None, FAMILY, True, None),
    (says("telegram:-1", is_group=True, from_me=True), None, FAMILY, True, Role.OWNER),
    # The chat that main was registered with is the owner's; one that joined it is whose sender it is.
    (says("telegram:9"), None, MAIN, True, Role.OWNER),
    (says("telegram:9"), None, MAIN, False, None),
    # AC-59: for whom nobody vouches, whatever it claims.
    (says(is_sender_proven=False), OWNER, None, False, None),
    (says(is_sender_proven=False, from_me=True), OWNER, MAIN, True, None),
    (says(is_own_reply=True, from_me=True), None, MAIN, True, None),
])
def test_who_is_it(received, user, group, home, wanted):
    assert standing(received, user, group, is_home=home) is wanted


def test_ac52_only_the_owners_own_first_words_where_nobody_else_listens_decide():
    flags = ("is_group", "from_me", "is_own_reply", "is_edit", "is_forwarded", "from_bot", "is_sender_proven")
    for *values, group, user in itertools.product(
        *[(False, True)] * len(flags), (MAIN, FAMILY, None), (OWNER, ADMIN, MEMBER, None)
    ):
        case = dict(zip(flags, values, strict=True))
        received = says("telegram:5", **case)
        role = standing(received, user, group, is_home=False)
        spoiled = any(case[flag] for flag in ("is_own_reply", "is_edit", "is_forwarded", "from_bot"))
        wanted = not spoiled and case["is_sender_proven"] and (
            group is MAIN if case["from_me"] else user is OWNER and not case["is_group"]
        )
        assert may_decide(received, role, group) == wanted, (case, group, user)
    other = Group(chat="console:new", folder="new", name="New")
    assert may_decide(says("console:main"), Role.OWNER, MAIN) and not may_decide(says("console:new"), Role.OWNER, other)


def test_ac56_in_a_group_the_owner_and_an_admin_command_and_nobody_else():
    for user, wanted in ((OWNER, True), (ADMIN, True), (MEMBER, False), (None, False)):
        received = says("telegram:-1", is_group=True)
        role = standing(received, user, FAMILY, is_home=True)
        assert may_command(received, role) is wanted
        assert may_decide(received, role, FAMILY) is False
        assert not may_command(says("telegram:-1", is_group=True, is_edit=True), role)


@pytest.mark.parametrize(("received", "role", "group", "personal", "wanted"), [
    # AC-55: a stranger's direct message waits; in a chat that the owner registered by hand whoever writes is meant.
    (says(), None, None, False, Entry.HOLD), (says(), None, FAMILY, False, Entry.SERVE),
    (says(), None, FAMILY, True, Entry.HOLD), (says(), Role.MEMBER, FAMILY, True, Entry.SERVE),
    (says(), Role.MEMBER, None, False, Entry.JOIN),
    (says(is_group=True), None, None, False, Entry.IGNORE), (says(is_group=True), None, FAMILY, True, Entry.SERVE),
    (says("console:x"), Role.OWNER, None, False, Entry.IGNORE), (says("console:x"), None, FAMILY, True, Entry.SERVE),
    (says(from_me=True), Role.OWNER, None, False, Entry.IGNORE),
    (says(from_bot=True), None, None, False, Entry.IGNORE),
    (says(is_sender_proven=False), None, None, False, Entry.IGNORE),
    (says(is_sender_proven=False), None, FAMILY, True, Entry.IGNORE),
    (says(is_own_reply=True), None, FAMILY, True, Entry.SERVE),
])
def test_what_becomes_of_a_message(received, role, group, personal, wanted):
    assert entry(received, role, group, is_personal=personal) is wanted


def test_the_owners_own_correspondence_gets_no_codes_unless_it_is_said_so():
    assert gives_codes("telegram", {}) and gives_codes("matrix", {}) and not gives_codes("imessage", {})
    assert gives_codes("imessage", {"imessage": "pair"}) and not gives_codes("email", {"email": "ignore"})


def test_a_mail_address_is_the_same_in_any_case():
    assert sender_of(says("email:x", sender="Ann@Example.ORG")) == "email:ann@example.org"
    assert sender_of(says("telegram:1", sender="AbC")) == "telegram:AbC"


def wanted(**more: object) -> Wanted:
    return Wanted(**({"sender": "telegram:7", "shown_name": "Zoë W.", "role": Role.MEMBER} | more))


def test_a_member_gets_a_group_of_their_own_and_an_owner_main():
    member = admit(wanted(), [], [MAIN], now_ms=5)
    assert member == User(
        name="zoe-w", role=Role.MEMBER, folder="telegram-zoe-w", senders=("telegram:7",), added_ms=5
    )
    owner = admit(wanted(role=Role.OWNER), [], [MAIN], now_ms=5)
    assert isinstance(owner, User) and owner.folder == "main"
    same = admit(wanted(role=Role.OWNER), [OWNER], [MAIN], now_ms=5)
    assert same == User(name="me", role=Role.OWNER, folder="main", senders=("telegram:1", "telegram:7"))
    named = admit(wanted(user="ann"), [OWNER, ADMIN], [MAIN], now_ms=5)
    assert isinstance(named, User) and named.role is Role.ADMIN and named.senders == ("telegram:2", "telegram:7")


@pytest.mark.parametrize("refused", [
    wanted(sender="telegram:1"), wanted(sender="nowhere"), wanted(user="No Name"), wanted(folder="../x"),
    wanted(folder="main"), wanted(folder="MAIN"), wanted(user="bob", role=Role.OWNER), wanted(user="ann", folder="b"),
])
def test_who_is_not_let_in(refused):
    found = admit(refused, [OWNER, ADMIN, MEMBER], [MAIN, FAMILY], now_ms=5)
    assert isinstance(found, Rejected) and found.reason.isprintable(), found


def test_nobody_but_owners_stays_in_the_main_group():
    assert isinstance(change_role(OWNER, Role.MEMBER, [MAIN]), Rejected)
    assert change_role(MEMBER, Role.OWNER, [MAIN]).role is Role.OWNER


@given(st.text(max_size=80), st.text(min_size=1, max_size=80))
def test_whatever_strangers_call_themselves_names_and_folders_are_safe(name, native):
    user = name_for(name, f"telegram:{native}", {"user", "x"})
    assert is_user_name(user)
    assert is_folder(folder_for("telegram", user, ["TELEGRAM-A"]))
    assert shown(name).isprintable() and len(shown(name)) <= SHOWN_NAME_CHARS and "\n" not in shown(name)


def test_taken_names_and_folders_are_not_taken_twice_in_any_case():
    assert name_for("Ann", "telegram:1", {"ann", "ann-2"}) == "ann-3"
    assert folder_for("telegram", "ann", ["Telegram-Ann"]) == "telegram-ann-2"
    assert is_sender("email:a@b.c") and not is_sender("email:") and not is_sender("a@b.c") and not is_sender("x:\n")
