"""The frames between client and broker.

A ZeroMQ message is one frame: a msgpack array of operations, each an array that begins with its number below. The SPEC,
field by field, is docs/bus.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import IntEnum
from typing import Any

import msgspec

#: Version of this protocol; HELLO carries it.
PROTOCOL = 4
#: Largest frame, bytes; libzmq drops a peer that sends a larger one.
FRAME_BYTES_MAX = 16 << 20
#: Either side splits a frame that would be larger, unless it is one operation.
FRAME_BYTES_GOOD = 2 << 20
#: A client says something at least so often.
PING_S = 0.5
#: A client silent for so long is gone; what it was given goes to others.
SILENCE_S = 15.0


class Op(IntEnum):
    """client → broker, and the broker's answers of the same number."""

    #: [HELLO, protocol, name, instance] → [HELLO, protocol, epoch]
    HELLO = 1
    #: [PUBLISH, rid, [item, …]] → [PUBLISH, rid, [seq, …]], a negative seq: it was there before; all or none
    #: item = body, or [body, not_before_ms, expires_ms, expected_last_seq | nil, [blob handle, …]]
    PUBLISH = 2
    #: [SUBSCRIBE, sid, group, kinds, sessions, max_in_flight, ack_wait_ms, max_deliver, backoff_ms, start, in_order]
    SUBSCRIBE = 3
    #: [ACK, rid, group, [offset, …], [item, …]] → [PUBLISH, rid, …]
    ACK = 4
    #: [NACK, group, offset, delay_ms | nil, error]
    NACK = 5
    #: [TERM, group, offset, reason]
    TERM = 6
    #: [PROGRESS, group, offset]
    PROGRESS = 7
    #: [UNSUBSCRIBE, sid]
    UNSUBSCRIBE = 8
    #: broker → client: [REFUSED, rid, code, why, retry_after_ms]
    REFUSED = 9
    #: [REPLAY, rid, session, after_seq, limit, wait_ms] → [REPLAY, rid, [[seq, body], …], last_seq]
    REPLAY = 10
    #: broker → client: [DELIVER, sid, [offset, …], [seq, …], [count, …], [body, …]]
    DELIVER = 11
    #: [REQUEST, rid, service, timeout_ms, body] → [REQUEST, rid, body]; to the service: [ASKED, bid, asker, body]
    REQUEST = 12
    ASKED = 13
    #: [ANSWER, bid, body]
    ANSWER = 14
    #: [SERVE]: requests to my name come to me.
    SERVE = 15
    #: [PING] → [PING]
    PING = 16
    #: [BLOB_PUT, rid, handle, start, part, last] → [BLOB_PUT, rid, done]
    BLOB_PUT = 18
    #: [BLOB_GET, rid, handle, start] → [BLOB_GET, rid, part, size]
    BLOB_GET = 19
    #: [PUBLISH_EACH, rid, [item, …]] → [PUBLISH_EACH, rid, [seq, …]]: so many publishes of one message each, whose rids
    #: are rid, rid + 1, …; seq 0: that one is refused, by itself
    PUBLISH_EACH = 20
    #: [SEEK, rid, session, since_ms, last] → [SEEK, rid, after_seq]: after it comes what was stored since then, but the
    #: `last` so many at most
    SEEK = 21
    #: broker → client: [UNKNOWN]: say HELLO again (the broker is new, or had given you up).
    UNKNOWN = 17


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(list[list[Any]])


def encode_frame(operations: list[list[Any]]) -> bytes:
    """A frame of these operations."""
    return _encoder.encode(operations)


def frames(operations: list[list[Any]]) -> Iterator[tuple[list[list[Any]], bytes]]:
    """Frames of a good size, in order, each with the operations that are in it."""
    frame = encode_frame(operations)
    if len(frame) <= FRAME_BYTES_GOOD or len(operations) == 1:
        yield operations, frame
        return
    middle = len(operations) // 2
    yield from frames(operations[:middle])
    yield from frames(operations[middle:])


def decode_frame(frame: bytes) -> list[list[Any]]:
    """The operations of a frame. Raises msgspec.DecodeError (ValidationError included) or RecursionError."""
    return _decoder.decode(frame)
