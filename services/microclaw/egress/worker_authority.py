"""A certificate authority a worker, by which egress reads the TLS of its programs.

The worker's sandbox trusts it, and nobody else does. Keys are in the memory of this process alone: after a restart
there is a new authority, whose certificate the worker fetches anew (`read_tunnel.py`).

Import it when the first one is needed: `cryptography` takes some 40 ms and 12 MB.
"""

from __future__ import annotations

import hashlib
import os
import ssl
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import BinaryIO

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

#: A sandbox's clock may be behind ours.
SKEW = timedelta(days=1)
AUTHORITY_LIFE = timedelta(days=30)
#: An authority is made anew while it still outlives the certificates that it signs.
AUTHORITY_LEFT = timedelta(days=7)
LEAF_LIFE = timedelta(days=2)
LEAF_LEFT = timedelta(hours=12)
#: Hosts' contexts that are kept, all workers together. One takes about a millisecond to make.
LEAVES_MAX = 256
#: Characters of an authority's fingerprint.
FINGERPRINT_CHARS = 32

#: Authority and leaf must not be called the same: a chain ends at a certificate that names itself.
_AUTHORITY_NAME = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "MicroClaw egress")])
#: Programs read the alternative name alone; a common name has no room for a long host.
_LEAF_NAME = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a host, read by MicroClaw egress")])


@dataclass(frozen=True, slots=True, repr=False)
class Authority:
    """One worker's."""

    #: PEM: what its sandbox trusts.
    certificate: bytes
    #: Tells it from an older authority of the same worker.
    fingerprint: str
    made: datetime
    key: ec.EllipticCurvePrivateKey
    #: One for all hosts.
    leaf_key: ec.EllipticCurvePrivateKey


class Authorities:
    """All workers' authorities, and the TLS contexts of hosts that are read."""

    def __init__(self, clock_ms: Callable[[], int]) -> None:
        self._clock_ms = clock_ms
        self._by_worker: dict[str, Authority] = {}
        #: (fingerprint of the authority, host) → the context and when it was made, the last used one last.
        self._contexts: OrderedDict[tuple[str, str], tuple[ssl.SSLContext, datetime]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._by_worker)

    def of(self, worker_id: str) -> Authority:
        """This worker's; made if it has none, one that ends soon, or (our clock was set back) one not good yet."""
        now = self._now()
        known = self._by_worker.get(worker_id)
        if known is None or not _is_good(known.made, AUTHORITY_LIFE - AUTHORITY_LEFT, now):
            self.forget(worker_id)
            known = self._by_worker[worker_id] = new_authority(now)
        return known

    def context(self, worker_id: str, host: str) -> ssl.SSLContext:
        """What a server called `host` uses towards this worker."""
        authority, now = self.of(worker_id), self._now()
        place = authority.fingerprint, host
        found = self._contexts.pop(place, None)
        if found is None or not _is_good(found[1], LEAF_LIFE - LEAF_LEFT, now):
            found = _context(new_leaf(authority, host, now), authority), now
        self._contexts[place] = found
        if len(self._contexts) > LEAVES_MAX:
            self._contexts.popitem(last=False)
        return found[0]

    def forget(self, worker_id: str) -> None:
        """The worker is gone, and with it its authority."""
        gone = self._by_worker.pop(worker_id, None)
        for place in [place for place in self._contexts if gone and place[0] == gone.fingerprint]:
            del self._contexts[place]

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._clock_ms() / 1000, UTC)


def new_authority(now: datetime) -> Authority:
    """One that has signed nothing yet."""
    key = ec.generate_private_key(ec.SECP256R1())
    builder = _builder(_AUTHORITY_NAME, key.public_key(), now, now + AUTHORITY_LIFE)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    certificate = _signed(builder.add_extension(_usage(authority=True), critical=True), key)
    return Authority(
        certificate, hashlib.sha256(certificate).hexdigest()[:FINGERPRINT_CHARS], now, key,
        ec.generate_private_key(ec.SECP256R1()),
    )


def new_leaf(authority: Authority, host: str, now: datetime) -> bytes:
    """A certificate (PEM) for a server called `host`. It has all that strict verifiers ask for (RFC 5280)."""
    builder = _builder(_LEAF_NAME, authority.leaf_key.public_key(), now, now + LEAF_LIFE)
    issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key())
    for extension, critical in (
        (x509.SubjectAlternativeName([x509.DNSName(host)]), False),
        (x509.BasicConstraints(ca=False, path_length=None), True),
        (_usage(authority=False), True),
        (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), False),
        (issuer, False),
    ):
        builder = builder.add_extension(extension, critical)
    return _signed(builder, authority.key)


# --- inside -------------------------------------------------------------------------------------------------------


def _is_good(made: datetime, life: timedelta, now: datetime) -> bool:
    return made - SKEW <= now < made + life


def _builder(
    subject: x509.Name, public: ec.EllipticCurvePublicKey, now: datetime, ends: datetime,
) -> x509.CertificateBuilder:
    return x509.CertificateBuilder(
        issuer_name=_AUTHORITY_NAME, subject_name=subject, public_key=public,
        serial_number=x509.random_serial_number(), not_valid_before=now - SKEW, not_valid_after=ends,
    ).add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)


def _usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority, key_cert_sign=authority, crl_sign=authority, content_commitment=False,
        key_encipherment=False, data_encipherment=False, key_agreement=False, encipher_only=False, decipher_only=False,
    )


def _signed(builder: x509.CertificateBuilder, key: ec.EllipticCurvePrivateKey) -> bytes:
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def _context(leaf: bytes, authority: Authority) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # Each context has few connections: a ticket would be made for nothing. Who ends without a goodbye may still listen.
    context.options |= ssl.OP_NO_TICKET | ssl.OP_NO_RENEGOTIATION | getattr(ssl, "OP_IGNORE_UNEXPECTED_EOF", 0)
    context.num_tickets = 0
    context.set_alpn_protocols(["http/1.1"])
    key = authority.leaf_key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    # `load_cert_chain` knows files only. A pipe is one that never touches a disk.
    with _piped(leaf) as certificate, _piped(key) as private:
        context.load_cert_chain(f"/dev/fd/{certificate.fileno()}", f"/dev/fd/{private.fileno()}")
    return context


def _piped(content: bytes) -> BinaryIO:
    """`content` to be read from a pipe; it fits into the least that a kernel holds (4 KiB)."""
    reading, writing = os.pipe()
    with os.fdopen(writing, "wb") as pipe:
        pipe.write(content)
    return os.fdopen(reading, "rb")
