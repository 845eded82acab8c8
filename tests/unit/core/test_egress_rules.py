"""Who may go where, and to which addresses nobody may."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from microclaw.core.egress_rules import (
    check_addresses,
    decide,
    parse_authority,
    parse_host,
    parse_rule,
    refused_address,
)
from microclaw.core.errors import UsageError


def allowed(rules: list[str], where: str, group: str = "g") -> bool:
    host, port = parse_authority(where)
    return decide([parse_rule(rule) for rule in rules], host, port, group).allowed


@pytest.mark.parametrize(("rule", "where", "expected"), [
    ("a.example", "a.example:443", True), ("a.example", "A.Example.:443", True), ("a.example", "a.example:80", False),
    ("a.example:8443", "a.example:8443", True), ("a.example:8443", "a.example", False),
    ("a.example", "b.a.example", False), ("a.example", "xa.example", False), ("a.example", "a.example.evil", False),
    ("*.a.example", "b.a.example", True), ("*.a.example", "c.b.a.example", True), ("*.a.example", "a.example", False),
    ("*.a.example", "xa.example", False), ("*.a.example:80", "b.a.example:80", True),
])
def test_ac38_host_and_port_must_fit_exactly(rule, where, expected):
    assert allowed([rule], where) is expected


def test_ac38_nothing_is_allowed_without_a_rule():
    assert not allowed([], "a.example")


def test_a_deny_beats_every_allow_and_groups_do_not_share():
    rules = [
        parse_rule("*.a.example"), parse_rule("x.a.example", allow=False), parse_rule("b.example", group="work"),
        parse_rule("c.example"), parse_rule("c.example", allow=False, group="work"),
    ]
    assert decide(rules, "y.a.example", 443, "home").allowed
    assert "denied by the rule" in decide(rules, "x.a.example", 443, "home").reason
    assert decide(rules, "b.example", 443, "work").allowed and not decide(rules, "b.example", 443, "home").allowed
    assert decide(rules, "c.example", 443, "home").allowed and not decide(rules, "c.example", 443, "work").allowed


@pytest.mark.parametrize("text", [
    "", ".", "a..b", "-a.example", "a-.example", "127.0.0.1", "[::1]", "::1", "1", "0x7f.1", "127.1", "a.1", "a b",
    "a/b", "a@b", "ü.example", "a" * 64 + ".example", "a." * 130 + "example", "a\n", "*", "*.", "*.com",
    "*.*.example", "x.*.example",
    "a.example:", "a.example:0", "a.example:65536", "a.example:-1", "a.example:4 4", "a.example:٤٤", "http://a.example",
])
def test_what_is_no_rule_is_refused(text):
    with pytest.raises(UsageError):
        parse_rule(text)


@given(st.text(max_size=30))
def test_whatever_a_client_asks_for_is_a_clean_name_or_refused(text):
    try:
        host = parse_host(text)
    except UsageError:
        return
    assert host == host.lower() and set(host) <= set("abcdefghijklmnopqrstuvwxyz0123456789-_.") and ".." not in host
    with pytest.raises(ValueError, match="does not appear to be"):
        ipaddress.ip_address(host)


@given(st.ip_addresses(v=4))
def test_ac38_no_special_ipv4_address_is_public_in_any_form(address):
    refused = bool(refused_address(str(address)))
    if not address.is_global or address.is_multicast:
        assert refused
    packed = int(address)
    assert bool(refused_address(str(ipaddress.IPv6Address((0x64FF9B << 96) | packed)))) is refused
    for form in (0xFFFF << 32 | packed, packed, 0x2002 << 112 | packed << 80, 0x20010000 << 96 | packed ^ 0xFFFFFFFF):
        assert refused_address(str(ipaddress.IPv6Address(form)))


@given(st.ip_addresses(v=6))
def test_ac38_no_special_ipv6_address_is_public(address):
    if not address.is_global or address.is_multicast:
        assert refused_address(str(address)) or address in ipaddress.IPv6Network("64:ff9b::/96")


@pytest.mark.parametrize("address", [
    "127.0.0.1", "10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1", "169.254.169.254", "100.64.0.1",
    "100.127.255.255", "0.0.0.0", "224.0.0.1", "255.255.255.255", "192.0.0.192", "168.63.129.16", "::", "::1",
    "fe80::1", "fec0::1",
    "fc00::1", "fd00:ec2::254", "ff02::1", "::ffff:8.8.8.8", "::8.8.8.8", "2002:808:808::", "2001::1", "64:ff9b::a00:1",
    "64:ff9b:1::808:808", "2001:db8::1", "3fff::1", "fe80::1%1", "2606:4700::1%eth0", "nonsense", "",
])
def test_ac38_private_metadata_and_wrapped_addresses_are_refused(address):
    assert refused_address(address)


@pytest.mark.parametrize("address", [
    "8.8.8.8", "93.184.215.14", "100.128.0.1", "172.32.0.1", "2606:4700::1111", "64:ff9b::808:808",
])
def test_public_addresses_pass(address):
    assert refused_address(address) == ""


def test_ac38_one_bad_address_refuses_the_name():
    assert check_addresses("a.example", ["8.8.8.8"], []).allowed
    assert not check_addresses("a.example", ["8.8.8.8", "10.0.0.1"], []).allowed
    assert not check_addresses("a.example", ["8.8.8.8"], ["8.8.8.8"]).allowed
    assert not check_addresses("a.example", [], []).allowed
