"""The audit chain: whatever is done to stored entries, `Verifier` finds it."""

from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from microclaw.core.audit import FIELD_CHARS_MAX, Entry, Fault, Head, Verifier, chained


def entry(subject: str = "x", **fields: object) -> Entry:
    return msgspec.structs.replace(
        Entry(number=0, ts_ms=5, actor="cli", action="test.deed", subject=subject, outcome="ok"), **fields
    )


def verified(entries: list[Entry], head: Head) -> list[Fault]:
    verifier = Verifier(head)
    for one in entries:
        verifier.take(one)
    return verifier.finish()[1]


chains = st.lists(st.text(max_size=5), min_size=1, max_size=8)


@given(chains)
def test_what_was_chained_verifies_in_one_go_or_in_parts(subjects):
    whole, head = chained(Head(), [entry(subject) for subject in subjects])
    assert verified(whole, head) == []
    parts: list[Entry] = []
    step = Head()
    for subject in subjects:
        more, step = chained(step, [entry(subject)])
        parts += more
    assert (parts, step) == (whole, head)


@given(chains, st.data())
def test_ac69_every_edit_deletion_reordering_and_cut_is_found(subjects, data):
    entries, head = chained(Head(), [entry(subject) for subject in subjects])
    at = data.draw(st.integers(0, len(entries) - 1))
    field, value = data.draw(st.sampled_from([
        ("subject", "other!"), ("ts_ms", 6), ("actor", "x"), ("action", "x"), ("outcome", "x"), ("detail", "x"),
        ("cause", b"x"), ("hash", b"x" * 32),
    ]))
    edited = [*entries]
    edited[at] = msgspec.structs.replace(entries[at], **{field: value})
    assert verified(edited, head) != []
    assert verified(entries[:at] + entries[at + 1:], head) != []
    assert verified(entries[:at], head) != []
    other = data.draw(st.integers(0, len(entries) - 1))
    if other != at:
        swapped = [*entries]
        swapped[at], swapped[other] = entries[other], entries[at]
        assert verified(swapped, head) != []


def test_ac69_rewriting_the_whole_chain_does_not_fit_the_head():
    _, head = chained(Head(), [entry("a"), entry("b")])
    forged, _ = chained(Head(), [entry("a"), entry("c")])
    assert [fault.what for fault in verified(forged, head)] == ["edited"]


def test_the_fields_cannot_flow_into_each_other():
    one, _ = chained(Head(), [entry("ab", detail="c")])
    two, _ = chained(Head(), [entry("a", detail="bc")])
    assert one[0].hash != two[0].hash


def test_a_head_that_is_behind_is_no_fault():
    first, behind = chained(Head(), [entry("a")])
    more, _ = chained(behind, [entry("b")])
    assert verified(first + more, behind) == []


def test_long_texts_are_cut():
    (stored,), head = chained(Head(), [entry("x" * 5000)])
    assert len(stored.subject) == FIELD_CHARS_MAX and verified([stored], head) == []
