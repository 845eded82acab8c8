"""Which addresses egress gets, and what it says to their servers."""

from __future__ import annotations

import string

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from microclaw.core.egress_rules import parse_host
from microclaw.core.errors import UsageError
from microclaw.core.pages import PREFIX, parse_page, refused_request, shown


@pytest.mark.parametrize(("address", "where", "tls", "target", "host"), [
    ("https://A.example./x?y=1#z", "a.example:443", True, "/x?y=1", b"a.example"),
    ("https://a.example", "a.example:443", True, "/", b"a.example"),
    ("https://a.example:8443?q", "a.example:8443", True, "/?q", b"a.example:8443"),
    ("http://a.example/", "a.example:80", False, "/", b"a.example"),
    ("https://a.example:80/", "a.example:80", True, "/", b"a.example:80"),
])
def test_an_address_says_where_a_page_is(address, where, tls, target, host):
    page = parse_page(PREFIX + address)
    assert (page.where, page.tls, page.target) == (where, tls, target)
    assert dict(page.headers())[b"host"] == host


#: Whatever h11 lets through in a target, the telling ones more often.
VISIBLE = st.sampled_from(string.printable[:94] + "\\@:/" * 8 + "a.e" * 5)


@given(st.text(VISIBLE, max_size=30), st.sampled_from(("https://", "http://", "")))
def test_ac38_whatever_is_asked_for_is_a_clean_name_and_one_request_or_refused(text, scheme):
    try:
        page = parse_page(f"{PREFIX}{scheme}{text}")
    except UsageError:
        return
    assert parse_host(page.host) == page.host and 0 < page.port < 65536 and (page.tls or page.port == 80)
    sent = h11.Connection(h11.CLIENT).send(h11.Request(method="GET", target=page.target, headers=page.headers()))
    assert sent is not None and sent.startswith(b"GET /") and sent.count(b"\r\n\r\n") == 1


def test_a_page_is_read_and_nothing_is_sent_or_set():
    assert refused_request(b"GET", [(b"content-length", b"0"), (b"cookie", b"a=b")]) == ""
    assert "GET alone" in refused_request(b"POST", [])
    assert "body" in refused_request(b"GET", [(b"content-length", b"1")])
    assert "body" in refused_request(b"GET", [(b"transfer-encoding", b"chunked")])
    kept = [(b"content-type", b"text/html"), (b"location", b"/x")]
    assert shown([*kept, (b"set-cookie", b"a=b"), (b"x-egress-reason", b"forged"), (b"refresh", b"0")]) == kept
