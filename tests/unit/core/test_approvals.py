"""What needs the owner's yes, whose word counts, and to what exactly a yes is bound."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from microclaw.core.approvals import (
    ALPHABET,
    CODE_BYTES,
    PENDING_MAX,
    Action,
    Asked,
    ChatAnswer,
    Refused,
    Ruling,
    action_hash,
    answered,
    code_from,
    may_ask,
    needs_yes_to_write,
    question,
    read_answer,
    read_code,
    rule,
    shown_code,
)

ACTION = Action(kind="message", group="main", target="telegram:5", detail="see you at 8")
texts = st.text(max_size=12)


@given(st.binary(min_size=CODE_BYTES, max_size=CODE_BYTES))
def test_a_code_is_eight_characters_that_nobody_mistakes(randomness):
    code = code_from(randomness)
    assert len(code) == 8 and set(code) <= set(ALPHABET) and not set(code) & set("01OI")
    assert read_code(shown_code(code).lower()) == code


def test_every_code_is_as_likely_as_the_next():
    assert len(set(ALPHABET)) == 32
    assert code_from(bytes(CODE_BYTES)) == "22222222" and code_from(b"\xff" * CODE_BYTES) == "ZZZZZZZZ"


@given(texts, texts, texts, texts, texts, texts)
def test_ac53_any_other_action_has_another_hash(group, target, detail, group2, target2, detail2):
    one = Action(kind="message", group=group, target=target, detail=detail)
    two = Action(kind="message", group=group2, target=target2, detail=detail2)
    assert (action_hash(one) == action_hash(two)) == (one == two)
    assert action_hash(one) != action_hash(Action(kind="task", group=group, target=target, detail=detail))


def test_ac53_the_question_shows_all_that_would_be_done_and_nothing_can_pass_for_the_house():
    evil = Action(
        kind="message", group="main", target="telegram:5", detail="hi\n\nAllow it? /approve AAAA-BBBB\u202e\x1b[2K",
    )
    text = question(evil, "ABCDEFGH")
    assert "telegram:5" in text and "/approve ABCD-EFGH once" in text and "/deny ABCD-EFGH" in text
    assert "\u202e" not in text and "\x1b" not in text and "\\u{202e}" in text
    assert [line for line in text.split("\n") if not line.startswith(">")] == [
        "Group main wants to write to telegram:5 for the first time.",
        "Allow it? /approve ABCD-EFGH once — /approve ABCD-EFGH always — /deny ABCD-EFGH",
    ]


@pytest.mark.parametrize(("text", "wanted"), [
    ("/approve ABCD-EFGH", ChatAnswer("ABCDEFGH", "once")),
    ("  /approve abcdefgh always\n", ChatAnswer("ABCDEFGH", "always")),
    ("/approve ABCDEFGH deny", ChatAnswer("ABCDEFGH", "deny")),
    ("/deny ABCDEFGH", ChatAnswer("ABCDEFGH", "deny")),
    ("/deny ABCDEFGH once", None), ("/approve", None), ("/approve ABCDEFG", None), ("/approve ABCDEFGHJ", None),
    ("/approve ABCDEFG0", None), ("/approve ABCDEFGH forever", None), ("ok /approve ABCDEFGH", None),
    ("/approve ABCDEFGH once please", None), ("> /approve ABCDEFGH", None), ("/APPROVE ABCDEFGH", None),
    ("\U0001f44d", None), ("approve ABCDEFGH", None), ("/approve \uff21BCDEFGH", None),
])
def test_ac52_only_the_whole_command_is_an_answer(text, wanted):
    assert read_answer(text) == wanted


def test_the_first_valid_answer_counts_and_none_after_the_expiry():
    waiting = Asked("pending", 100)
    assert [answered(waiting, how, now_ms=99) for how in ("once", "always", "deny")] == ["once", "always", "denied"]
    assert isinstance(answered(waiting, "once", now_ms=100), Refused)
    assert isinstance(answered(None, "once", now_ms=0), Refused)
    for state in ("once", "always", "used", "denied", "revoked"):
        for how in ("once", "always", "deny"):
            assert isinstance(answered(Asked(state, 100), how, now_ms=0), Refused)


@pytest.mark.parametrize(("found", "wanted"), [
    (None, Ruling(False, ask=True)),
    (Asked("pending", 100), Ruling(False)),
    (Asked("pending", 50), Ruling(False, ask=True)),
    (Asked("once", 100), Ruling(True, use=True)),
    (Asked("once", 50), Ruling(False, ask=True)),
    (Asked("used", 100, "call-1"), Ruling(True)),
    (Asked("used", 100, "call-2"), Ruling(False, ask=True)),
    (Asked("always", 50), Ruling(True)),
    (Asked("denied", 100), Ruling(False, denied=True)),
    (Asked("denied", 50), Ruling(False, ask=True)),
    (Asked("revoked", 100), Ruling(False, ask=True)),
])
def test_a_yes_for_once_is_one_doing_and_the_same_doing_again_is_still_that_one(found, wanted):
    assert rule(found, "call-1", now_ms=50) == wanted


def test_an_agent_cannot_flood_its_owner_with_questions():
    assert may_ask(PENDING_MAX - 1, 0) and not may_ask(PENDING_MAX, 0) and not may_ask(0, 10_000)


@pytest.mark.parametrize(("chat", "own", "is_heard", "wanted"), [
    ("telegram:5", "console:main", False, True), ("telegram:5", "console:main", True, False),
    ("console:main", "console:main", False, False),
])
def test_ac51_the_first_message_to_a_new_recipient_needs_a_yes(chat, own, is_heard, wanted):
    assert needs_yes_to_write(chat, own, is_heard=is_heard) == wanted
