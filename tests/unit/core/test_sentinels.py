"""Stand-ins for lent credentials: found wherever they may stand, replaced as each place writes text."""

from __future__ import annotations

import base64
import json
from urllib.parse import parse_qsl, unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from microclaw.core.errors import UsageError
from microclaw.core.sentinels import Binding, binding, found_in, in_body, in_header, in_target, refusal, sentinel

NAMES = st.from_regex(r"[A-Za-z][A-Za-z0-9_-]{0,40}", fullmatch=True)
#: What a secret store admits: printable, one line.
VALUES = st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z")), min_size=8, max_size=60)
AROUND = st.text(st.characters(codec="ascii", categories=("L", "N", "P", "S")), max_size=20).filter(
    lambda text: "mc-secret" not in text and not text.lower().startswith("basic")
)


def made(name: str, worker: str = "w1", key: bytes = b"k" * 32) -> str:
    return sentinel(key, worker, name)


@given(NAMES, AROUND)
def test_it_is_found_in_plain_in_basic_and_in_addresses(name: str, around: str) -> None:
    stand_in = made(name)
    basic = b"Basic " + base64.b64encode(f"user:{stand_in}".encode())
    for text in (f"{around} {stand_in}".encode(), f"{stand_in} {around}".encode(), basic):
        assert found_in(text) == {stand_in.encode()}
    assert found_in(around.encode()) == set()


@given(NAMES, VALUES, AROUND)
def test_each_place_reads_back_the_real_value(name: str, value: str, around: str) -> None:
    stand_in = made(name)
    values = {stand_in.encode(): value}
    document = {"a": [stand_in, around], stand_in: 1}
    swapped = json.loads(in_body(json.dumps(document).encode(), values, "application/json; charset=utf-8"))
    assert swapped == {"a": [value, around], value: 1}
    form = in_body(f"x=1&k={stand_in}&y=2".encode(), values, "application/x-www-form-urlencoded")
    assert parse_qsl(form.decode()) == [("x", "1"), ("k", value), ("y", "2")]
    assert in_body(f"<{stand_in}>".encode(), values, "text/plain").decode() == f"<{value}>"
    target = in_target(f"/p/{stand_in}?k={stand_in}".encode(), values).decode()
    assert unquote(target) == f"/p/{value}?k={value}" and " " not in target and target.count("?") == 1
    basic = in_header(b"Basic " + base64.b64encode(f"u:{stand_in}".encode()), values)
    assert base64.b64decode(basic.removeprefix(b"Basic ")).decode() == f"u:{value}"
    assert in_header(f"Bearer {stand_in}".encode(), values).decode() == f"Bearer {value}"


@given(st.binary(max_size=200))
def test_anything_can_be_looked_at_and_what_holds_none_stays(data: bytes) -> None:
    if not found_in(data):
        values = {made("x").encode(): "a-real-value"}
        assert in_header(data, values) == in_target(data, values) == in_body(data, values, "application/json") == data


def test_every_worker_name_and_installation_has_its_own() -> None:
    assert len({made("a"), made("a", "w2"), made("b"), made("a", key=b"l" * 32)}) == 4
    assert made("a") == made("a")


@pytest.mark.parametrize(("lent", "group", "host", "port", "why"), [
    (binding("x", ["a.example"], []), "home", "a.example", 443, ""),
    (binding("x", ["a.example:8443"], ["home"]), "home", "a.example", 8443, ""),
    (binding("x", ["a.example"], ["home"]), "work", "a.example", 443, "not lent to this worker"),
    (binding("x", ["a.example"], []), "home", "b.a.example", 443, "is for a.example:443 only"),
    (binding("x", ["a.example"], []), "home", "a.example", 8443, "is for a.example:443 only"),
    (None, "home", "a.example", 443, "not lent to this worker"),
])
def test_where_it_may_go(lent: Binding | None, group: str, host: str, port: int, why: str) -> None:
    said = refusal(lent, host, port, group)
    assert why in said and bool(said) == bool(why)


def test_a_binding_has_bounds_and_exact_hosts() -> None:
    assert binding("git-hub", ["A.Example.", "a.example:443"], ["g", "g"]) == Binding(
        "git-hub", (("a.example", 443),), ("g",)
    )
    assert binding("git-hub", ["a.example"], []).variable == "MC_SECRET_GIT_HUB"
    for hosts in (["*.a.example"], ["a.example:80"], ["127.0.0.1"], [f"h{number}.example" for number in range(21)]):
        with pytest.raises(UsageError):
            binding("x", hosts, [])
