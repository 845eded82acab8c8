"""How a WebSocket begins, and secrets masked in its frames (RFC 6455). Pure.

A mask is as long as what it covers and no frame is compressed, since no extension is let through: so frames keep their
lengths, and each can be passed on while it comes. A secret split over two frames is not found.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from microclaw.core.scrub import Scrubber, StreamScrubber

#: Of a frame's head: two bytes, eight of length, four of key.
HEAD_BYTES_MAX = 14

#: Continuation, text, binary, close, ping, pong: what there is without extensions.
_OPCODES = frozenset((0, 1, 2, 8, 9, 10))
_EXTENSIONS = b"sec-websocket-extensions"

Headers = list[tuple[bytes, bytes]]


class BadFrame(ValueError):
    """What came is no frame of a WebSocket without extensions."""


def asks_for_upgrade(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    """Whether another protocol is to begin, whichever (names lower-case)."""
    return any(name == b"upgrade" for name, _ in headers)


def refused_handshake(method: bytes, headers: Iterable[tuple[bytes, bytes]]) -> str:
    """Why a request for another protocol is not a WebSocket's beginning, "" = it is."""
    headers = list(headers)
    wanted = [value.strip().lower() for name, value in headers if name == b"upgrade"]
    if wanted != [b"websocket"]:
        return "no protocol but a WebSocket may begin in a request"
    names = [name for name, _ in headers]
    connection = {
        word.strip().lower() for name, value in headers if name == b"connection" for word in value.split(b",")
    }
    if method != b"GET" or b"upgrade" not in connection or names.count(b"sec-websocket-key") != 1:
        return "it is not how a WebSocket begins: GET, Connection: Upgrade and one Sec-WebSocket-Key"
    if b"transfer-encoding" in names or any(name == b"content-length" and value != b"0" for name, value in headers):
        return "it is not how a WebSocket begins: it has a body"
    return ""


def handshake(headers: Iterable[tuple[bytes, bytes]]) -> Headers:
    """What goes on, either way, of headers that belong to the message: the upgrade again, no extension."""
    kept = [(name, value) for name, value in headers if name not in (_EXTENSIONS, b"connection", b"upgrade")]
    return [*kept, (b"connection", b"Upgrade"), (b"upgrade", b"websocket")]


def refused_switch(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """Why a server's 101 is not to be believed, "" = it is."""
    headers = list(headers)
    if [value.strip().lower() for name, value in headers if name == b"upgrade"] != [b"websocket"]:
        return "it began another protocol than a WebSocket"
    if any(name == _EXTENSIONS for name, _ in headers):
        return "it began an extension that was not asked for"
    return ""


class FrameScrubber:
    """One direction of a WebSocket, with secrets masked within each frame."""

    def __init__(self, scrubber: Callable[[], Scrubber], *, from_client: bool) -> None:
        """`scrubber` is asked for each frame. `from_client`: its frames carry a key, the others' none."""
        self._scrubber = scrubber
        self._from_client = from_client
        self._head = b""
        #: Frames begun so far.
        self.frames = 0
        #: The frame that is coming: how much is still to come of it, and its key.
        self._left = 0
        self._taken, self._given = _Key(b""), _Key(b"")
        self._payload: StreamScrubber | None = None

    def feed(self, data: bytes) -> bytes:
        """What can be passed on after `data`; never less than all whole frames. :raises BadFrame:"""
        data, self._head = self._head + data, b""
        out: list[bytes] = []
        at = 0
        while at < len(data):
            if self._payload is None:
                head = data[at:at + HEAD_BYTES_MAX]
                size = self._begin(head)
                if not size:
                    self._head = head
                    break
                out.append(head[:size])
                at += size
                self.frames += 1
            else:
                part = data[at:at + self._left]
                at += len(part)
                self._left -= len(part)
                out.append(self._given.mixed(self._payload.feed(self._taken.mixed(part))))
                if not self._left:
                    out.append(self._given.mixed(self._payload.finish()))
                    self._payload = None
        return b"".join(out)

    def _begin(self, head: bytes) -> int:
        """Begin the frame; how long its head is, 0 = more of it is needed."""
        if head[0] & 0x70 or head[0] & 0x0F not in _OPCODES:
            raise BadFrame("a frame is of a kind that was not agreed upon")
        if len(head) < 2:
            return 0
        if bool(head[1] & 0x80) is not self._from_client:
            raise BadFrame("a frame has a key that must have none, or none that must have one")
        wide = {126: 2, 127: 8}.get(head[1] & 0x7F, 0)
        size = 2 + wide + (4 if self._from_client else 0)
        if len(head) < size:
            return 0
        self._left = int.from_bytes(head[2:2 + wide], "big") if wide else head[1] & 0x7F
        key = head[2 + wide:size]
        self._taken, self._given = _Key(key), _Key(key)
        self._payload = StreamScrubber(self._scrubber())
        return size


class _Key:
    """A frame's key, from where it was left (RFC 6455 section 5.3); an empty one changes nothing."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._at = 0

    def mixed(self, data: bytes) -> bytes:
        if not self._key or not data:
            return data
        turned = self._key[self._at:] + self._key[:self._at]
        self._at = (self._at + len(data)) % 4
        stream = (turned * (len(data) // 4 + 1))[:len(data)]
        return (int.from_bytes(data, "big") ^ int.from_bytes(stream, "big")).to_bytes(len(data), "big")
