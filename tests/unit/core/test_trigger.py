"""When a message is meant for the assistant."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from microclaw.core.trigger import default_trigger, should_wake, trigger_of, triggers, trim

BLANKS = [chr(code) for code in (9, 10, 11, 12, 13, 32, 0xA0, 0x1680, 0x2003, 0x2028, 0x3000, 0xFEFF)]
names = st.text(min_size=1, max_size=20).map(trim).filter(bool)


@pytest.mark.parametrize(("text", "expected"), [
    ("@Andy hello", True), ("@andy", True), ("@ANDY!", True), ("@Andy-bot hi", True), ("@Andy's", True),
    ("@Andyé", True), ("\ufeff\u3000 @Andy hi", True), ("@Andy\nhi", True), ("@Andy@Andy", True),
    ("@Andrew hello", False), ("@Andy2", False), ("@Andy_bot", False), ("hello @Andy", False), ("@ Andy", False),
    ("*@Andy*", False), ("＠Andy hi", False), ("Andy hi", False), ("", False), ("@And", False),
])
def test_default_trigger(text: str, expected: bool) -> None:
    assert triggers(text, default_trigger("Andy")) is expected


def test_a_lookalike_letter_does_not_pass_for_an_ascii_one() -> None:
    assert triggers("@mike hi", "@Mike")
    assert not triggers("@mi\u212ae hi", "@Mike"), "the Kelvin sign upper-cases to K"
    assert not triggers("@\u017fam hi", "@Sam"), "the long s upper-cases to S"
    assert triggers("@Ångström hi", "@ångström")


@pytest.mark.parametrize(("name", "text", "expected"), [
    ("C++", "@C++ hi", True), ("C++", "@c++", True), ("C++", "@C++x", False), ("C++", "@C+", False),
    ("A.B", "@AxB hi", False), ("A.B", "@a.b hi", True), ("Dr. Who", "@dr. who help", True),
    ("$&", "@$& hi", True), ("[a]", "@a hi", False), ("ß", "@ß", True), ("ß", "@SS", False),
])
def test_a_name_is_taken_literally(name: str, text: str, expected: bool) -> None:
    assert triggers(text, default_trigger(name)) is expected


@given(names, st.sampled_from([*BLANKS, *"-.,:!?'é日", ""]), st.text(), st.lists(st.sampled_from(BLANKS)))
def test_any_name_triggers_at_the_start_in_any_case_and_ends_at_a_non_word(
    name: str, end: str, rest: str, blanks: list[str]
) -> None:
    trigger = default_trigger(name)
    text = "".join(blanks) + trigger + (end + rest if end else "")
    assert triggers(text, trigger)
    assert triggers(text, f"  {trigger} ")


@given(names, st.sampled_from("abzAZ059_"), st.text())
def test_a_longer_word_is_another_word(name: str, more: str, rest: str) -> None:
    assert not triggers(default_trigger(name) + more + rest, default_trigger(name))


@given(st.text())
def test_a_blank_trigger_never_triggers(text: str) -> None:
    assert not triggers(text, " \ufeff ")


@pytest.mark.parametrize(("own", "expected"), [("", "@Andy"), ("  \t ", "@Andy"), (" @Bob ", "@Bob")])
def test_a_groups_own_trigger_holds_unless_it_is_blank(own: str, expected: str) -> None:
    assert trigger_of(own, "Andy") == expected


@pytest.mark.parametrize(("is_main", "requires", "texts", "expected"), [
    (True, True, ["no trigger"], True), (False, False, ["no trigger"], True), (False, True, ["no trigger"], False),
    (False, True, ["a", "@Andy b", "c"], True), (True, False, [], False), (False, True, [], False),
])
def test_one_message_that_triggers_is_enough_and_main_needs_none(
    is_main: bool, requires: bool, texts: list[str], expected: bool
) -> None:
    assert should_wake(is_main=is_main, requires_trigger=requires, trigger="@Andy", texts=texts) is expected
