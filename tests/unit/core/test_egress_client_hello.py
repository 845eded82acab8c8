"""The ClientHello reader, against hellos that OpenSSL makes, and against everything else."""

from __future__ import annotations

import contextlib
import ssl
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from microclaw.core.client_hello import HELLO_BYTES_MAX, BadHello, Hello, read_hello, refused_hello


def hello_of(name: str | None) -> bytes:
    """What OpenSSL sends."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = ssl.create_default_context()
    context.check_hostname = False
    context.set_alpn_protocols(["h2", "http/1.1"])
    client = context.wrap_bio(incoming, outgoing, server_hostname=name)
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()


REAL = hello_of("Good.Example")


def extension(kind: int, content: bytes) -> bytes:
    return struct.pack("!HH", kind, len(content)) + content


def sni(*names: bytes, kind: int = 0) -> bytes:
    listed = b"".join(struct.pack("!BH", kind, len(name)) + name for name in names)
    return extension(0, struct.pack("!H", len(listed)) + listed)


def made(*extensions: bytes) -> bytes:
    """A minimal hello in one record."""
    joined = b"".join(extensions)
    fixed = b"\x03\x03" + bytes(32) + b"\x00" + b"\x00\x02\x13\x01" + b"\x01\x00"
    body = fixed + struct.pack("!H", len(joined)) + joined
    message = b"\x01" + len(body).to_bytes(3, "big") + body
    return b"\x16\x03\x01" + struct.pack("!H", len(message)) + message


def test_the_name_in_a_real_hello_is_read_lower_case():
    assert read_hello(REAL) == Hello("good.example", False)
    assert read_hello(hello_of(None)) == Hello("", False)
    assert read_hello(REAL + b"whatever comes next") == Hello("good.example", False)


def test_a_hello_is_the_same_however_much_has_come():
    assert all(read_hello(REAL[:at]) is None for at in range(len(REAL)))


@given(st.lists(st.integers(1, 200), min_size=1, max_size=6))
def test_a_hello_spread_over_records_is_put_together(sizes):
    message, out = REAL[5:], b""
    for size in sizes:
        part, message = message[:size], message[size:]
        out += b"\x16\x03\x03" + struct.pack("!H", len(part)) + part if part else b""
    if message:
        out += b"\x16\x03\x03" + struct.pack("!H", len(message)) + message
    assert read_hello(out) == Hello("good.example", False)


@given(st.binary(max_size=300))
def test_other_bytes_are_refused_or_waited_for_and_never_read_as_a_name(data):
    try:
        found = read_hello(data)
    except BadHello:
        return
    assert found is None and data[:1] in (b"", b"\x16")


@given(st.integers(5, len(REAL) - 1), st.integers(1, 255))
def test_a_changed_hello_never_crashes(at, change):
    changed = bytearray(REAL)
    changed[at] ^= change
    with contextlib.suppress(BadHello):
        read_hello(bytes(changed))


@pytest.mark.parametrize("data", [
    made(sni(b"a"), sni(b"b")), made(sni(b"a", b"b")), made(sni(b"")), made(sni(b"a", kind=1)), made(sni(b"\xff")),
    b"\x16\x03\x01\x00\x00", b"\x16\x03\x01\xff\xff", b"\x15\x03\x01\x00\x02\x02\x28", b"GET / HTTP/1.1",
    b"\x16\x03\x01\x00\x04\x02\x00\x00\x00", b"\x16\x03\x01\x00\x04\x01\xff\xff\xff",
    made(extension(0, b"\x00")),
])
def test_ambiguous_and_broken_hellos_are_refused(data):
    with pytest.raises(BadHello):
        read_hello(data)


def test_records_without_end_are_refused():
    with pytest.raises(BadHello):
        read_hello((b"\x16\x03\x01\x00\x01\x01" + b"\x16\x03\x01\x00\x01\x00" * HELLO_BYTES_MAX)[:3 * HELLO_BYTES_MAX])


def test_only_the_host_of_the_connect_in_the_open_passes():
    assert refused_hello(Hello("good.example", False), "good.example") == ""
    assert "is not the host" in refused_hello(Hello("evil.example", False), "good.example")
    assert "is not the host" in refused_hello(Hello("", False), "good.example")
    found = read_hello(made(sni(b"good.example"), extension(0xFE0D, b"\x00")))
    assert found is not None and "ECH" in refused_hello(found, "good.example")
