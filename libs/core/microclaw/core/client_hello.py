"""Reading the name that a TLS client asks for (SNI) out of its first message, RFC 8446 section 4.1.2 and RFC 6066."""

from __future__ import annotations

from dataclasses import dataclass

#: A longer hello is refused. With post-quantum key shares it has about 2 KiB.
HELLO_BYTES_MAX = 16 << 10

_HANDSHAKE = 22
_CLIENT_HELLO = 1
_SERVER_NAME = 0
_ECH = 0xFE0D
_RECORD_BYTES_MAX = 1 << 14
#: What the two records' versions may begin with (3.1 to 3.4 on the wire).
_MAJOR = 3


class BadHello(ValueError):
    """The client did not begin with a TLS ClientHello that can be judged."""


@dataclass(frozen=True, slots=True)
class Hello:
    """What was asked for."""

    #: Lower case; "" = no name was sent.
    server_name: str
    #: An encrypted ClientHello may carry another name than the one to be seen.
    encrypted: bool


class _Reader:
    """Takes fields off bytes; too few are an error."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def __bool__(self) -> bool:
        return self._at < len(self._data)

    def take(self, count: int) -> bytes:
        piece = self._data[self._at:self._at + count]
        if len(piece) != count:
            raise BadHello("a field of the ClientHello is cut off")
        self._at += count
        return piece

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")

    def vector(self, size: int) -> bytes:
        """Bytes with their length, of `size` bytes, before them."""
        return self.take(self.number(size))


def read_hello(data: bytes) -> Hello | None:
    """The hello at the start of `data`; None = more bytes are needed. :raises BadHello:"""
    message = bytearray()
    at = 0
    while True:
        # A hello may be spread over several records.
        head = data[at:at + 5]
        if (head and head[0] != _HANDSHAKE) or (len(head) > 1 and head[1] != _MAJOR):
            raise BadHello("this is not TLS: a tunnel carries TLS only")
        size = int.from_bytes(head[3:5], "big") if len(head) == 5 else 0
        if len(head) == 5 and not 0 < size <= _RECORD_BYTES_MAX:
            raise BadHello("a TLS record of an impossible length")
        record = data[at + 5:at + 5 + size]
        message += record
        if message and message[0] != _CLIENT_HELLO:
            raise BadHello("the first TLS message is not a ClientHello")
        needed = 4 + int.from_bytes(message[1:4], "big") if len(message) >= 4 else None
        if needed is not None and needed > HELLO_BYTES_MAX:
            raise BadHello(f"a ClientHello of {needed} bytes, the limit is {HELLO_BYTES_MAX}")
        if needed is not None and len(message) >= needed:
            return _parse(bytes(message[4:needed]))
        if len(head) < 5 or len(record) < size:
            if len(data) > 2 * HELLO_BYTES_MAX:
                raise BadHello("no ClientHello in the first records")
            return None
        at += 5 + size


def _parse(body: bytes) -> Hello:
    reader = _Reader(body)
    reader.take(2 + 32)  # legacy_version, random
    reader.vector(1)  # legacy_session_id
    reader.vector(2)  # cipher_suites
    reader.vector(1)  # legacy_compression_methods
    name: str | None = None
    encrypted = False
    extensions = _Reader(reader.vector(2) if reader else b"")
    if reader:
        raise BadHello("bytes after the ClientHello's extensions")
    while extensions:
        kind = extensions.number(2)
        content = extensions.vector(2)
        if kind == _SERVER_NAME:
            if name is not None:
                raise BadHello("two server names")
            name = _server_name(content)
        encrypted = encrypted or kind == _ECH
    return Hello(name or "", encrypted)


def _server_name(content: bytes) -> str:
    outer = _Reader(content)
    names = _Reader(outer.vector(2))
    if outer or names.number(1) != 0:
        raise BadHello("a server name of an unknown type")
    raw = names.vector(2)
    if names or not raw:
        raise BadHello("not exactly one server name")
    try:
        return raw.decode("ascii").lower()
    except UnicodeDecodeError:
        raise BadHello("the server name is not ASCII") from None


def refused_hello(hello: Hello, host: str) -> str:
    """Why a tunnel to `host` can't carry this hello; "" = it can."""
    if hello.encrypted:
        return "encrypted ClientHello (ECH) is refused: it may hide another name"
    if hello.server_name != host:
        return f"the TLS server name {hello.server_name[:100]!r} is not the host {host!r} of the CONNECT"
    return ""
