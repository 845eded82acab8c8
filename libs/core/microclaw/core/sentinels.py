"""Sentinels: what stands in a sandbox for a credential that is lent to an agent. Pure.

A sentinel is worth nothing by itself. Egress puts the real value in its place in requests of that one worker to the
hosts that the owner bound the credential to, and refuses it anywhere else.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from urllib.parse import quote, quote_plus

from microclaw.core.egress_rules import DEFAULT_PORT, PLAIN_PORT, parse_authority
from microclaw.core.errors import UsageError

#: Hosts and groups of one credential.
HOSTS_MAX = 20
GROUPS_MAX = 100

_VARIABLE = "MC_SECRET_"
_SHAPE = re.compile(rb"mc-secret-[A-Za-z][A-Za-z0-9_-]{0,63}?-[0-9a-f]{32}(?![0-9a-f])")
_BASIC = re.compile(rb"\A(Basic +)([A-Za-z0-9+/]+=*)\Z", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Binding:
    """Where a credential may be used, and by whom."""

    name: str
    #: (host, port), exact.
    hosts: tuple[tuple[str, int], ...]
    #: Groups' folders; empty = all.
    groups: tuple[str, ...] = ()

    def serves(self, group: str) -> bool:
        """Whether this group is lent it."""
        return not self.groups or group in self.groups

    @property
    def variable(self) -> str:
        """Its name in the environment inside."""
        return _VARIABLE + self.name.upper().replace("-", "_")

    @property
    def places(self) -> str:
        """Its hosts, for a text."""
        return ", ".join(f"{host}:{port}" for host, port in self.hosts)


def binding(name: str, hosts: Iterable[str], groups: Iterable[str]) -> Binding:
    """As people write it: hosts are `host` or `host:port`. :raises UsageError: it can't be one."""
    found = []
    for text in hosts:
        if text.startswith("*."):
            raise UsageError(f"{text!r} is many hosts: a credential is bound to each of its hosts by name")
        host, port = parse_authority(text)
        if port == PLAIN_PORT:
            raise UsageError(f"{text!r} would send the credential unencrypted: name a port that speaks TLS")
        found.append((host, port))
    made = Binding(name, tuple(dict.fromkeys(found)), tuple(dict.fromkeys(groups)))
    if len(made.hosts) > HOSTS_MAX or len(made.groups) > GROUPS_MAX:
        raise UsageError(f"a credential is bound to at most {HOSTS_MAX} hosts and {GROUPS_MAX} groups")
    return made


def sentinel(key: bytes, worker_id: str, name: str) -> str:
    """This worker's stand-in for the credential. `key` is the installation's own, so that nobody can guess one."""
    digest = hmac.new(key, f"{worker_id}\0{name}".encode(), hashlib.sha256).hexdigest()
    return f"mc-secret-{name}-{digest[:32]}"


def found_in(data: bytes) -> set[bytes]:
    """All that look like sentinels in a header's value, an address or a body; also within `Basic …`."""
    plain = _basic(data)
    return set(_SHAPE.findall(data)) | (set(_SHAPE.findall(plain)) if plain else set())


def in_header(data: bytes, values: Mapping[bytes, str]) -> bytes:
    """A header's value with the sentinels replaced by real ones, within `Basic …` too."""
    if plain := _basic(data):
        swapped = _replaced(plain, values, lambda value: value)
        if swapped != plain:
            scheme = _BASIC.match(data)
            return (scheme[1] if scheme else b"Basic ") + base64.b64encode(swapped)
    return _replaced(data, values, lambda value: value)


def in_target(data: bytes, values: Mapping[bytes, str]) -> bytes:
    """A request's path and query with the real values, as URLs write them."""
    return _replaced(data, values, lambda value: quote(value, safe=""))


def in_body(data: bytes, values: Mapping[bytes, str], content_type: str) -> bytes:
    """A body with the real values, as its type writes them."""
    kind = content_type.partition(";")[0].strip().lower()
    if kind == "application/json" or kind.endswith("+json"):
        return _replaced(data, values, lambda value: json.dumps(value)[1:-1])
    if kind == "application/x-www-form-urlencoded":
        return _replaced(data, values, quote_plus)
    return _replaced(data, values, lambda value: value)


def refusal(binding: Binding | None, host: str, port: int, group: str) -> str:
    """Why a credential can't go there; "" = it may. None: the sentinel is not one of this worker's."""
    where = host if port == DEFAULT_PORT else f"{host}:{port}"
    if binding is None or not binding.serves(group):
        return f"it holds a credential that is not lent to this worker: nothing was sent to {where}"
    if (host, port) not in binding.hosts:
        return f"the credential {binding.name} is for {binding.places} only: nothing was sent to {where}"
    return ""


def _replaced(data: bytes, values: Mapping[bytes, str], written: Callable[[str], str]) -> bytes:
    for stand_in, value in values.items():
        data = data.replace(stand_in, written(value).encode())
    return data


def _basic(data: bytes) -> bytes:
    found = _BASIC.match(data)
    if not found:
        return b""
    try:
        return base64.b64decode(found[2], validate=True)
    except binascii.Error:
        return b""
