"""The envelope: eight fields, msgpack, strict.

    {v, seq, ts_ms, source, device_id, session_id, message_id, payload}

`payload` stays encoded (a msgpack map with a text `kind`) until somebody who knows the kind reads it. An unknown `v`, a
missing or ill-typed field, or a frame over the limit is refused with an error that names the field.
Format: docs/bus.md.
"""

from __future__ import annotations

import re
from typing import TypeVar

import msgspec

from microclaw.bus.errors import EnvelopeError
from microclaw.core.ids import ID_BYTES

#: The version this code speaks.
VERSION = 1
#: Largest encoded envelope, bytes. Larger bodies travel by reference.
ENVELOPE_BYTES_MAX = 1 << 20
#: Longest `source`, `device_id`, `session_id`, `kind`, in characters.
NAME_CHARS_MAX = 200



_KIND = re.compile(r"[a-z0-9_]+(\.[a-z0-9_]+)*\Z")
_SEQ_MAX = (1 << 63) - 1

T = TypeVar("T")


class Envelope(msgspec.Struct, frozen=True, kw_only=True):
    """What travels."""

    v: int
    #: Place in the session, dense from 1; 0 = not yet given by the broker.
    seq: int
    #: When it was made, Unix ms, by the maker's clock: informational, nothing is ordered by it.
    ts_ms: int
    #: The service that made it.
    source: str
    #: The terminal that it came from or goes to, "" = none.
    device_id: str
    #: What it is ordered in: a chat, `group:<folder>`, …
    session_id: str
    #: 16 bytes; the same id is the same message.
    message_id: bytes
    payload: msgspec.Raw

    @property
    def kind(self) -> str:
        """`payload.kind`."""
        return kind_of(bytes(self.payload))

    def read(self, kind: type[T]) -> T:
        """The payload as this struct (or union of structs).

        :raises EnvelopeError: it is something else, or ill-typed; names the field.
        """
        try:
            return msgspec.msgpack.decode(self.payload, type=kind)
        except (msgspec.ValidationError, msgspec.DecodeError) as error:
            raise EnvelopeError("payload", str(error)) from error


class _KindOnly(msgspec.Struct):
    kind: str


_decoder = msgspec.msgpack.Decoder(Envelope)
_kind_decoder = msgspec.msgpack.Decoder(_KindOnly)
_encoder = msgspec.msgpack.Encoder()


def kind_of(payload: bytes) -> str:
    """The subject of an encoded payload. Raises EnvelopeError."""
    try:
        kind = _kind_decoder.decode(payload).kind
    except (msgspec.ValidationError, msgspec.DecodeError, RecursionError) as error:
        raise EnvelopeError("payload", str(error)) from error
    if len(kind) > NAME_CHARS_MAX or not _KIND.match(kind):
        raise EnvelopeError("payload.kind", f"{kind[:40]!r} is not dotted lower-case words")
    return kind


def encode(envelope: Envelope) -> bytes:
    """The bytes of an envelope, checked as `decode` checks them. Raises EnvelopeError."""
    raw = _encoder.encode(envelope)
    _check(envelope, len(raw))
    return raw


def decode(raw: bytes) -> Envelope:
    """The envelope in these bytes, whole and nothing else. Raises EnvelopeError."""
    if len(raw) > ENVELOPE_BYTES_MAX:
        raise EnvelopeError("frame", f"{len(raw)} bytes, the limit is {ENVELOPE_BYTES_MAX}")
    try:
        envelope = _decoder.decode(raw)
    except msgspec.ValidationError as error:
        text = str(error)
        found = re.search(r"`\$\.(\w+)|missing required field `(\w+)`", text)
        raise EnvelopeError(next(filter(None, found.groups())) if found else "frame", text) from error
    except (msgspec.DecodeError, RecursionError) as error:
        raise EnvelopeError("frame", str(error)) from error
    _check(envelope, len(raw))
    return envelope


def _check(envelope: Envelope, size: int) -> None:
    if envelope.v != VERSION:
        raise EnvelopeError("v", f"{envelope.v} is unknown here, this side speaks {VERSION}")
    if size > ENVELOPE_BYTES_MAX:
        raise EnvelopeError("frame", f"{size} bytes, the limit is {ENVELOPE_BYTES_MAX}")
    if not 0 <= envelope.seq <= _SEQ_MAX:
        raise EnvelopeError("seq", "out of range")
    if not 0 <= envelope.ts_ms < 1 << 48:
        raise EnvelopeError("ts_ms", "not Unix milliseconds")
    if len(envelope.message_id) != ID_BYTES:
        raise EnvelopeError("message_id", f"{len(envelope.message_id)} bytes, not {ID_BYTES}")
    for field in ("source", "session_id"):
        if not getattr(envelope, field):
            raise EnvelopeError(field, "empty")
    for field in ("source", "session_id", "device_id"):
        if len(getattr(envelope, field)) > NAME_CHARS_MAX:
            raise EnvelopeError(field, f"longer than {NAME_CHARS_MAX} characters")
    kind_of(bytes(envelope.payload))
