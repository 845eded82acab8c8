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


class Envelope(msgspec.Struct, frozen=True, kw_only=True):
    """What travels."""

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


class _KindOnly(msgspec.Struct):
    kind: str


_decoder = msgspec.msgpack.Decoder(Envelope)
_kind_decoder = msgspec.msgpack.Decoder(_KindOnly)
_encoder = msgspec.msgpack.Encoder()
_good_kinds: set[str] = set()


def kind_of(payload: bytes | msgspec.Raw) -> str:
    """The subject of an encoded payload. Raises EnvelopeError."""
    try:
        kind = _kind_decoder.decode(payload).kind
    except (msgspec.ValidationError, msgspec.DecodeError, RecursionError) as error:
        raise EnvelopeError("payload", str(error)) from error
    if kind in _good_kinds:
        return kind
    if len(kind) > NAME_CHARS_MAX or not _KIND.match(kind):
        raise EnvelopeError("payload.kind", f"{kind[:40]!r} is not dotted lower-case words")
    if len(_good_kinds) < GOOD_KINDS_MAX:
        _good_kinds.add(kind)
    return kind


def encode(envelope: Envelope) -> bytes:
    """The bytes of an envelope, checked as `decode` checks them. Raises EnvelopeError."""
    raw = _encoder.encode(envelope)
    decode(raw)
    return raw


def decode(raw: bytes) -> Envelope:
    """The envelope in these bytes, whole and nothing else. Raises EnvelopeError. The payload's kind is checked when
    it is read (`Envelope.kind`)."""
    if len(raw) > ENVELOPE_BYTES_MAX:
        raise EnvelopeTooBig(len(raw), ENVELOPE_BYTES_MAX)
    try:
        envelope = _decoder.decode(raw)
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
    """The envelopes of these (seq, bytes), which the broker has checked when it took them. Raises EnvelopeError."""
    envelopes = []
    read, put = _decoder.decode, msgspec.structs.force_setattr
    for seq, raw in rows:
        try:
            envelope = read(raw)
        except msgspec.MsgspecError:
            envelope = decode(raw)  # says what is wrong
        if envelope.v != VERSION:
            envelope = decode(raw)
        put(envelope, "seq", seq)
        envelopes.append(envelope)
    return envelopes


def placed(raw: bytes, seq: int) -> Envelope:
    """The envelope in these bytes, at its place. Raises EnvelopeError."""
    envelope = decode(raw)
    # Nobody else has it yet: setting the field costs a quarter of a copy.
    msgspec.structs.force_setattr(envelope, "seq", seq)
    return envelope
