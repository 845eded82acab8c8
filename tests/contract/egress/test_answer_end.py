"""The end of an answer is kept back, and nothing but the end."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from microclaw.egress.answer_end import AnswerEnd

EVENTS = b'data: {"text":"hello"}\n\ndata: {"text":"you"}\n\n'
PIECES = st.lists(st.binary(min_size=1, max_size=9), max_size=9)


@given(PIECES)
def test_of_an_answer_that_is_no_stream_the_last_piece_alone_is_kept_back(pieces: list[bytes]) -> None:
    end = AnswerEnd(streamed=False)
    assert b"".join(map(end.feed, pieces)) == b"".join(pieces[:-1])
    assert end.rest() == b"".join(pieces[-1:])


@given(st.sampled_from([b"event: message_stop\ndata: {}\n\n", b"data: [DONE]\n\n", b'data: {"error": {}}\n\n']),
       st.lists(st.integers(0, len(EVENTS) + 30), max_size=9))
def test_a_stream_passes_until_its_last_event_however_it_is_cut(last: bytes, cuts: list[int]) -> None:
    whole = EVENTS + last
    places = sorted({0, *(cut for cut in cuts if cut < len(whole)), len(whole)})
    end = AnswerEnd(streamed=True)
    passed = b"".join(end.feed(whole[begin:stop]) for begin, stop in pairwise(places))
    rest = end.rest()
    assert passed + rest == whole and rest
    assert len(passed) >= max([place for place in places if place <= len(EVENTS)]), "what can't be the end has gone"
    assert not any(mark in passed for mark in (b"message_stop", b"[DONE]", b'"error"'))


def test_a_stream_without_an_end_passes_whole() -> None:
    end = AnswerEnd(streamed=True)
    assert end.feed(EVENTS) == EVENTS and end.rest() == b""
