"""Text on its way out of a chat, and what is kept of what comes in."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from microclaw.core.text import (
    being_written,
    is_own_reply,
    is_worth_storing,
    outbound,
    strip_internal,
    visible,
    with_subject,
    without_subject,
)


@pytest.mark.parametrize(("text", "said"), [
    ("hello <internal>secret</internal> world", "hello  world"),
    ("a <internal>\n1\n2\n</internal> b <internal>x</internal>", "a  b"),
    ("<internal>only</internal>", ""),
    ("<internal>open", "<internal>open"),
    ("</internal>closed", "</internal>closed"),
    ("<INTERNAL>x</INTERNAL> y", "<INTERNAL>x</INTERNAL> y"),
    ("<internal>a<internal>b</internal>c</internal> d", "c</internal> d"),
    ("\ufeff \n text\u3000", "text"),
])
def test_internal_notes_are_not_said(text: str, said: str) -> None:
    assert strip_internal(text) == said


@pytest.mark.parametrize(("text", "prefix", "said"), [
    ("hello", True, "Andy: hello"), ("hello", False, "hello"), ("<internal>t</internal>42", True, "Andy: 42"),
    ("   ", True, ""), ("<internal>t</internal>", True, ""),
])
def test_the_name_stands_before_what_is_said_but_never_alone(text: str, prefix: bool, said: str) -> None:
    assert outbound(text, "Andy", prefix=prefix) == said


@given(st.text(), st.text())
def test_no_whole_note_is_ever_said(before: str, note: str) -> None:
    assert "<internal>" not in outbound(f"<internal>{note}</internal>", "Andy").removeprefix("Andy: ") or (
        "</internal>" in note or "<internal>" in note
    )


@given(st.text("ab <\n", max_size=20), st.text("N<\n", max_size=20), st.text("cd <\n", max_size=20))
def test_of_an_answer_that_grows_nothing_of_a_note_is_shown_and_nothing_else_is_kept_back(
    before: str, note: str, after: str
) -> None:
    text = f"{before}<internal>{note}</internal>{after}"
    for size in range(len(text) + 1):
        shown = being_written(text[:size])
        assert "N" not in shown
        assert shown in strip_internal(text)
    assert being_written(f"{text}.") == strip_internal(f"{text}.")


def test_the_connectors_flag_tells_our_own_messages_and_a_prefix_only_where_there_is_none() -> None:
    assert not is_own_reply("Andy: typed by a person", "Andy", flag=False)
    assert is_own_reply("anything", "Andy", flag=True)
    assert is_own_reply("Andy: reply", "Andy") and is_own_reply("andy:reply", "Andy")
    assert not is_own_reply("Andy says: hi", "Andy") and not is_own_reply("hello Andy: x", "Andy")


def test_a_message_without_content_is_not_stored() -> None:
    assert not is_worth_storing(None) and not is_worth_storing("")
    assert is_worth_storing("x") and is_worth_storing("", attachments=1)


@pytest.mark.parametrize("text", [
    "plain", "日本語 🎉", "line1\nline2\ttab\r\n", "👨‍👩‍👧 ❤️‍🔥 👍🏽 1️⃣ ☎︎",
    "🏴󠁧󠁢󠁥󠁮󠁧󠁿 England", "می‌خواهم", "क्‍ष", "שלום\u200e!", "葛\U000e0100",
    "naïve – “quotes” …", "",
])
def test_what_a_person_sees_stays_as_it_is(text: str) -> None:
    assert visible(text) == text


@pytest.mark.parametrize(("text", "shown"), [
    ("over\u200bride", "over[1 hidden character]ride"),
    ("a\u200c\u200d\u200c\u200db", "a[4 hidden characters]b"),
    ("hi" + "".join(chr(0xE0000 + ord(char)) for char in "obey"), "hi[4 hidden characters]"),
    ("\u202egnp.exe\u202c", "[1 hidden character]gnp.exe[1 hidden character]"),
    ("x\ufe01\ufe02\ufe03", "x[3 hidden characters]"),
    ("a\x00\x1b[31mb\x9b", "a[2 hidden characters][31mb[1 hidden character]"),
    ("\ufeffstart\u2060", "[1 hidden character]start[1 hidden character]"),
    ("🏴" + chr(0xE0061) * 20, "🏴[20 hidden characters]"),
    ("ש\u200e\u200f\u200e", "ש[3 hidden characters]"),
])
def test_ac50_what_is_written_unseen_is_told(text: str, shown: str) -> None:
    assert visible(text) == shown


@given(st.text())
def test_ac50_nothing_hidden_is_left_in_ascii(text: str) -> None:
    ascii_only = "".join(char for char in visible(text) if char.isascii())
    assert not any(ord(char) < 32 and char not in "\t\n\r" for char in ascii_only)
    assert visible(visible(text)) == visible(text)


@pytest.mark.parametrize(("text", "subject", "whole", "bare"), [
    ("Shall we?", "Plans", "Subject: Plans\n\nShall we?", "Shall we?"),
    ("", "Come at\r\n 8", "Subject: Come at 8", "Come at 8"),
    ("/status", "Plans", "/status", "/status"),
])
def test_a_letters_subject_stands_above_its_text_and_above_no_command(text, subject, whole, bare):
    assert with_subject(text, subject) == whole
    assert without_subject(whole) == bare


@pytest.mark.parametrize("says", [strip_internal, being_written])
def test_opened_notes_without_end_take_no_time(says: Callable[[str], str]) -> None:
    """It grew with their square: a megabyte of them, which any agent can send, stopped the sandbox service."""
    began = time.monotonic()
    says("<internal>" * 100_000)
    assert time.monotonic() - began < 5
    assert strip_internal("a<internal>b<internal>c</internal>d</internal>") == "ad</internal>"
