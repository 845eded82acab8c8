"""Certificates that egress makes, and TLS begun in the middle: what strict clients take, and what is never kept."""

from __future__ import annotations

import asyncio
import os
import ssl
import subprocess
import sys
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from hypothesis import given, settings
from hypothesis import strategies as st

from microclaw.egress import worker_authority
from microclaw.egress.tls_stream import OverBytes, TlsStream
from microclaw.egress.worker_authority import AUTHORITY_LEFT, AUTHORITY_LIFE, LEAF_LEFT, LEAF_LIFE, SKEW, Authorities

NOW = datetime(2026, 5, 17, tzinfo=UTC)
#: The clock of the certificates is ours: clients don't compare it (X509_V_FLAG_NO_CHECK_TIME).
ANY_TIME = 0x200000


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def ms(self) -> int:
        return int(self.now.timestamp() * 1000)


def shaken(context: ssl.SSLContext, pem: str, name: str) -> x509.Certificate:
    """The certificate that a client which trusts `pem` was shown, as strictly looked at as OpenSSL can."""
    client = ssl.create_default_context(cadata=pem)
    client.verify_flags |= ssl.VERIFY_X509_STRICT | ANY_TIME
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [context.wrap_bio(to_server, to_client, server_side=True),
            client.wrap_bio(to_client, to_server, server_hostname=name)]
    for _ in range(4):
        for end in reversed(ends):
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
    shown = ends[1].getpeercert(binary_form=True)
    assert shown
    return x509.load_der_x509_certificate(shown)


def test_a_strict_client_takes_a_hosts_certificate_for_that_host_alone():
    made = Authorities(Clock().ms)
    pem = made.of("w1").certificate.decode()
    long = ".".join(["a" * 60] * 4)
    for host in ("good.example", long, "under_score.example", "xn--gte-hoa.example"):
        leaf = shaken(made.context("w1", host), pem, host)
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert names.get_values_for_type(x509.DNSName) == [host]
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        shaken(made.context("w1", "good.example"), pem, "other.example")
    with pytest.raises(ssl.SSLCertVerificationError):
        shaken(made.context("w2", "good.example"), pem, "good.example")


def test_it_is_good_for_a_clock_that_is_behind_and_for_no_longer_than_needed():
    made = Authorities(Clock().ms)
    authority = x509.load_pem_x509_certificate(made.of("w1").certificate)
    leaf = shaken(made.context("w1", "good.example"), made.of("w1").certificate.decode(), "good.example")
    for certificate, life in ((authority, AUTHORITY_LIFE), (leaf, LEAF_LIFE)):
        assert certificate.not_valid_before_utc == NOW - SKEW and certificate.not_valid_after_utc == NOW + life
    assert LEAF_LIFE < AUTHORITY_LEFT, "no leaf outlives its authority"
    constraints = authority.extensions.get_extension_for_class(x509.BasicConstraints)
    assert constraints.critical and constraints.value == x509.BasicConstraints(ca=True, path_length=0)


def test_what_ends_soon_is_made_anew():
    clock = Clock()
    made = Authorities(clock.ms)
    first, context = made.of("w1"), made.context("w1", "good.example")
    clock.now += LEAF_LIFE - LEAF_LEFT - timedelta(minutes=1)
    assert made.context("w1", "good.example") is context and made.of("w1") is first
    clock.now += timedelta(minutes=2)
    assert made.context("w1", "good.example") is not context and made.of("w1") is first
    clock.now = NOW + AUTHORITY_LIFE - AUTHORITY_LEFT + timedelta(minutes=1)
    second = made.of("w1")
    assert second.fingerprint != first.fingerprint
    shaken(made.context("w1", "good.example"), second.certificate.decode(), "good.example")


@pytest.mark.parametrize("back", [timedelta(hours=23), timedelta(days=2)])
def test_ac68_when_the_clock_is_set_back_programs_are_shown_what_is_good_by_it(back):
    clock = Clock()
    made = Authorities(clock.ms)
    made.context("w1", "good.example")
    clock.now -= back
    leaf = shaken(made.context("w1", "good.example"), made.of("w1").certificate.decode(), "good.example")
    for certificate in (leaf, x509.load_pem_x509_certificate(made.of("w1").certificate)):
        assert certificate.not_valid_before_utc <= clock.now < certificate.not_valid_after_utc


def test_contexts_are_bounded_and_go_with_their_worker(monkeypatch):
    monkeypatch.setattr(worker_authority, "LEAVES_MAX", 3)
    made = Authorities(Clock().ms)
    kept = made.context("w1", "h0.example")
    for number in range(1, 5):
        made.context("w1", f"h{number}.example")
        assert made.context("w1", "h0.example") is kept, "what is used stays"
    assert len(made._contexts) == 3
    before = made.of("w1").fingerprint
    made.forget("w1")
    made.forget("w1")
    assert len(made) == 0 and not made._contexts and made.of("w1").fingerprint != before


def test_keys_are_in_no_text_and_no_file():
    authority = Authorities(Clock().ms).of("w1")
    value = authority.key.private_numbers().private_value
    assert "PRIVATE" not in repr(authority) and str(value) not in repr(authority)
    opened = {os.readlink(f"/dev/fd/{fd}") for fd in os.listdir("/dev/fd") if Path(f"/dev/fd/{fd}").is_symlink()}
    Authorities(Clock().ms).context("w1", "good.example")
    after = {os.readlink(f"/dev/fd/{fd}") for fd in os.listdir("/dev/fd") if Path(f"/dev/fd/{fd}").is_symlink()}
    assert {name for name in after - opened if "fd" not in name} == set(), "no pipe stays open"


def test_egress_starts_without_cryptography():
    """It is needed with the first tunnel that is read."""
    program = "import sys, microclaw.egress.gate; print('cryptography' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "False"


class _Pipe:
    """`Incoming` of what is fed in pieces, and `Outgoing` that keeps what is written."""

    def __init__(self, pieces: list[bytes]) -> None:
        self.pieces = pieces
        self.ended = False
        self.out = b""

    async def read(self, _count: int, /) -> bytes:
        while not self.pieces and not self.ended:
            await asyncio.sleep(0)
        return self.pieces.pop(0) if self.pieces else b""

    def at_eof(self) -> bool:
        return not self.pieces

    def write(self, data: bytes, /) -> None:
        self.out += data

    async def drain(self) -> None:
        await asyncio.sleep(0)

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        raise AssertionError("what is below is not ours to end")


def cut(data: bytes, sizes: list[int]) -> list[bytes]:
    pieces = []
    for size in sizes:
        pieces.append(data[:size])
        data = data[size:]
    return [piece for piece in (*pieces, data) if piece]


AUTHORITIES = Authorities(Clock().ms)
TRUSTED = AUTHORITIES.of("w1").certificate.decode()


@settings(max_examples=60)
@given(
    said=st.lists(st.binary(max_size=40_000), max_size=4), answers=st.lists(st.binary(max_size=40_000), max_size=4),
    first=st.integers(min_value=0, max_value=3000),
    sizes=st.lists(st.integers(min_value=1, max_value=5000), max_size=12),
    version=st.sampled_from([ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]), goodbye=st.booleans(),
)
def test_all_that_is_said_within_tls_arrives_however_it_is_cut(said, answers, first, sizes, version, goodbye):
    asyncio.run(_exchange(said, answers, first, sizes, version, goodbye=goodbye))


async def _exchange(said, answers, first, sizes, version, *, goodbye) -> None:
    context = ssl.create_default_context(cadata=TRUSTED)
    context.verify_flags |= ANY_TIME
    context.minimum_version = context.maximum_version = version
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(incoming, outgoing, server_hostname="good.example")
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    hello = outgoing.read()
    pipe = _Pipe(cut(hello[first:], sizes))
    server = TlsStream(AUTHORITIES.context("w1", "good.example"), (pipe, pipe), first=hello[:first], bytes_max=1 << 20)
    shaking = asyncio.ensure_future(server.handshake())
    while not shaking.done():
        if pipe.out:
            incoming.write(pipe.out)
            pipe.out = b""
            with suppress(ssl.SSLWantReadError):
                client.do_handshake()
            pipe.pieces += cut(outgoing.read(), sizes)
        await asyncio.sleep(0)
    await shaking
    for data in said:
        if data:
            client.write(data)
    if goodbye:
        with pytest.raises(ssl.SSLWantReadError):
            client.unwrap()
    pipe.pieces += cut(outgoing.read(), sizes)
    pipe.ended = True
    got = b""
    while piece := await server.read(65_536):
        got += piece
    assert got == b"".join(said) and server.at_eof() and server.sent == len(got) and await server.read(1) == b""
    for data in answers:
        server.write(data)
        await server.drain()
    server.write_eof()
    incoming.write(pipe.out)
    heard = b""
    while len(heard) < len(b"".join(answers)):
        heard += client.read(65_536)
    assert heard == b"".join(answers) and server.received == len(heard)


async def test_more_than_may_be_carried_is_an_error_either_way():
    for way in ("sent", "received"):
        context = ssl.create_default_context(cadata=TRUSTED)
        context.verify_flags |= ANY_TIME
        ours, theirs = await _ends()
        server = TlsStream(AUTHORITIES.context("w1", "good.example"), ours, bytes_max=1000)
        shaking = asyncio.ensure_future(server.handshake())
        await theirs[1].start_tls(context, server_hostname="good.example")
        await shaking
        with pytest.raises(OverBytes, match="1000 bytes"):
            if way == "received":
                server.write(b"x" * 1000)
                server.write(b"x")
            theirs[1].write(b"x" * 1001)
            while await server.read(600):
                pass
        theirs[1].close()
        ours[1].close()


async def _ends():
    """Two ends of one connection."""
    accepted: asyncio.Future = asyncio.get_running_loop().create_future()
    server = await asyncio.start_server(lambda *streams: accepted.set_result(streams), "127.0.0.1", 0)
    dialled = await asyncio.open_connection("127.0.0.1", server.sockets[0].getsockname()[1])
    server.close()
    return await accepted, dialled
