"""Files: what they are their content says; their names can't do harm."""

from __future__ import annotations

from pathlib import PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from microclaw.channel.media import NAME_CHARS_MAX, mime_of, safe_name


@pytest.mark.parametrize(
    ("data", "name", "mime"),
    [
        (b"\x89PNG\r\n\x1a\n" + bytes(30), "cat.txt", "image/png"),
        (b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n", "x", "application/pdf"),
        (b"\xff\xd8\xff\xe0\x00\x10JFIF\x00\x01" + bytes(20), "x.pdf", "image/jpeg"),
        ("grüße".encode(), "x", "text/plain"), (b"# title\n", "readme.md", "text/markdown"),
        (bytes(range(256)), "x.txt", "application/octet-stream"),
    ],
)
def test_pain28_what_a_file_is_its_content_says(data: bytes, name: str, mime: str) -> None:
    assert mime_of(data, name) == mime


@given(st.binary(max_size=300), st.text(max_size=20))
def test_any_content_has_some_kind(data: bytes, name: str) -> None:
    assert "/" in mime_of(data, name)


@given(st.text(max_size=300))
def test_any_name_becomes_one_that_stays_in_its_folder(name: str) -> None:
    safe = safe_name(name)
    assert 0 < len(safe) <= NAME_CHARS_MAX
    assert PurePosixPath(safe).name == safe and not safe.startswith(".") and "\\" not in safe
    assert safe.isprintable()


def test_a_long_name_keeps_its_ending() -> None:
    assert safe_name("a" * 300 + ".pdf").endswith("a.pdf")
