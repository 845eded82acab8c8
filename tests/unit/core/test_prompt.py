"""How the agent reads messages and tasks."""

from __future__ import annotations

import html
import xml.etree.ElementTree as ElementTree
from itertools import pairwise

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from microclaw.core.kinds import Attachment, PromptMessage, Quote
from microclaw.core.prompt import (
    PROMPT_BYTES_MAX,
    Line,
    clip,
    escape,
    format_lines,
    format_messages,
    format_task,
    iso_utc,
    prompt_bytes,
    split,
)
from microclaw.core.text import visible

T0 = 1_704_067_200_000
#: What XML itself can carry.
xml_text = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs"), exclude_characters="\ufffe\uffff"))
messages = st.builds(
    PromptMessage, id=st.text(max_size=20), sender_name=xml_text, sent_ms=st.integers(0, 4_000_000_000_000),
    text=xml_text,
    quote=st.none() | st.builds(Quote, id=xml_text, sender_name=xml_text, text=xml_text),
)


def message(text: str, number: int = 0, **more: object) -> PromptMessage:
    return PromptMessage(id=str(number), sender_name="Alice", sent_ms=T0 + number, text=text, **more)


def test_messages_are_elements_with_sender_and_time() -> None:
    assert format_messages([message("it's \"q\" & <b>\n2", 7), message("")]) == (
        "<messages>\n"
        '<message sender="Alice" time="2024-01-01T00:00:00.007Z">it\'s &quot;q&quot; &amp; &lt;b&gt;\n2</message>\n'
        '<message sender="Alice" time="2024-01-01T00:00:00.000Z"></message>\n'
        "</messages>"
    )


@given(st.text())
def test_escaping_loses_nothing_and_leaves_no_markup(text: str) -> None:
    escaped = escape(text)
    assert not set(escaped) & set('<>"')
    assert html.unescape(escaped.replace("&", "&amp;")) == escaped
    back = escaped.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", '"').replace("&amp;", "&")
    assert back == text


@given(st.lists(messages, max_size=5))
def test_no_text_can_pass_for_another_message(found: list[PromptMessage]) -> None:
    root = ElementTree.fromstring(format_messages(found))
    assert [element.tag for element in root] == ["message"] * len(found)
    for element, one in zip(root, found, strict=True):
        assert element.get("sender") == visible(one.sender_name)
        assert "".join(element.itertext()).endswith(visible(one.text))
        if not (one.quote and one.quote.text):
            assert element.text == (visible(one.text) or None)


def test_quote_and_files_are_told() -> None:
    quoted = message(
        "yes", quote=Quote(id="4<2", sender_name="Bob", text="coming?"),
        attachments=(Attachment(handle="sha256:ab", name='a"b.pdf', mime="application/pdf", size_bytes=12),),
    )
    text = format_messages([quoted])
    assert 'reply_to="4&lt;2"' in text and '<quoted_message from="Bob">coming?</quoted_message>' in text
    assert '<attachment name="a&quot;b.pdf" type="application/pdf" bytes="12" ' in text
    assert 'path="attachments/65c8150519cf-a_b.pdf" />' in text
    assert "quoted_message" not in format_messages([message("yes", quote=Quote(id="42"))])


@pytest.mark.parametrize(("time", "shown"), [
    ("2026-02-12T17:30:00.000Z", "Feb 12, 2026, 12:30 PM"), ("2026-07-01T04:05:00.000Z", "Jul 1, 2026, 12:05 AM"),
    ("t1", "t1"), ("2026-02-12T17:30:00", "2026-02-12T17:30:00"),
])
def test_with_a_time_zone_times_are_its_wall_clock(time: str, shown: str) -> None:
    text = format_lines([Line("Alice", time, "hi")], timezone="America/New_York")
    assert text == (
        '<context timezone="America/New_York" />\n<messages>\n'
        f'<message sender="Alice" time="{shown}">hi</message>\n</messages>'
    )


@pytest.mark.parametrize("ms", [-1, 10**18])
def test_a_platforms_impossible_time_is_still_a_time(ms: int) -> None:
    assert iso_utc(ms).endswith("Z")


def test_a_task_says_that_nobody_wrote_it() -> None:
    text = format_task("Check mail")
    assert text.startswith("[SCHEDULED TASK") and text.endswith("\n\nCheck mail")


@given(st.lists(st.integers(0, 6_000), max_size=40), st.sampled_from(["a", "&", "\x00", "日", '"']))
def test_split_keeps_every_message_in_order_within_the_limit(sizes: list[int], char: str) -> None:
    found = [message(char * size, number) for number, size in enumerate(sizes)]
    parts = split(found, 8_192)
    assert [one.id for part in parts for one in part] == [one.id for one in found]
    for part in parts:
        assert part and sum(map(prompt_bytes, part)) <= 8_192
        assert len(msgspec.json.encode(format_messages(part))) <= 8_192 + 64
    for one, other in pairwise(parts):
        assert prompt_bytes(other[0]) + sum(map(prompt_bytes, one)) > 8_192, "as few as fit"


@pytest.mark.parametrize("char", ["x", "&", "\x01", "日", "🎉"])
def test_a_message_too_big_alone_is_cut_and_says_so(char: str) -> None:
    big = message(
        char * 400_000, quote=Quote(id="1", sender_name="n" * 9_999, text="q" * 99_999),
        attachments=tuple(Attachment(handle="h", name="n" * 250, mime="m", size_bytes=1) for _ in range(2_000)),
    )
    cut = clip(big, PROMPT_BYTES_MAX)
    assert PROMPT_BYTES_MAX * 0.98 < prompt_bytes(cut) <= PROMPT_BYTES_MAX
    assert cut.text.endswith("more characters]") and cut.id == big.id
    kept = len(cut.text.rpartition("\n")[0])
    assert f"[cut here: {400_000 - kept} more characters]" in cut.text
