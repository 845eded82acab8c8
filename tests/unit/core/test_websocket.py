"""A WebSocket's beginning, and masks in its frames."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from microclaw.core.scrub import Scrubber
from microclaw.core.websocket import (
    HEAD_BYTES_MAX,
    BadFrame,
    FrameScrubber,
    handshake,
    refused_handshake,
    refused_switch,
)

SECRET = "hunter2-hunter2"
BEGINS = [(b"upgrade", b"WebSocket"), (b"connection", b"keep-alive, Upgrade"), (b"sec-websocket-key", b"x")]


def knowing() -> Scrubber:
    return Scrubber([SECRET])


KEY = b"\x01\x80\xff\x7f"


def frame(payload: bytes, key: bytes = b"", *, opcode: int = 1, fin: bool = True) -> bytes:
    size = len(payload)
    short = size if size < 126 else 126 if size < 1 << 16 else 127
    wide = b"" if size < 126 else size.to_bytes(2 if size < 1 << 16 else 8, "big")
    mixed = bytes(byte ^ key[at % 4] for at, byte in enumerate(payload)) if key else payload
    return bytes((fin << 7 | opcode, bool(key) << 7 | short)) + wide + key + mixed


@pytest.mark.parametrize(("method", "headers", "why"), [
    (b"GET", BEGINS, ""), (b"POST", BEGINS, "not how a WebSocket begins"),
    (b"GET", [(b"upgrade", b"h2c"), *BEGINS[1:]], "no protocol but"),
    (b"GET", [(b"upgrade", b"websocket, h2c"), *BEGINS[1:]], "no protocol but"),
    (b"GET", [(b"upgrade", b"h2c"), *BEGINS], "no protocol but"), (b"GET", BEGINS[:2], "not how"),
    (b"GET", [*BEGINS, BEGINS[2]], "not how"), (b"GET", [BEGINS[0], BEGINS[2]], "not how"),
    (b"GET", [*BEGINS, (b"content-length", b"3")], "has a body"),
    (b"GET", [*BEGINS, (b"transfer-encoding", b"chunked")], "has a body"),
])
def test_only_a_websockets_own_beginning_is_one(method, headers, why):
    refused = refused_handshake(method, headers)
    assert bool(refused) is bool(why) and why in refused


def test_no_extension_goes_either_way():
    headers = [(b"sec-websocket-extensions", b"permessage-deflate"), (b"sec-websocket-protocol", b"chat"), *BEGINS]
    assert handshake(headers) == [
        (b"sec-websocket-protocol", b"chat"), BEGINS[2], (b"connection", b"Upgrade"), (b"upgrade", b"websocket"),
    ]
    assert refused_switch(BEGINS) == ""
    assert "extension" in refused_switch([*BEGINS, headers[0]])
    assert "another protocol" in refused_switch(BEGINS[1:]) and "another protocol" in refused_switch([BEGINS[0]] * 2)


@given(
    st.lists(st.tuples(st.sampled_from((b"", b"x", b"hunter2-hunter", b"y" * 130, b"z" * 70_000)), st.booleans()),
             min_size=1, max_size=4),
    st.booleans(), st.data(),
)
def test_ac48_frames_keep_their_shape_and_lose_their_secrets_however_they_are_cut(parts, from_client, data):
    scrubber = Scrubber([SECRET])
    key = KEY if from_client else b""
    payloads = [part + (SECRET.encode() if secret else b"") + part[:1] for part, secret in parts]
    sent = b"".join(frame(payload, key, opcode=2) for payload in payloads)
    wanted = b"".join(frame(scrubber.masked(payload), key, opcode=2) for payload in payloads)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(sent)), max_size=6)))
    reading = FrameScrubber(lambda: scrubber, from_client=from_client)
    got = b"".join(reading.feed(sent[a:b]) for a, b in zip([0, *cuts], [*cuts, len(sent)], strict=True))
    assert got == wanted


def test_a_whole_frame_is_never_held_back_and_a_long_one_comes_as_it_is_sent():
    reading = FrameScrubber(knowing, from_client=False)
    assert reading.feed(frame(b"I hunt: hunter2-hun")) == frame(b"I hunt: hunter2-hun")
    long = frame(b"." * 1000)
    assert reading.feed(long[:500]) == long[:500] and reading.feed(long[500:]) == long[500:]
    ping = frame(b"", opcode=9)
    assert reading.feed(ping) == ping and reading.feed(ping[:1]) == b"" and reading.feed(ping[1:]) == ping


@pytest.mark.parametrize(("raw", "from_client"), [
    (b"GET / HTTP/1.1\r\n", False), (frame(b"x"), True), (frame(b"x", KEY), False), (b"\xc1\x01x", False),
    (frame(b"x", opcode=3), False), (frame(b"x", opcode=11), False), (b"\x16\x03\x01", True),
])
def test_what_is_no_frame_ends_it(raw, from_client):
    with pytest.raises(BadFrame):
        FrameScrubber(knowing, from_client=from_client).feed(raw)


@given(st.lists(st.binary(max_size=40), max_size=5), st.booleans())
def test_whatever_comes_is_passed_on_as_long_as_it_is_or_refused(pieces, from_client):
    reading = FrameScrubber(lambda: Scrubber(), from_client=from_client)
    try:
        got = b"".join(map(reading.feed, pieces))
    except BadFrame:
        return
    sent = b"".join(pieces)
    # Without secrets all is passed but the beginning of a frame's head.
    assert sent.startswith(got) and len(sent) - len(got) < HEAD_BYTES_MAX
