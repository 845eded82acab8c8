"""The envelope: eight fields, msgpack, strict.

    {v, seq, ts_ms, source, device_id, session_id, message_id, payload}

`payload` stays encoded (a msgpack map with a text `kind`) until somebody who knows the kind reads it. An unknown `v`, a
missing or ill-typed field, or a frame over the limit is refused with an error that names the field.
Format: docs/bus.md.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Annotated, TypeVar

import msgspec
from msgspec import Meta

from microclaw.bus.errors import EnvelopeError, EnvelopeTooBig
from microclaw.core.ids import ID_BYTES

#: The version this code speaks.
VERSION = 1
#: Largest encoded envelope, bytes. Larger bodies travel by reference.
ENVELOPE_BYTES_MAX = 1 << 20
#: Longest `source`, `device_id`, `session_id` and kind, in characters.
NAME_CHARS_MAX = 200

#: Kinds remembered as well formed.
GOOD_KINDS_MAX = 1_000

_KIND = re.compile(r"[a-z0-9_]+(\.[a-z0-9_]+)*\Z")

T = TypeVar("T")

_Name = Annotated[str, Meta(min_length=1, max_length=NAME_CHARS_MAX)]


class _Head(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    v: int
    #: Place in the session, dense from 1; 0 = not yet given by the broker.
    seq: Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]
    #: When it was made, Unix ms, by the maker's clock: informational, nothing is ordered by it.
    ts_ms: Annotated[int, Meta(ge=0, lt=1 << 48)]
    #: The service that made it.
    source: _Name
    #: The terminal that it came from or goes to, "" = none.
    device_id: Annotated[str, Meta(max_length=NAME_CHARS_MAX)]
    #: What it is ordered in: a chat, `group:<folder>`, …
    session_id: _Name
    #: 16 bytes; the same id is the same message.
    message_id: Annotated[bytes, Meta(min_length=ID_BYTES, max_length=ID_BYTES)]


class Envelope(_Head, frozen=True, kw_only=True, gc=False):
    """What travels."""

    payload: msgspec.Raw

    @property
    def kind(self) -> str:
        """`payload.kind`."""
        return kind_of(self.payload)

    def read(self, kind: type[T]) -> T:
        """The payload as this struct (or union of structs).

        :raises EnvelopeError: it is something else, or ill-typed; names the field.
        """
        try:
            return msgspec.msgpack.decode(self.payload, type=kind)
        except (msgspec.ValidationError, msgspec.DecodeError) as error:
            raise EnvelopeError("payload", str(error)) from error


class _KindOnly(msgspec.Struct, frozen=True, gc=False):
    kind: str


class Incoming(_Head, frozen=True, kw_only=True, gc=False):
    """The same envelope as the broker reads it: of the payload only the kind."""

    payload: _KindOnly


_decoder = msgspec.msgpack.Decoder(Envelope)
_incoming_decoder = msgspec.msgpack.Decoder(Incoming)
#: `incoming` without its checks of size, version and kind. Raises msgspec.MsgspecError, RecursionError.
decode_incoming = _incoming_decoder.decode
_kind_decoder = msgspec.msgpack.Decoder(_KindOnly)
_encoder = msgspec.msgpack.Encoder()
_good_kinds: set[str] = set()


def kind_of(payload: bytes | msgspec.Raw) -> str:
    """The subject of an encoded payload. Raises EnvelopeError."""
    try:
        kind = _kind_decoder.decode(payload).kind
    except (msgspec.ValidationError, msgspec.DecodeError, RecursionError) as error:
        raise EnvelopeError("payload", str(error)) from error
    if kind not in _good_kinds:
        _check_kind(kind)
    return kind


def _check_kind(kind: str) -> None:
    if len(kind) > NAME_CHARS_MAX or not _KIND.match(kind):
        raise EnvelopeError("payload.kind", f"{kind[:40]!r} is not dotted lower-case words")
    if len(_good_kinds) < GOOD_KINDS_MAX:
        _good_kinds.add(kind)


def encode(envelope: Envelope) -> bytes:
    """The bytes of an envelope, checked as `decode` checks them. Raises EnvelopeError."""
    raw = _encoder.encode(envelope)
    decode(raw)
    return raw


def encode_new(
    ts_ms: int, source: str, device_id: str, session_id: str, message_id: bytes, payload: msgspec.Struct | bytes
) -> bytes:
    """The bytes of an envelope that has no `seq` yet. `payload` as a struct, or encoded already. Raises
    EnvelopeError."""
    encoded = payload if isinstance(payload, bytes) else _encoder.encode(payload)
    raw = _encoder.encode(Envelope(
        v=VERSION, seq=0, ts_ms=ts_ms, source=source, device_id=device_id, session_id=session_id,
        message_id=message_id, payload=msgspec.Raw(encoded),
    ))
    # What our own encoder made is well formed; to look at the lengths costs a tenth of reading it all again.
    if (
        encoded is payload or len(raw) > ENVELOPE_BYTES_MAX or not 0 < len(session_id) <= NAME_CHARS_MAX
        or len(device_id) > NAME_CHARS_MAX or len(message_id) != ID_BYTES or not 0 <= ts_ms < 1 << 48
    ):
        decode(raw)
    return raw


def decode(raw: bytes) -> Envelope:
    """The envelope in these bytes, whole and nothing else. Raises EnvelopeError. The payload's kind is checked when
    it is read (`Envelope.kind`)."""
    return _decoded(raw, _decoder)


def incoming(raw: bytes) -> Incoming:
    """The same as the broker reads it, its kind checked. Raises EnvelopeError."""
    envelope = _decoded(raw, _incoming_decoder)
    if envelope.payload.kind not in _good_kinds:
        _check_kind(envelope.payload.kind)
    return envelope


H = TypeVar("H", bound=_Head)


def _decoded(raw: bytes, decoder: msgspec.msgpack.Decoder[H]) -> H:
    if len(raw) > ENVELOPE_BYTES_MAX:
        raise EnvelopeTooBig(len(raw), ENVELOPE_BYTES_MAX)
    try:
        envelope = decoder.decode(raw)
    except msgspec.ValidationError as error:
        raise EnvelopeError(_field_in(str(error)), str(error)) from error
    except (msgspec.DecodeError, RecursionError) as error:
        raise EnvelopeError("frame", str(error)) from error
    if envelope.v != VERSION:
        raise EnvelopeError("v", f"{envelope.v} is unknown here, this side speaks {VERSION}")
    return envelope


def _field_in(message: str) -> str:
    found = re.search(r"\$\.(\w+)|required field `(\w+)`", message)
    return (found.group(1) or found.group(2)) if found else "frame"


def with_seq(envelope: Envelope, seq: int) -> Envelope:
    """The same envelope at its place."""
    return msgspec.structs.replace(envelope, seq=seq)


def placed_all(rows: Iterable[tuple[int, bytes]]) -> list[Envelope]:
    """The envelopes of these (seq, bytes), each at its place. Raises EnvelopeError."""
    return [placed(raw, seq) for seq, raw in rows]


def placed(raw: bytes, seq: int) -> Envelope:
    """The envelope in these bytes, which the broker has checked when it took them, at its place. Raises
    EnvelopeError."""
    try:
        envelope = _decoder.decode(raw)
    except msgspec.MsgspecError:
        envelope = decode(raw)  # says what is wrong
    if envelope.v != VERSION:
        envelope = decode(raw)
    # Nobody else has it yet: setting the field costs a quarter of a copy.
    msgspec.structs.force_setattr(envelope, "seq", seq)
    return envelope
