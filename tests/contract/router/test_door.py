"""Strangers are held at the door, get one code, and are let in or not by the owner's word."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select
from tests.contract.router.router_play import RouterPlay

from microclaw.core import pairing
from microclaw.core.approvals import shown_code
from microclaw.core.kinds import ApprovalAnswered, AuditEntry, MessageReceived
from microclaw.core.people import Role
from microclaw.core.people_requests import AnswerPairing, ChangeUser, Paired, PairingRow, PairingsAsked, UserAnswer
from microclaw.core.requests import Failed
from microclaw.router.tables import held, messages


def says(number: int, text: str = "hello", sender: str = "7", **more: Any) -> MessageReceived:
    return MessageReceived(**({
        "chat": f"telegram:{sender}", "platform_id": str(number), "sender": sender, "sender_name": "Zoe", "text": text,
        "sent_ms": number,
    } | more))


def types(number: int, text: str) -> MessageReceived:
    return says(number, text, "owner", chat="console:main")


@pytest.fixture
async def made(tmp_path: Path) -> AsyncIterator[RouterPlay]:
    play = RouterPlay(tmp_path)
    play.registry.ensure_main("console:main")
    yield play
    play.stop()


async def waiting(made: RouterPlay, *, everything: bool = False) -> list[PairingRow]:
    return list((await made.door.on_list(PairingsAsked(all=everything), "cli")).rows)


async def answers(made: RouterPlay, code: str, answer: str = "approve", **more: Any) -> Paired | Failed:
    made.numbers += 1
    wanted = AnswerPairing(**({
        "command_id": f"p{made.numbers}", "channel": "telegram", "code": code, "answer": answer,
    } | more))
    return await made.door.on_answer(wanted, "cli")


def runs_of(made: RouterPlay, folder: str) -> list[list[str]]:
    return [[line.text for line in run.messages] for run in made.runs() if run.group == folder]


def content(made: RouterPlay) -> tuple[int, int]:
    """How many messages are stored, and held."""
    assert made.engine is not None
    with made.engine.begin() as db:
        return len(db.execute(select(messages)).all()), len(db.execute(select(held)).all())


async def test_ac55_a_strangers_message_goes_nowhere_and_is_answered_by_one_code(made: RouterPlay) -> None:
    for number in range(1, 4):
        assert await made.hears(says(number, f"hello {number}")) == []
    assert content(made) == (0, 3)
    (row,) = await waiting(made)
    (greeting,) = made.said("telegram:7")
    (told,) = made.said("console:main")
    assert shown_code(row.code) in greeting and shown_code(row.code) in told and "telegram:7" in told
    assert (row.sender, row.sender_name, row.held) == ("telegram:7", "Zoe", 3)
    made.start()
    assert await waiting(made) == [row] and len(made.said()) == 2


async def test_ac55_three_codes_of_a_channel_wait_and_an_old_one_makes_room(made: RouterPlay) -> None:
    for sender in range(1, 6):
        await made.hears(says(sender, sender=str(sender)))
    assert len(await waiting(made)) == pairing.PENDING_MAX
    assert [made.said(f"telegram:{sender}") == [] for sender in range(1, 6)] == [False, False, False, True, True]
    made.now += pairing.LIFE_MS
    assert await waiting(made) == []
    await made.hears(says(9, sender="5"))
    assert len(made.said("telegram:5")) == 1 and (await waiting(made))[0].held == 2


async def test_who_is_let_in_gets_a_group_and_what_was_held_goes_there_once_in_order(made: RouterPlay) -> None:
    for number in range(1, 4):
        await made.hears(says(number, f"hello {number}"))
    await made.hears(says(2, "hello 2, mended", is_edit=True))
    (row,) = await waiting(made)
    paired = await answers(made, shown_code(row.code).lower())
    assert isinstance(paired, Paired) and paired.user is not None and paired.handed_over == 4
    assert (paired.user.name, paired.user.role, paired.user.folder) == ("zoe", Role.MEMBER, "telegram-zoe")
    assert runs_of(made, "telegram-zoe") == [["hello 1", "hello 2, mended", "hello 3"]]
    assert made.said("telegram:7")[-1] == pairing.WELCOME
    assert isinstance(await answers(made, row.code), Failed), "single use"
    made.start()
    await made.hears(says(5, "no trigger needed"))
    assert runs_of(made, "telegram-zoe")[1:] == [["no trigger needed"]]
    assert content(made) == (4, 0)
    entries = [each.action for each in made.published.values() if isinstance(each, AuditEntry)]
    assert entries[:2] == ["pairing.ask", "pairing.approve"]


async def test_ac51_a_strangers_held_word_makes_nobody_heard_and_neither_does_our_own(made: RouterPlay) -> None:
    async def heard() -> set[str]:
        return {row.chat for row in (await made.groups()).chats if row.is_heard}

    await made.hears(says(1))
    await made.register("telegram:-5", "fam")
    await made.hears(says(2, chat="telegram:-5", is_group=True, is_own_reply=True))
    await made.hears(says(3, chat="telegram:-6", is_group=True))
    known = {row.chat for row in (await made.groups()).chats}
    assert {"telegram:7", "telegram:-5", "telegram:-6"} <= known and await heard() == set()
    (row,) = await waiting(made)
    await answers(made, row.code)
    await made.hears(says(4, chat="telegram:-5", is_group=True))
    assert await heard() == {"telegram:7", "telegram:-5"}
    await answers(made, row.code, "revoke")
    assert await heard() == {"telegram:-5"}, "a stranger again"


async def test_a_crash_in_the_answer_lets_nobody_in_twice(made: RouterPlay) -> None:
    await made.hears(says(1))
    (row,) = await waiting(made)
    wanted = AnswerPairing(command_id="same", channel="telegram", code=row.code, answer="approve")
    first = await made.door.on_answer(wanted, "cli")
    made.start()
    assert await made.door.on_answer(wanted, "cli") == first
    assert runs_of(made, "telegram-zoe") == [["hello"]]


async def test_who_is_kept_out_is_not_answered_again_until_that_is_taken_back(made: RouterPlay) -> None:
    await made.hears(says(1))
    (row,) = await waiting(made)
    assert isinstance(await answers(made, row.code, "deny"), Paired)
    await made.hears(says(2))
    assert content(made) == (0, 0) and len(made.said("telegram:7")) == 1
    made.now += pairing.LIFE_MS
    assert isinstance(await answers(made, row.code, "revoke"), Paired)
    await made.hears(says(3))
    assert len(made.said("telegram:7")) == 2


async def test_whose_pairing_is_revoked_is_a_stranger_again_though_the_folder_stays(made: RouterPlay) -> None:
    await made.hears(says(1))
    (row,) = await waiting(made)
    await answers(made, row.code)
    revoked = await answers(made, row.code, "revoke")
    assert isinstance(revoked, Paired) and revoked.user is None and made.people.all() == []
    await made.hears(says(2, "am I still here?"))
    assert runs_of(made, "telegram-zoe") == [["hello"]]
    assert (made.folder / "groups" / "telegram-zoe" / "CLAUDE.md").exists()


async def test_a_code_lives_an_hour_and_wrong_ones_are_counted(made: RouterPlay) -> None:
    await made.hears(says(1))
    (row,) = await waiting(made)
    for _ in range(pairing.WRONG_MAX):
        wrong = await answers(made, "22222222")
        assert isinstance(wrong, Failed) and wrong.code == "not_found"
    locked = await answers(made, row.code)
    assert isinstance(locked, Failed) and "wrong codes" in locked.reason
    made.now += pairing.LIFE_MS
    late = await answers(made, row.code)
    assert isinstance(late, Failed) and "expired" in late.reason
    (old,) = await waiting(made, everything=True)
    assert old.state == "expired"


async def test_only_the_command_line_and_the_console_make_owners(made: RouterPlay) -> None:
    await made.hears(says(1))
    (row,) = await waiting(made)
    assert isinstance(await made.door.on_answer(
        AnswerPairing(command_id="x", channel="telegram", code=row.code, answer="approve"), "sandbox",
    ), Failed)
    paired = await answers(made, row.code, role=Role.OWNER)
    assert isinstance(paired, Paired) and paired.user is not None and paired.user.folder == "main"
    # What was held went to the main group, in the owner's own chat.
    (run,) = [run for run in made.runs() if run.group == "main"]
    assert (run.chat, run.is_main, [line.text for line in run.messages]) == ("telegram:7", True, ["hello"])
    # The owner is told of the next stranger where the owner wrote last, and decides there: members alone.
    made.now += 10
    await made.hears(says(made.now, "still me"))
    await made.hears(says(1, sender="8"))
    (other,) = await waiting(made)
    assert shown_code(other.code) in made.said("telegram:7")[-1]
    await made.hears(says(made.now + 1, f"/pairing approve telegram {shown_code(other.code)}"))
    assert [user.role for user in made.people.all()] == [Role.OWNER, Role.MEMBER]
    assert "let in as zoe-2" in made.said("telegram:7")[-1]


async def test_ac52_nobody_elses_pairing_or_approval_counts(made: RouterPlay) -> None:
    await made.hears(says(1))
    (row,) = await waiting(made)
    await answers(made, row.code)
    await made.hears(says(1, sender="8"))
    (other,) = await waiting(made)
    command = f"/pairing approve telegram {other.code}"
    for number, received in enumerate((
        says(2, command), says(3, "/approve ABCDEFGH always"),
        says(4, command, chat="telegram:-5", is_group=True), says(5, command, sender="8"),
    )):
        await made.hears(received)
        assert [each.code for each in await waiting(made)] == [other.code], number
    for number, flags in enumerate(({"is_edit": True}, {"is_forwarded": True}, {"is_own_reply": True})):
        await made.hears(says(20 + number, command, "owner", chat="console:main", **flags))
    assert [each.code for each in await waiting(made)] == [other.code]
    assert not [each for each in made.published.values() if isinstance(each, ApprovalAnswered)]
    await made.hears(types(40, command))
    assert await waiting(made) == []


async def test_ac52_a_paired_owners_private_chat_answers_approvals_and_no_group_does(made: RouterPlay) -> None:
    await made.hears(says(1))
    (row,) = await waiting(made)
    await answers(made, row.code, role=Role.OWNER)
    await made.register("telegram:-5", "fam")
    await made.hears(says(2, "/approve ABCD-EFGH once", chat="telegram:-5", is_group=True))
    assert not [each for each in made.published.values() if isinstance(each, ApprovalAnswered)]
    await made.hears(says(3, "/approve ABCD-EFGH once", is_sender_proven=False))
    assert not [each for each in made.published.values() if isinstance(each, ApprovalAnswered)]
    await made.hears(says(4, "/approve ABCD-EFGH once"))
    (answer,) = [each for each in made.published.values() if isinstance(each, ApprovalAnswered)]
    assert (answer.code, answer.chat) == ("ABCDEFGH", "telegram:7")


async def test_ac59_whom_nobody_vouches_for_and_programs_get_no_code(made: RouterPlay) -> None:
    await made.hears(says(1, chat="email:t1", sender="me@example.org", is_sender_proven=False))
    await made.hears(says(2, from_bot=True))
    await made.hears(says(3, chat="imessage:+49", sender="+49"))
    assert made.said() == [] and content(made) == (0, 0)


async def test_another_chat_of_somebody_we_know_joins_their_group(made: RouterPlay) -> None:
    """As mails do, where every thread is a chat."""
    added = await made.people.on_change(ChangeUser(
        command_id="u1", action="add", name="ann", role=Role.ADMIN, sender="email:Ann@Example.org",
    ), "cli")
    assert isinstance(added, UserAnswer) and added.user.senders == ("email:ann@example.org",)
    await made.hears(says(1, "one", "ANN@example.org", chat="email:t1"))
    await made.hears(says(2, "two", "ann@example.org", chat="email:t2"))
    assert runs_of(made, "email-ann") == [["one"], ["two"]]
    assert [run.chat for run in made.runs()] == ["email:t1", "email:t2"]
    # A stranger who writes into that thread is a stranger.
    await made.hears(says(3, "me too", "eve@example.org", chat="email:t2"))
    assert runs_of(made, "email-ann") == [["one"], ["two"]] and content(made) == (2, 1)
    made.start()
    assert made.registry.of_chat("email:t2") is not None
    (group,) = [group for group in made.registry.all() if not group.is_main]
    assert (group.chat, group.joined) == ("email:t1", ("email:t2",))


async def test_a_member_is_not_put_into_the_main_group(made: RouterPlay) -> None:
    await made.hears(says(1))
    (row,) = await waiting(made)
    refused = await answers(made, row.code, folder="main")
    assert isinstance(refused, Failed) and "owner's alone" in refused.reason
    assert len(await waiting(made)) == 1 and made.people.all() == []


async def test_a_flood_of_strangers_fills_no_disk(made: RouterPlay) -> None:
    for number in range(pairing.HELD_PER_SENDER_MAX + 5):
        await made.hears(says(number, f"text {number}"))
    assert content(made) == (0, pairing.HELD_PER_SENDER_MAX)
    made.now += pairing.HELD_MS + 1
    made.door.tidy()
    assert content(made) == (0, 0)
