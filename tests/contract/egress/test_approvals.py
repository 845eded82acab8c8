"""Approvals over a real door and a real database: asked once, bound to the action, answered once."""

from __future__ import annotations

import asyncio
import re
import sqlite3

import pytest
from tests.contract.egress.outside import PUBLIC, Outside
from tests.contract.egress.test_proxy import connecting, echo, get_through
from tests.contract.egress.through_door import call, gate

from microclaw.core.approvals import PENDING_MAX, Action
from microclaw.egress.dial import World


def code_in(text: str | bytes) -> str:
    said = text if isinstance(text, str) else text.decode()
    found = re.search(r"approval ([2-9A-HJ-NP-Z]{4}-[2-9A-HJ-NP-Z]{4})", said)
    assert found, text
    return found[1]


def message(text: str = "see you at 8", *, target: str = "telegram:5", group: str = "main") -> Action:
    return Action(kind="message", group=group, target=target, detail=text)


async def test_a_new_host_is_refused_with_the_code_asked_once_and_reached_once_after_the_yes(
    home, upstream, authority
):
    outside = Outside({"good.example": [PUBLIC]}, await upstream(echo, tls=authority.server()))
    async with gate(home, world=outside.world()) as egress:
        door = await egress.doors.open("w1", "home", now_ms=1)
        refused = await call(door, connecting("good.example:443"))
        code = code_in(refused)
        assert refused.startswith(b"HTTP/1.1 403")
        assert code_in(await call(door, connecting("good.example:443"))) == code, "the same question, not a second one"
        [(_, asked, _)] = await egress.notices.waiting()
        assert "Group home wants to reach good.example:443" in asked and code in asked
        assert outside.resolved == [], "not even a name server hears of it before the yes"

        assert await egress.approvals.answer(code, "once", "cli") == ""
        other = await egress.doors.open("w2", "work", now_ms=1)
        assert (await call(other, connecting("good.example:443"))).startswith(b"HTTP/1.1 403"), "another group's"
        assert await get_through(door, "good.example", authority.client()) == b"hello\n"
        again = await call(door, connecting("good.example:443"))
        assert again.startswith(b"HTTP/1.1 403") and code_in(again) != code, "used up: asked anew"
        actions = [(entry.action, entry.outcome) for entry in await egress.audit.tail(50) if "approval" in entry.action]
        assert actions == [
            ("approval.ask", "ok"), ("approval.answer", "allow"), ("approval.ask", "ok"), ("approval.use", "allow"),
            ("approval.ask", "ok"),
        ]


async def test_always_becomes_a_rule_of_that_group_and_can_be_revoked(home, upstream, authority):
    outside = Outside({"good.example": [PUBLIC]}, await upstream(echo, tls=authority.server()))
    async with gate(home, world=outside.world()) as egress:
        door = await egress.doors.open("w1", "home", now_ms=1)
        code = code_in(await call(door, connecting("good.example:443")))
        assert await egress.approvals.answer(code, "always", "cli") == ""
        for _ in range(2):
            assert await get_through(door, "good.example", authority.client()) == b"hello\n"
        [item] = egress.rules.all
        assert (item.rule.host, item.rule.group, item.rule.allow) == ("good.example", "home", True)
        assert await egress.approvals.revoke(code, "cli") == ""
        assert (await call(door, connecting("good.example:443"))).startswith(b"HTTP/1.1 403")
        assert "no code" in await egress.approvals.revoke(code, "cli")


async def test_a_host_that_a_rule_denies_is_not_asked_for(home):
    async with gate(home, world=Outside({}).world()) as egress:
        await egress.rules.change("evil.example", "deny", "", now_ms=1)
        door = await egress.doors.open("w1", "home", now_ms=1)
        refused = await call(door, connecting("evil.example:443"))
        assert refused.startswith(b"HTTP/1.1 403") and b"approval" not in refused
        assert await egress.notices.waiting() == [] and (await egress.approvals.rows()) == ()


async def test_ac53_a_yes_holds_for_exactly_what_was_shown(home):
    async with gate(home, backend="local") as egress:
        desk = egress.approvals
        asked = await desk.ask(message("see you at 8"), "call-1", "service:sandbox")
        assert not asked.allowed and asked.code
        assert "> see you at 8" in (await egress.notices.waiting())[0][1]
        assert await desk.answer(asked.code, "once", "owner") == ""
        for changed in (
            message("see you at 9"), message("see you at 8 "), message(target="telegram:6"), message(group="home"),
        ):
            ruling = await desk.ask(changed, "call-2", "service:sandbox")
            assert not ruling.allowed and ruling.code not in ("", asked.code), changed
        used = await desk.ask(message(), "call-2", "service:sandbox")
        assert used.allowed
        assert (await desk.ask(message(), "call-2", "service:sandbox")).allowed, "the same call after a crash"
        assert not (await desk.ask(message(), "call-3", "service:sandbox")).allowed


async def test_always_holds_for_any_text_to_that_recipient_from_that_group(home):
    async with gate(home, backend="local") as egress:
        desk = egress.approvals
        code = (await desk.ask(message("a"), "1", "service:sandbox")).code
        assert await desk.answer(code, "always", "owner") == ""
        assert (await desk.ask(message("b"), "2", "service:sandbox")).allowed
        assert not (await desk.ask(message("b", target="telegram:6"), "3", "service:sandbox")).allowed
        assert not (await desk.ask(message("b", group="home"), "4", "service:sandbox")).allowed
        assert await desk.revoke(code, "cli") == ""
        assert not (await desk.ask(message("b"), "5", "service:sandbox")).allowed


async def test_the_first_valid_answer_wins_and_survives_a_restart(home):
    async with gate(home, backend="local") as egress:
        code = (await egress.approvals.ask(message(), "1", "service:sandbox")).code
        said = await asyncio.gather(*(
            egress.approvals.answer(code, how, "owner") for how in ("deny", "once", "always")
        ))
        assert [bool(problem) for problem in said] == [False, True, True]
        assert "no" in (await egress.approvals.ask(message(), "2", "service:sandbox")).reason
    async with gate(home, backend="local") as egress:
        assert "answered before" in await egress.approvals.answer(code, "once", "owner")
        assert "no such code" in await egress.approvals.answer("ABCDEFGH", "once", "owner")
        assert [row.state for row in await egress.approvals.rows(everything=True)] == ["denied"]


async def test_the_same_envelope_again_is_the_same_answer(home):
    async with gate(home, backend="local") as egress:
        code = (await egress.approvals.ask(message(), "1", "service:sandbox")).code
        for _ in range(2):
            assert await egress.approvals.answer(code, "once", "owner", cause=b"c" * 16) == ""
        answers = [entry for entry in await egress.audit.tail(20) if entry.action == "approval.answer"]
        assert [entry.outcome for entry in answers] == ["allow"]


async def test_a_question_expires_and_is_asked_under_a_new_code(home):
    now = [1_700_000_000_000]
    async with gate(home, backend="local", world=World(clock_ms=lambda: now[0])) as egress:
        desk = egress.approvals
        code = (await desk.ask(message(), "1", "service:sandbox")).code
        now[0] += 3_600_000
        assert "expired" in await desk.answer(code, "once", "owner")
        assert await desk.rows() == () and (await desk.rows(everything=True))[0].state == "expired"
        assert (await desk.ask(message(), "2", "service:sandbox")).code not in ("", code)


async def test_a_flood_of_questions_is_refused_unasked(home):
    async with gate(home, world=Outside({}).world()) as egress:
        door = await egress.doors.open("w1", "home", now_ms=1)
        answers = [await call(door, connecting(f"h{number}.example:443")) for number in range(PENDING_MAX + 3)]
        assert all(answer.startswith(b"HTTP/1.1 403") for answer in answers)
        assert [b"asked too much" in answer for answer in answers] == [False] * PENDING_MAX + [True] * 3
        assert len(await egress.notices.waiting()) == PENDING_MAX


async def test_nothing_is_used_that_cannot_be_audited(home):
    async with gate(home, backend="local") as egress:
        code = (await egress.approvals.ask(message(), "1", "service:sandbox")).code
        await egress.approvals.answer(code, "once", "owner")
        with sqlite3.connect(home.database("egress")) as db:
            db.execute("DROP TABLE egress_audit")
        db.close()
        with pytest.raises(Exception, match="audit"):
            await egress.approvals.ask(message(), "2", "service:sandbox")
