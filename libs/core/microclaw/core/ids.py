"""Message ids: 16 bytes, the first six the time, so that an index over them grows at one end.

A *new* id is a UUIDv7 (RFC 9562, section 5.7). A *derived* id is a UUIDv8 (section 5.8) whose random part is a hash:
the same cause always gives the same id, which is how a repeat of a platform's update, or a service that does its
work again after a crash, is recognised by the broker as the same message.
"""

from __future__ import annotations

import hashlib
import os
import threading
import uuid

#: Length of a message id.
ID_BYTES = 16
#: Randomness read at once.
RANDOM_BYTES = 10 * 256


class _Random:
    """The kernel's randomness, some in advance: a system call for each id would cost more than all the rest of it."""

    def __init__(self) -> None:
        self._bytes = b""
        self._used = 0
        self._lock = threading.Lock()

    def take(self) -> bytes:
        """Ten bytes that nobody else gets."""
        with self._lock:
            if self._used >= len(self._bytes):
                self._bytes = os.urandom(RANDOM_BYTES)
                self._used = 0
            self._used += 10
            return self._bytes[self._used - 10:self._used]

    def forget(self) -> None:
        """A forked child must not go on with its parent's."""
        self._bytes = b""
        self._used = 0
        self._lock = threading.Lock()


_random = _Random()
os.register_at_fork(after_in_child=_random.forget)


def _stamp(ts_ms: int, tail: bytes, version: int) -> bytes:
    raw = bytearray((ts_ms & 0xFFFF_FFFF_FFFF).to_bytes(6, "big") + tail[:10])
    raw[6] = (raw[6] & 0x0F) | (version << 4)
    raw[8] = (raw[8] & 0x3F) | 0x80
    return bytes(raw)


def new_id(ts_ms: int, randomness: bytes | None = None) -> bytes:
    """A fresh id for a message made at `ts_ms` (Unix milliseconds); `randomness` is 10 bytes, for tests."""
    return _stamp(ts_ms, randomness if randomness is not None else _random.take(), 7)


def derived_id(ts_ms: int, *parts: str | bytes | int) -> bytes:
    """The id that `parts` always have. `ts_ms` must itself be a stable fact (the platform's time stamp, or `id_time` of
    the causing message), else the same cause would give two ids."""
    digest = hashlib.blake2b(digest_size=10)
    for part in parts:
        raw = part if isinstance(part, bytes) else str(part).encode()
        digest.update(len(raw).to_bytes(8, "big"))
        digest.update(raw)
    return _stamp(ts_ms, digest.digest(), 8)


def id_time(message_id: bytes) -> int:
    """The Unix milliseconds inside an id."""
    return int.from_bytes(message_id[:6], "big")


def id_text(message_id: bytes) -> str:
    """An id as people and logs see it."""
    return str(uuid.UUID(bytes=message_id))


def id_from_text(text: str) -> bytes:
    """The reverse of `id_text`. Raises ValueError."""
    return uuid.UUID(text).bytes
