"""Who may go where, and to which addresses nobody may."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from microclaw.core.egress_rules import (
    TOOLS,
    Rule,
    Tool,
    Verdict,
    check_addresses,
    decide,
    parse_authority,
    parse_host,
    parse_rule,
    reads_tls,
    refused_address,
)
from microclaw.core.errors import UsageError


def allowed(rules: list[str], where: str, group: str = "g") -> bool:
    host, port = parse_authority(where)
    return decide([parse_rule(rule) for rule in rules], host, port, group, "bash").allowed


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

    def ruled(host: str, group: str) -> Verdict:
        return decide(rules, host, 443, group, "bash")

    assert ruled("y.a.example", "home").allowed and "denied by the rule" in ruled("x.a.example", "home").reason
    assert ruled("b.example", "work").allowed and not ruled("b.example", "home").allowed
    assert ruled("c.example", "home").allowed and not ruled("c.example", "work").allowed


def test_a_rule_for_one_tool_says_nothing_of_the_other_and_the_refusal_tells_what_to_add():
    rules = [
        parse_rule("a.example web_fetch"), parse_rule("x.b.example", allow=False, tool="bash"),
        parse_rule("*.b.example"),
    ]
    assert decide(rules[:1], "a.example", 443, "home", "web_fetch").allowed
    refused = decide(rules[:1], "a.example", 443, "home", "bash")
    assert not refused.allowed and refused.unnamed and "for bash, only for web_fetch" in refused.reason
    assert "`microclaw egress allow a.example --group home --tool bash`" in refused.reason
    assert not decide(rules, "x.b.example", 443, "home", "bash").allowed
    assert decide(rules, "x.b.example", 443, "home", "web_fetch").allowed


def test_websocket_and_opaque_are_given_by_the_rules_that_fit_and_by_no_other():
    rules = [
        parse_rule("*.a.example"), parse_rule("x.a.example websocket"), parse_rule("y.a.example opaque", group="work"),
        parse_rule("z.a.example websocket"), parse_rule("z.a.example", allow=False),
    ]

    def ruled(host: str, group: str, tool: Tool = "bash") -> tuple[bool, bool, bool]:
        verdict = decide(rules, host, 443, group, tool)
        return verdict.allowed, verdict.websocket, verdict.opaque

    assert ruled("x.a.example", "home") == (True, True, False) and ruled("w.a.example", "home") == (True, False, False)
    assert ruled("y.a.example", "work") == (True, False, True) and ruled("y.a.example", "home") == (True, False, False)
    assert ruled("z.a.example", "home") == (False, False, False)


@pytest.mark.parametrize(("text", "rule"), [
    ("a.example websocket", Rule("a.example", 443, websocket=True)),
    ("*.a.example:8443 web_fetch", Rule("*.a.example", 8443, tool="web_fetch")),
    ("a.example opaque bash websocket", Rule("a.example", 443, tool="bash", websocket=True, opaque=True)),
])
def test_words_behind_the_host_say_by_which_way_and_what_besides(text, rule):
    assert parse_rule(text) == rule


@pytest.mark.parametrize(("text", "more", "why"), [
    ("a.example wss", {}, "behind the host only"), ("a.example  bash", {}, "behind the host only"),
    ("a.example bash bash", {}, "each once"), ("a.example Bash", {}, "behind the host only"),
    ("a.example bash web_fetch", {}, "for one of"), ("a.example bash", {"tool": "web_fetch"}, "for one of"),
    ("a.example", {"tool": "curl"}, "for one of"), ("a.example web_fetch websocket", {}, "only reads pages"),
    ("a.example web_fetch", {"opaque": True}, "only reads pages"), ("https://a.example", {}, "has a / in it"),
    ("a.example websocket", {"allow": False}, "a deny is for everything"), (" a.example", {}, "behind the host only"),
])
def test_a_rule_that_contradicts_itself_is_refused_in_one_line(text, more, why):
    with pytest.raises(UsageError, match=why) as error:
        parse_rule(text, **more)
    assert "\n" not in str(error.value)


HOSTS = ("a.example", "b.a.example", "c.b.a.example", "d.example")
GROUPS = ("", "home", "work")


@st.composite
def rules_of(draw: st.DrawFn) -> Rule:
    allow, tool = draw(st.booleans()), draw(st.sampled_from(("", *TOOLS)))
    host = draw(st.sampled_from((*HOSTS, "*.a.example", "*.b.a.example")))
    more = st.booleans() if allow and tool != "web_fetch" else st.just(False)
    return Rule(host, draw(st.sampled_from((80, 443))), allow, draw(st.sampled_from(GROUPS)), "config", tool,
                draw(more), draw(more))


QUESTIONS = [
    (host, port, group, tool) for host in HOSTS for port in (80, 443) for group in GROUPS[1:] for tool in TOOLS
]


@given(rules_of())
def test_a_rule_is_read_as_it_is_written(rule):
    assert parse_rule(str(rule), allow=rule.allow, group=rule.group) == rule


@given(st.lists(rules_of(), max_size=8), rules_of())
def test_one_more_deny_never_widens_and_one_more_allow_changes_nothing_but_its_own_group_and_tool(rules, one):
    for question in QUESTIONS:
        before, after = decide(rules, *question), decide([*rules, one], *question)
        if not one.fits(*question):
            assert (after.allowed, after.websocket, after.opaque, after.unnamed) == (
                before.allowed, before.websocket, before.opaque, before.unnamed
            ), question
        elif not one.allow:
            assert not after.allowed and not after.websocket and not after.opaque and not after.unnamed
        else:
            assert after.allowed >= before.allowed
            assert after.websocket == (after.allowed and (before.websocket or one.websocket))


@given(st.lists(rules_of(), max_size=8), st.randoms())
def test_the_order_of_rules_decides_nothing(rules, random):
    mixed = random.sample(rules, len(rules))
    for question in QUESTIONS:
        a, b = decide(rules, *question), decide(mixed, *question)
        assert (a.allowed, a.websocket, a.opaque, a.unnamed) == (b.allowed, b.websocket, b.opaque, b.unnamed)
        fitting = [rule for rule in rules if rule.fits(*question)]
        assert a.allowed == (bool(fitting) and all(rule.allow for rule in fitting))


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


@pytest.mark.parametrize(("wanted", "lent", "reads"), [
    ("all", False, True), ("all", True, True), ("lent", False, False), ("lent", True, True), ("none", True, False),
])
def test_tunnels_are_opened_as_the_setting_says_and_never_where_a_rule_says_opaque(wanted, lent, reads):
    assert reads_tls(wanted, opaque=False, lent=lent) is reads
    assert reads_tls(wanted, opaque=True, lent=lent) is False
