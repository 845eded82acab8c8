"""From an allowed name to a checked address: resolved once, judged, and exactly what was judged is dialled."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from microclaw.core.egress_rules import Verdict, check_addresses
from microclaw.egress.upstream import Dial, dial_plain

#: For an answer of the resolver.
RESOLVE_S_MAX = 10.0
#: Addresses of one name that are looked at.
ADDRESSES_MAX = 16

#: The addresses of a name. :raises OSError: it has none.
Resolve = Callable[[str, int], Awaitable[list[str]]]


async def system_resolve(host: str, port: int) -> list[str]:
    """By this machine's resolver."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(item[4][0]) for item in found))


def is_own(address: str) -> bool:
    """Whether one of this machine's interfaces has this address: only then a socket can be bound to it."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((address, 0))
    except OSError:
        return False
    return True


def now_ms() -> int:
    """Unix milliseconds."""
    return time.time_ns() // 1_000_000


@dataclass(frozen=True, slots=True)
class World:
    """What egress has of the outside; a test puts another one in."""

    resolve: Resolve = system_resolve
    #: Is given exactly an address that was judged.
    dial: Dial = dial_plain
    is_own: Callable[[str], bool] = is_own
    tls: Callable[[], ssl.SSLContext] = ssl.create_default_context
    clock_ms: Callable[[], int] = now_ms


@dataclass(frozen=True, slots=True)
class Resolved:
    """What a name led to; `addresses` may be dialled if the verdict says so, and nothing else may."""

    verdict: Verdict
    addresses: tuple[str, ...] = ()


async def resolved(world: World, host: str, port: int) -> Resolved:
    """Resolve and judge. A name without an address is a refusal like any other."""
    try:
        async with asyncio.timeout(RESOLVE_S_MAX):
            addresses = (await world.resolve(host, port))[:ADDRESSES_MAX]
    except TimeoutError:
        return Resolved(Verdict(False, f"{host} could not be resolved within {RESOLVE_S_MAX:g} s: try again"))
    except OSError as error:
        return Resolved(Verdict(False, f"{host} could not be resolved ({error.strerror or error}): is the name right?"))
    own = [address for address in addresses if _is_address(address) and world.is_own(address)]
    return Resolved(check_addresses(host, addresses, own), tuple(addresses))


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
