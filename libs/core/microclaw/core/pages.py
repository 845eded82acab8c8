"""The way of pages: which address egress gets for `web_fetch`, and what of a request and its answer is left. Pure.

An address is all that goes out on this way. No method but GET, no body, no header and no credential of the caller: so
nobody who goes it, be it a program instead of the tool, can do more there than read a page.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import urlsplit

from microclaw.core.egress_rules import DEFAULT_PORT, PLAIN_PORT, parse_authority
from microclaw.core.errors import UsageError

#: At the door: this, and the page's whole address.
PREFIX = "/page/"
#: A longer page is cut.
PAGE_BYTES_MAX = 2_000_000

#: Of the server's answer: what a reader needs, nothing by which it could set something.
_SHOWN = (b"content-type", b"location")


@dataclass(frozen=True, slots=True)
class Page:
    """Where a page is."""

    host: str
    port: int
    tls: bool
    #: Path and query.
    target: str

    @property
    def where(self) -> str:
        """For rules and the audit log."""
        return f"{self.host}:{self.port}"

    def headers(self) -> list[tuple[bytes, bytes]]:
        """All that the server is told besides the address. Uncompressed, so that a secret in the answer is found."""
        host = self.host if self.port == (DEFAULT_PORT if self.tls else PLAIN_PORT) else self.where
        return [
            (b"host", host.encode()), (b"user-agent", b"microclaw"), (b"accept", b"text/*, */*;q=0.5"),
            (b"accept-encoding", b"identity"), (b"connection", b"close"),
        ]


def parse_page(target: str) -> Page:
    """The page of a request to `target` at the door. :raises UsageError: it is no address, or not one for pages."""
    address = target.removeprefix(PREFIX)
    try:
        parts = urlsplit(address)
    except ValueError as error:
        raise UsageError(f"{address[:80]!r} is not an address: {error}") from error
    if parts.scheme not in ("http", "https"):
        raise UsageError(f"{address[:80]!r} is not a page's address: write {PREFIX}https://host/…")
    tls = parts.scheme == "https"
    host, port = parse_authority(parts.netloc, DEFAULT_PORT if tls else PLAIN_PORT)
    if not tls and port != PLAIN_PORT:
        raise UsageError(f"unencrypted pages are got from port {PLAIN_PORT} only, not from {host}:{port}: use https")
    return Page(host, port, tls, (parts.path or "/") + (f"?{parts.query}" if parts.query else ""))


def refused_request(method: bytes, headers: Iterable[tuple[bytes, bytes]]) -> str:
    """Why this is more than asking for a page, "" = it is not."""
    if method != b"GET":
        return "on this way pages are read: GET alone"
    if any(name == b"transfer-encoding" or (name == b"content-length" and value != b"0") for name, value in headers):
        return "on this way pages are read: nothing is sent in a body"
    return ""


def shown(headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """What the reader is given of the answer's headers (names lower-case)."""
    return [(name, value) for name, value in headers if name in _SHOWN]
