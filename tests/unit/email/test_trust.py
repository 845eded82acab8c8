"""Whether a From is believed: by the believed server's own word about From's domain, and nothing else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from microclaw.email.trust import is_from_proven

ANN = "ann@example.org"
GOOD = "mx.me; dmarc=pass (p=none) header.from=example.org"


@pytest.mark.parametrize(
    ("headers", "proven"),
    [
        ([GOOD], True),
        (["mx.me; dkim=pass header.d=example.org; spf=fail smtp.mailfrom=evil.org"], True),
        (["mx.me; dkim=pass header.i=@example.org header.s=k header.b=abc"], True),
        (["MX.me 1;\r\n dkim=pass (good) header.d=example.org"], True),
        (["mx.me; spf=pass smtp.mailfrom=ann@example.org"], False),
        (["mx.me; dkim=pass header.d=evil.org"], False),
        (["mx.me; dkim=pass header.d=ample.org"], False),
        (["mx.me; dkim=fail header.d=example.org; dmarc=fail header.from=example.org"], False),
        (["mx.evil; dmarc=pass header.from=example.org"], False),
        (["mx.me; none", GOOD], False),
        (["mx.evil; none", GOOD], True),
        (["mx.me dmarc=pass", GOOD], False),
        ([], False),
    ],
)
def test_ac59_only_the_first_word_of_the_believed_server_counts(headers: list[str], proven: bool) -> None:
    assert is_from_proven(headers, "mx.me", ANN) is proven


def test_a_signature_of_the_parent_domain_counts_and_one_of_a_child_does_not() -> None:
    assert is_from_proven(["mx.me; dkim=pass header.d=example.org"], "mx.me", "a@mail.example.org")
    assert not is_from_proven(["mx.me; dkim=pass header.d=mail.example.org"], "mx.me", ANN)


@given(st.lists(st.text(max_size=100), max_size=3), st.text(max_size=20))
def test_whatever_stands_there_it_does_not_fail_and_nobody_is_believed_without_a_name(
    headers: list[str], name: str
) -> None:
    is_from_proven(headers, name, ANN)
    assert not is_from_proven(headers, "", ANN)
