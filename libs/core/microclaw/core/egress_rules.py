"""Where a sandbox may go: hosts, ports, addresses. Pure; what is not allowed by name is refused."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

from microclaw.core.errors import UsageError

#: The ways out, each named after the tool that goes it: pages that egress itself gets for the agent (`web_fetch`), and
#: whatever programs of the sandbox say to its proxy (`bash`, scripts, MCP servers). Which way it came is what egress
#: knows of a request; which tool sent it, it can't know. So the narrow way gives nobody more than pages.
Tool = Literal["web_fetch", "bash"]
TOOLS: tuple[Tool, ...] = get_args(Tool)

#: Whose TLS tunnels egress opens, to judge each request in them: all, those to hosts of a lent credential, or none.
ReadTls = Literal["all", "lent", "none"]

#: The port of a rule or a CONNECT that names none.
DEFAULT_PORT = 443
#: The one port on which unencrypted HTTP is carried, if a rule names it.
PLAIN_PORT = 80
HOST_CHARS_MAX = 253

_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")
_DIGITS = re.compile(r"[0-9]+|0x[0-9a-f]*")

#: Everything in IPv4 that is not a host on the public internet (IANA special-purpose registry), and addresses by
#: which clouds answer their own machines.
_REFUSED_V4 = tuple(ipaddress.IPv4Network(net) for net in (
    "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24",
    "192.0.2.0/24", "192.31.196.0/24", "192.52.193.0/24", "192.88.99.0/24", "192.168.0.0/16", "192.175.48.0/24",
    "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4", "168.63.129.16/32",
))
#: Of IPv6 only global unicast is let through, without the forms that carry an IPv4 address or are documentation.
_GLOBAL_V6 = ipaddress.IPv6Network("2000::/3")
_REFUSED_V6 = tuple(ipaddress.IPv6Network(net) for net in (
    "2001::/23", "2001:db8::/32", "2002::/16", "2620:4f:8000::/48", "3ffe::/16", "3fff::/20",
))
#: How an IPv6-only network writes IPv4 hosts (RFC 6052): judged by the IPv4 address inside.
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


@dataclass(frozen=True, slots=True)
class Rule:
    """One line of the list."""

    #: Exact, or `*.suffix`: every name below `suffix`, not `suffix` itself.
    host: str
    port: int
    allow: bool = True
    #: Whom it concerns; "" = all groups.
    group: str = ""
    #: `config` or `cli`.
    origin: str = "config"
    #: Which way out; "" = every one.
    tool: Tool | Literal[""] = ""
    #: Programs may also begin a WebSocket, where egress reads the request.
    websocket: bool = False
    #: Programs' TLS tunnels to it are never opened: what is in them, a WebSocket too, is not seen.
    opaque: bool = False

    def fits(self, host: str, port: int, group: str, tool: Tool) -> bool:
        """Whether the rule speaks of this."""
        if port != self.port or self.group not in ("", group) or self.tool not in ("", tool):
            return False
        return host.endswith(self.host[1:]) if self.host.startswith("*.") else host == self.host

    def __str__(self) -> str:
        """As people write it, the port always named."""
        words = (self.tool, "websocket" if self.websocket else "", "opaque" if self.opaque else "")
        return " ".join((f"{self.host}:{self.port}", *filter(None, words)))


@dataclass(frozen=True, slots=True)
class Verdict:
    """`reason` is one line for whoever asked, and for the audit log."""

    allowed: bool
    reason: str
    #: No rule names it: the owner may be asked. What a rule denies is not asked for.
    unnamed: bool = False
    #: Some rule that lets it through lets a WebSocket through, too.
    websocket: bool = False
    #: Some rule that lets it through keeps its tunnels unopened.
    opaque: bool = False


def parse_host(text: str) -> str:
    """A DNS name, lower case, no dot at its end. :raises UsageError: an address, or no name at all."""
    name = text.lower().removesuffix(".")
    labels = name.split(".")
    if name.startswith("[") or _DIGITS.fullmatch(labels[-1]):
        raise UsageError(f"{text[:80]!r} is an address: hosts are reached by name only")
    if len(name) > HOST_CHARS_MAX or not all(_LABEL.fullmatch(label) for label in labels):
        raise UsageError(f"{text[:80]!r} is not a host name: letters, digits, - and dots (other scripts as xn--…)")
    return name


def parse_port(text: str) -> int:
    """:raises UsageError:"""
    if not (text.isascii() and text.isdigit() and 0 < int(text[:6]) < 65536 and len(text) <= 5):
        raise UsageError(f"{text[:20]!r} is not a port: 1 to 65535")
    return int(text)


def parse_authority(text: str, default_port: int = DEFAULT_PORT) -> tuple[str, int]:
    """(host, port) of `host[:port]`. :raises UsageError:"""
    host, colon, port = text.rpartition(":")
    if not colon or text.endswith("]"):
        return parse_host(text), default_port
    return parse_host(host), parse_port(port)


def parse_rule(
    text: str, *, allow: bool = True, group: str = "", origin: str = "config", tool: str = "", websocket: bool = False,
    opaque: bool = False,
) -> Rule:
    """A rule as people write it: `host`, `host:port`, `*.suffix[:port]`; behind it, in any order, `web_fetch` or `bash`
    (else it is for both), `websocket`, `opaque`. The arguments add to what is written.

    :raises UsageError: it is none, contradicts itself, or is so wide that it would let everything through.
    """
    place, *words = text.split(" ")
    if "/" in place:
        raise UsageError(f"{text[:80]!r} has a / in it: write the host alone, as host, host:port or *.host")
    for word in dict.fromkeys(words):
        if words.count(word) > 1 or word not in (*TOOLS, "websocket", "opaque"):
            raise UsageError(
                f"{text[:80]!r} is not a rule: behind the host only {' or '.join(TOOLS)}, websocket, opaque, each once"
            )
    named: list[Tool] = [known for known in TOOLS if known == tool or known in words]
    if len(named) > 1 or tool not in ("", *TOOLS):
        raise UsageError(f"{text[:80]!r} is for one of {' or '.join(TOOLS)}, or for both with neither named")
    wild = place.startswith("*.")
    host, port = parse_authority(place[2:] if wild else place)
    if wild and "." not in host:
        raise UsageError(f"{place!r} would let a whole top-level domain through: name a narrower one")
    websocket, opaque = websocket or "websocket" in words, opaque or "opaque" in words
    if (websocket or opaque) and (not allow or named == ["web_fetch"]):
        why = "web_fetch only reads pages" if allow else "a deny is for everything"
        raise UsageError(f"{place!r}: websocket and opaque are of what is allowed to programs, and {why}")
    return Rule(f"*.{host}" if wild else host, port, allow, group, origin, named[0] if named else "", websocket, opaque)


def decide(rules: Iterable[Rule], host: str, port: int, group: str, tool: Tool) -> Verdict:
    """Whether `group` may go to `host:port` (as `parse_authority` gives them) by this way. A deny beats every allow."""
    rules = list(rules)
    fitting = [rule for rule in rules if rule.fits(host, port, group, tool)]
    where = f"{host}:{port}"
    for rule in fitting:
        if not rule.allow:
            return Verdict(False, f"{where} is denied by the rule {rule}")
    if fitting:
        return Verdict(
            True, f"{where} is allowed by the rule {fitting[0]}", websocket=any(rule.websocket for rule in fitting),
            opaque=any(rule.opaque for rule in fitting),
        )
    name = host if port == DEFAULT_PORT else where
    whose, option = f"of group {group}" if group else "of all groups", _option(group)
    # For programs it is not on the list, though it may be for pages; the other way round, too.
    others = [other for other in TOOLS if any(r.allow and r.fits(host, port, group, other) for r in rules)]
    if others:
        whose, option = f"{whose} for {tool}, only for {others[0]}", f"{option} --tool {tool}"
    return Verdict(
        False, f"{where} is not on the allow-list {whose}: the owner may add it with "
        f"`microclaw egress allow {name}{option}`",
        unnamed=True,
    )


def reads_tls(wanted: ReadTls, *, opaque: bool, lent: bool) -> bool:
    """Whether a tunnel is opened. `opaque`: a rule says not to. `lent`: a credential is lent to the group for there."""
    return not opaque and (wanted == "all" or (wanted == "lent" and lent))


def websocket_refused(host: str, port: int, group: str) -> str:
    """What is said where the host is allowed, but no WebSocket."""
    name = host if port == DEFAULT_PORT else f"{host}:{port}"
    return (
        f"no rule lets a WebSocket to {host}:{port} begin: the owner may add one with "
        f"`microclaw egress allow {name}{_option(group)} --websocket`"
    )


def unopened(host: str, port: int, group: str) -> str:
    """What is said where egress opened a tunnel that is not for it to read."""
    name = host if port == DEFAULT_PORT else f"{host}:{port}"
    return (
        "egress reads what goes there; what is not HTTP/1.1, or trusts certificates of its own alone, passes unread "
        f"where the owner says so: `microclaw egress allow {name}{_option(group)} --opaque`"
    )


def _option(group: str) -> str:
    return f" --group {group}" if group else ""


def refused_address(text: str) -> str:
    """Why no connection may go to this IP address; "" = it is a public one."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return f"{text[:60]!r} is not an IP address"
    if isinstance(address, ipaddress.IPv6Address):
        if address.scope_id is not None:
            return f"{address} is an address of one link only"
        if address in _NAT64:
            inside = ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
            return f"{address} leads to {reason}" if (reason := refused_address(str(inside))) else ""
        if address not in _GLOBAL_V6 or any(address in net for net in _REFUSED_V6):
            return f"{address} is not a public address"
        return ""
    return f"{address} is not a public address" if any(address in net for net in _REFUSED_V4) else ""


def check_addresses(host: str, addresses: Iterable[str], own: Iterable[str]) -> Verdict:
    """Whether a name that resolves to `addresses` may be dialled; `own` are those that are this machine's.

    One bad address is enough to refuse the name: a mix of public and private ones is how rebinding begins.
    """
    found = list(addresses)
    if not found:
        return Verdict(False, f"{host} has no address: is the name right?")
    for address in found:
        if reason := refused_address(address):
            return Verdict(False, f"{host} leads into a private network: {reason}")
    for address in own:
        return Verdict(False, f"{host} leads to this machine itself ({address})")
    return Verdict(True, f"{host} is at {found[0]}")
