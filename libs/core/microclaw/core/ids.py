"""Message ids: 16 bytes, the first six the time, so that an index over them grows at one end.

A *new* id is a UUIDv7 (RFC 9562, section 5.7). A *derived* id is a UUIDv8 (section 5.8) whose random part is a hash:
the same cause always gives the same id, which is how a repeat of a platform's update, or a service that does its
work again after a crash, is recognised by the broker as the same message.
"""

from __future__ import annotations

import hashlib
import os
import uuid

#: Length of a message id.
ID_BYTES = 16
#: Ids whose random part is read at once.
RANDOM_IDS = 256

#: Version 7 (or 8) and the variant, where they stand in an id's last ten bytes; and what is left for the rest.
_V7, _V8, _REST = 0x7000_8000_0000_0000_0000, 0x8000_8000_0000_0000_0000, 0x0FFF_3FFF_FFFF_FFFF_FFFF


class _Random:
    """The kernel's randomness, some in advance: a system call for each id would cost more than all the rest of it."""

    def __init__(self) -> None:
        self._tails: list[int] = []

    def take(self) -> int:
        """The last ten bytes of an id, which nobody else gets."""
        while True:
            try:
                return self._tails.pop()  # one step also between threads
            except IndexError:
                raw = os.urandom(10 * RANDOM_IDS)
                self._tails += [
                    _V7 | (int.from_bytes(raw[at:at + 10], "big") & _REST) for at in range(0, len(raw), 10)
                ]

    def forget(self) -> None:
        """A forked child must not go on with its parent's."""
        self._tails = []


_random = _Random()
os.register_at_fork(after_in_child=_random.forget)


def _stamp(ts_ms: int, tail: int) -> bytes:
    return ((ts_ms & 0xFFFF_FFFF_FFFF) << 80 | tail).to_bytes(ID_BYTES, "big")


def new_id(ts_ms: int, randomness: bytes | None = None) -> bytes:
    """A fresh id for a message made at `ts_ms` (Unix milliseconds); `randomness` is 10 bytes, for tests."""
    if randomness is None:
        return _stamp(ts_ms, _random.take())
    return _stamp(ts_ms, _V7 | (int.from_bytes(randomness, "big") & _REST))


def derived_id(ts_ms: int, *parts: str | bytes | int) -> bytes:
    """The id that `parts` always have. `ts_ms` must itself be a stable fact (the platform's time stamp, or `id_time` of
    the causing message), else the same cause would give two ids."""
    digest = hashlib.blake2b(digest_size=10)
    for part in parts:
        raw = part if isinstance(part, bytes) else str(part).encode()
        digest.update(len(raw).to_bytes(8, "big"))
        digest.update(raw)
    return _stamp(ts_ms, _V8 | (int.from_bytes(digest.digest(), "big") & _REST))


def id_time(message_id: bytes) -> int:
    """The Unix milliseconds inside an id."""
    return int.from_bytes(message_id[:6], "big")


def id_text(message_id: bytes) -> str:
    """An id as people and logs see it."""
    return str(uuid.UUID(bytes=message_id))


def id_from_text(text: str) -> bytes:
    """The reverse of `id_text`. Raises ValueError."""
    return uuid.UUID(text).bytes
