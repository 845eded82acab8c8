from __future__ import annotations

import msgpack
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from microclaw.bus.envelope import ENVELOPE_BYTES_MAX, VERSION, Envelope, decode, encode, kind_of, with_seq
from microclaw.bus.errors import EnvelopeError
from microclaw.core.kinds import KINDS, ReplyRequested

NAMES = st.text(min_size=1, max_size=200)


def fields(**changes: object) -> dict[str, object]:
    return {
        "v": 1, "seq": 0, "ts_ms": 1, "source": "console", "device_id": "", "session_id": "console:main",
        "message_id": bytes(16), "payload": {"kind": "reply.requested", "chat": "console:main", "text": "hi"},
    } | changes


def raw(**changes: object) -> bytes:
    return msgpack.packb(fields(**changes))


@given(
    seq=st.integers(0, 2**63 - 1), ts_ms=st.integers(0, 2**48 - 1), source=NAMES, device=st.text(max_size=200),
    session=NAMES, message_id=st.binary(min_size=16, max_size=16), text=st.text(max_size=2000),
)
def test_what_is_encoded_is_decoded_the_same_and_msgpack_reads_it(
    seq: int, ts_ms: int, source: str, device: str, session: str, message_id: bytes, text: str
) -> None:
    payload = msgspec.msgpack.encode(ReplyRequested(chat="c:1", text=text))
    envelope = Envelope(v=VERSION, seq=seq, ts_ms=ts_ms, source=source, device_id=device, session_id=session,
                        message_id=message_id, payload=msgspec.Raw(payload))
    encoded = encode(envelope)
    back = decode(encoded)
    assert (back.seq, back.ts_ms, back.source, back.device_id, back.session_id, back.message_id) == (
        seq, ts_ms, source, device, session, message_id)
    assert back.read(ReplyRequested).text == text
    assert list(msgpack.unpackb(encoded)) == list(fields()), "eight fields, in this order, by an independent reader"
    assert with_seq(back, 7).seq == 7


@given(st.binary(max_size=300))
def test_ac09_garbage_is_refused_and_nothing_else_happens(garbage: bytes) -> None:
    try:
        decode(garbage)
    except EnvelopeError as error:
        assert error.field


@given(st.integers(0, 400))
def test_a_cut_frame_is_refused(length: int) -> None:
    whole = raw()
    with pytest.raises(EnvelopeError):
        decode(whole[: min(length, len(whole) - 1)])


@pytest.mark.parametrize("field", list(fields()))
def test_a_missing_field_is_named(field: str) -> None:
    rest = {name: value for name, value in fields().items() if name != field}
    with pytest.raises(EnvelopeError) as refused:
        decode(msgpack.packb(rest))
    assert refused.value.field == field


@pytest.mark.parametrize(("field", "value"), [
    ("v", "1"), ("seq", -1), ("seq", "x"), ("ts_ms", -5), ("ts_ms", 2**50), ("source", ""), ("source", 7),
    ("device_id", None), ("session_id", "x" * 201), ("message_id", bytes(15)), ("message_id", "text"),
])
def test_an_ill_typed_field_is_named(field: str, value: object) -> None:
    with pytest.raises(EnvelopeError) as refused:
        decode(raw(**{field: value}))
    assert refused.value.field == field


def test_ac32_an_unknown_version_is_refused_by_name() -> None:
    with pytest.raises(EnvelopeError) as refused:
        decode(raw(v=2))
    assert refused.value.field == "v"
    assert "this side speaks 1" in str(refused.value)


def test_trailing_bytes_are_refused() -> None:
    with pytest.raises(EnvelopeError):
        decode(raw() + b"\x00")


def test_an_envelope_over_the_limit_is_refused_when_it_is_made_and_when_it_is_read() -> None:
    big = raw(payload={"kind": "x", "text": "x" * ENVELOPE_BYTES_MAX})
    with pytest.raises(EnvelopeError, match="limit"):
        decode(big)


def test_deep_nesting_is_refused_not_followed() -> None:
    bomb = b"\x91" * 100_000 + b"\x00"
    with pytest.raises(EnvelopeError):
        decode(bomb)
    with pytest.raises(EnvelopeError):
        kind_of(b"\x82\xa1x" + bomb + b"\xa4kind\xa1x")


@pytest.mark.parametrize("payload", [{}, {"kind": 7}, {"kind": ""}, {"kind": "Not.A.Kind"}, {"kind": "a..b"}, [1]])
def test_a_payload_needs_a_kind_of_dotted_lower_case_words(payload: object) -> None:
    with pytest.raises(EnvelopeError):
        kind_of(msgpack.packb(payload))


def test_every_kind_is_its_own_subject() -> None:
    for subject, kind in KINDS.items():
        assert kind.__struct_config__.tag == subject
