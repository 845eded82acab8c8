"""What workers' programs trust so that egress can read their TLS: given out at the door, made when first needed."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from typing import TYPE_CHECKING

import h11

from microclaw.core.egress_rules import ReadTls, reads_tls
from microclaw.core.model_route import Headers
from microclaw.core.sentinels import Binding
from microclaw.egress.connection import answer, refuse
from microclaw.egress.doors import Owner
from microclaw.egress.http_messages import Wire

if TYPE_CHECKING:
    from microclaw.egress.worker_authority import Authorities

#: By this header a worker learns which authority is in force, for ours may be another one since we were started anew.
AUTHORITY_HEADER = b"x-egress-authority"


class Trust:
    """Each worker's authority, if tunnels are read at all."""

    def __init__(self, read_tls: ReadTls, *, clock_ms: Callable[[], int]) -> None:
        self._read_tls = read_tls
        self._clock_ms = clock_ms
        self._made: Authorities | None = None

    def reads(self, host: str, port: int, *, opaque: bool, lent: list[Binding]) -> bool:
        """Whether a tunnel there is opened, for a group with these credentials."""
        return reads_tls(self._read_tls, opaque=opaque, lent=any((host, port) in item.hosts for item in lent))

    def context(self, owner: Owner, host: str) -> ssl.SSLContext:
        """What a server called `host` uses towards this worker."""
        return self._authorities().context(owner.worker_id, host)

    def mark(self, owner: Owner) -> Headers:
        """The header that names the worker's authority; none if it has none."""
        if self._read_tls == "none":
            return []
        return [(AUTHORITY_HEADER, self._authorities().of(owner.worker_id).fingerprint.encode())]

    async def handle(self, owner: Owner, wire: Wire, _request: h11.Request) -> bool:
        """`GET /authority.pem`. :raises Closed:"""
        if self._read_tls == "none":
            await refuse(wire, 404, "no tunnel is read here: the configuration says read_tls = \"none\"")
        else:
            certificate = self._authorities().of(owner.worker_id).certificate
            await answer(wire, 200, certificate, self.mark(owner), phrase=b"OK", kind=b"application/x-pem-file")
        return False

    def forget(self, worker_id: str) -> None:
        """The worker is gone."""
        if self._made is not None:
            self._made.forget(worker_id)

    def _authorities(self) -> Authorities:
        if self._made is None:
            from microclaw.egress.worker_authority import Authorities

            self._made = Authorities(self._clock_ms)
        return self._made
