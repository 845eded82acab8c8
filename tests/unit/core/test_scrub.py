"""Masking: nothing of a secret passes, however the stream is cut, and nothing else is touched or delayed."""

from __future__ import annotations

import base64
import itertools
import json
import random
import time
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from microclaw.core.scrub import Scrubber, StreamScrubber, forms, mask

SECRET = "sk-ant-Zm9v/+=\"x9"

secrets = st.lists(st.text(st.characters(min_codepoint=33, max_codepoint=0x2FF), min_size=8, max_size=24), max_size=4)
#: Secrets of two letters, so that they overlap each other and themselves.
tangled = st.lists(st.text("ab", min_size=8, max_size=14), min_size=1, max_size=5)


def cut(data: bytes, places: list[int]) -> list[bytes]:
    ends = sorted({place % (len(data) + 1) for place in places} | {0, len(data)})
    return [data[start:end] for start, end in itertools.pairwise(ends)]


def streamed(scrubber: Scrubber, pieces: list[bytes]) -> bytes:
    stream = StreamScrubber(scrubber)
    return b"".join(stream.feed(piece) for piece in pieces) + stream.finish()


@given(st.data())
def test_a_stream_cut_anywhere_is_masked_as_the_whole(data):
    known = data.draw(st.one_of(secrets, tangled))
    words = [form for secret in known for form in forms(secret)] + [b"a", b"b", b"ab" * 3, b"\xff", b"text "]
    text = b"".join(data.draw(st.lists(st.sampled_from(words), max_size=12)))
    places = data.draw(st.lists(st.integers(0, 1000), max_size=8))
    scrubber = Scrubber(known)
    whole = scrubber.masked(text)
    assert streamed(scrubber, cut(text, places)) == whole
    assert streamed(scrubber, [text[at:at + 1] for at in range(len(text))]) == whole
    assert len(whole) == len(text)


def looked_at_byte_by_byte(known: list[str], text: bytes) -> bytes:
    """As slowly and plainly as it can be done: the longest form at the first place where one stands."""
    patterns = {form for secret in known if len(secret) >= 8 for form in forms(secret)}
    out, at = b"", 0
    while at < len(text):
        found = max((len(form) for form in patterns if text.startswith(form, at)), default=0)
        out += mask(found) if found else text[at:at + 1]
        at += found or 1
    return out


@given(st.data())
def test_whatever_is_skipped_for_speed_nothing_else_is_masked_than_byte_by_byte(data):
    known = data.draw(st.one_of(secrets, tangled, st.lists(st.text("xy", min_size=30, max_size=60), max_size=3)))
    words = [form for secret in known for form in forms(secret)]
    parts = st.one_of(st.sampled_from(words), st.binary(max_size=70), st.just(b"xy" * 9)) if words else st.binary()
    text = b"".join(data.draw(st.lists(parts, max_size=8)))
    scrubber = Scrubber(known)
    wanted = looked_at_byte_by_byte(known, text)
    assert scrubber.masked(text) == wanted and scrubber.holds(text) == (wanted != text)
    assert streamed(scrubber, [text[at:at + 7] for at in range(0, len(text), 7)]) == wanted


@pytest.mark.parametrize("body", ["of letters like those of secrets", "full of a secret"])
def test_a_long_body_takes_no_time_beside_many_secrets_and_long_ones(body):
    # Before it was skipped through: ten seconds, and hours.
    chance = random.Random(1)
    known = [chance.randbytes(20).hex() for _ in range(199)] + [chance.randbytes(2000).hex()]
    scrubber = Scrubber(known)
    text = chance.randbytes(2 << 20).hex().encode() if "letters" in body else known[0].encode() * 20_000
    begun = time.process_time()
    for at in range(0, len(text), 64 << 10):
        StreamScrubber(scrubber).feed(text[at:at + (64 << 10)])
    assert time.process_time() - begun < 4


@given(st.binary(max_size=40), st.binary(max_size=40), st.lists(st.integers(0, 400), max_size=6))
def test_ac48_no_form_of_a_secret_gets_through(before, after, places):
    scrubber = Scrubber([SECRET])
    raw = SECRET.encode()
    for shown in (
        raw, raw.hex().encode(), raw.hex().upper().encode(), json.dumps(SECRET).encode(),
        quote(SECRET, safe="").encode(),
        base64.b64encode(before + raw + after), base64.urlsafe_b64encode(before + raw + after),
    ):
        got = streamed(scrubber, cut(before + shown + after, places))
        assert not any(form in got for form in forms(SECRET))
        assert len(got) == len(before + shown + after)


@pytest.mark.parametrize("lead", range(3))
def test_ac48_base64_of_a_text_around_a_secret_does_not_give_it_back(lead):
    text = b"x" * lead + SECRET.encode() + b"tail"
    got = Scrubber([SECRET]).masked(base64.b64encode(text))
    decoded = base64.b64decode(got.replace(b"[REDACTED]", b"A" * 10).replace(b"*", b"A"))
    assert SECRET.encode() not in decoded
    # At most a character at either end is left, which shares six bits with its neighbours.
    assert SECRET.encode()[1:-1] not in decoded


def test_a_secret_inside_the_beginning_of_another_one_does_not_tear_it_apart():
    scrubber = Scrubber(["..inner-secret..", "inner-secret"])
    assert streamed(scrubber, [b"..inner-secret", b".."]) == mask(16)
    assert streamed(scrubber, [b"..inner-secret", b".-"]) == b".." + mask(12) + b".-"


def test_an_event_is_not_held_back():
    stream = StreamScrubber(Scrubber([SECRET]))
    assert stream.feed(b"data: hello\n\n") == b"data: hello\n\n"
    assert stream.feed(b"data: sk-an") == b"data: "
    assert stream.feed(b"d so on") == b"sk-and so on"
    assert not stream.masked
    stream.feed(SECRET.encode())
    assert stream.masked


def test_text_without_secrets_and_short_values_stay():
    assert Scrubber([]).masked(b"anything") == b"anything"
    assert Scrubber(["short"]).masked_text("short") == "short"
    assert not Scrubber([SECRET]).holds(b"nothing here") and Scrubber([SECRET]).holds(b"x" + SECRET.encode())


def test_a_mask_says_what_it_is_where_there_is_room():
    assert mask(12) == b"[REDACTED]**" and mask(8) == b"*" * 8
    assert Scrubber([SECRET]).masked_text(f"a {SECRET} b") == f"a [REDACTED]{'*' * (len(SECRET) - 10)} b"
