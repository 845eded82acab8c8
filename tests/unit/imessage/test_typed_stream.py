"""The text in an archived attributed string: any text of any length, and damaged bytes are refused, never misread."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.fakes.messages_app import typed_stream

from microclaw.imessage.typed_stream import NotTypedStream, text_of


@given(st.text(max_size=400))
def test_any_text_comes_back(text: str) -> None:
    assert text_of(typed_stream(text)) == text


@pytest.mark.parametrize("size", [0, 1, 126, 127, 128, 129, 255, 256, 65_535, 65_536, 70_000])
def test_every_width_of_the_count_is_read(size: int) -> None:
    assert text_of(typed_stream("é" * (size // 2) + "x" * (size % 2))) == "é" * (size // 2) + "x" * (size % 2)


@given(st.text(min_size=1, max_size=400), st.data())
def test_a_cut_off_blob_is_refused(text: str, data: st.DataObject) -> None:
    whole = typed_stream(text)
    end = whole.index(b"\x86\x84\x02iI")
    with pytest.raises(NotTypedStream):
        text_of(whole[:data.draw(st.integers(0, end - 1))])


@given(st.binary(max_size=300))
def test_any_bytes_are_read_or_refused(blob: bytes) -> None:
    try:
        text_of(b"\x04\x0bstreamtyped" + blob)
    except NotTypedStream:
        return
