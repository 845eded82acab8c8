"""Whose words may become memory, and which line came from whom."""

from __future__ import annotations

import re
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from microclaw.core.approvals import action_hash
from microclaw.core.audit import Entry
from microclaw.core.kinds import MessageReceived, PromptMessage, Quote, RunGranted, ScheduledTask
from microclaw.core.memory_changes import (
    SHOWN_CHARS_MAX,
    SOURCES_MAX,
    WAYS_IN,
    Source,
    difference,
    hosts_of,
    lines_of,
    named,
    origins_after,
    question_of,
    sources_of,
    without,
)
from microclaw.core.people import Role, is_trusted

TEXTS = st.lists(st.sampled_from([b"a\n", b"b\n", b"c\n", b"\n", b"d"]), max_size=12).map(b"".join)


def received(**more: object) -> MessageReceived:
    facts = {
        "chat": "telegram:1", "platform_id": "1", "sender": "1", "sender_name": "A", "text": "x", "sent_ms": 1,
    }
    return MessageReceived(**(facts | more))  # type: ignore[arg-type]


def test_ac60_trusted_is_the_own_word_of_somebody_who_was_let_in_and_nothing_else() -> None:
    assert all(is_trusted(received(), role, is_quote_known=False) for role in Role)
    quoting = received(quote=Quote(id="2"))
    assert is_trusted(quoting, Role.OWNER, is_quote_known=True)
    file = {"handle": "sha256:0", "name": "x.pdf", "mime": "application/pdf", "size_bytes": 1}
    for untrusted, role in (
        (received(), None), (received(is_forwarded=True), Role.OWNER), (received(from_bot=True), Role.OWNER),
        (received(is_sender_proven=False), Role.OWNER), (received(is_own_reply=True), Role.OWNER),
        (received(chat="email:a"), Role.OWNER),
        (quoting, Role.OWNER), (received(attachments=(file,)), Role.OWNER),
    ):
        assert not is_trusted(untrusted, role, is_quote_known=False)


def test_ac60_a_run_brings_its_senders_its_chat_or_its_task() -> None:
    def grant(**more: object) -> RunGranted:
        return RunGranted(run_id="r", attempt=1, group="g", chat="telegram:1", **more)  # type: ignore[arg-type]

    mixed = tuple(
        PromptMessage(id=str(trusted), sender_name="A", sent_ms=1, text="x", sender="telegram:1", is_trusted=trusted)
        for trusted in (True, False)
    )
    assert sources_of(grant(messages=mixed)) == (Source("chat:telegram:1", True), Source("telegram:1"))
    assert sources_of(grant(messages=mixed[:1]))[1].is_trusted
    old = PromptMessage(id="1", sender_name="A", sent_ms=1, text="x")
    assert Source("unknown:A") in sources_of(grant(messages=(old,))), "an older router said nothing"
    task = ScheduledTask(task_id="t", prompt="x", due_ms=1)
    assert sources_of(grant(task=task)) == (Source("task:t"),)
    assert sources_of(grant(task=task), is_task_trusted=True) == (Source("task:t", True),)


def test_hosts_are_those_that_this_groups_workers_were_let_to() -> None:
    def entry(actor: str, action: str = "egress.page", outcome: str = "allow") -> Entry:
        return Entry(number=1, ts_ms=1, actor=actor, action=action, subject="e.example:443", outcome=outcome)

    seen = [
        entry("worker:a@g"), entry("worker:a@g", "egress.http"), entry("worker:b@g", "egress.connect"),
        entry("worker:c@other"), entry("worker:a@g", "model.call"), entry("worker:d@g", outcome="deny"),
    ]
    assert hosts_of(seen, "g") == {"a": ("e.example",), "b": ("e.example",)}


def test_names_are_bounded() -> None:
    assert len(named(str(number) for number in range(3 * SOURCES_MAX))) == SOURCES_MAX


@given(TEXTS, TEXTS)
def test_ac60_every_line_has_one_source_and_new_words_never_pass_for_old_ones(old: bytes, new: bytes) -> None:
    before, after = lines_of(old), lines_of(new)
    origins = origins_after(before, [1] * len(before), after, 2)
    assert len(origins) == len(after)

    def bare(lines: list[bytes]) -> list[bytes]:
        return [line.rstrip(b"\n") for line in lines]

    kept, _ = without(after, origins, {2})
    for line in set(bare(kept)):
        assert bare(kept).count(line) <= bare(before).count(line)
    left, ones = without(after, origins, {1, 2})
    assert left == [] and ones == []


@given(TEXTS, TEXTS)
def test_ac60_a_difference_shows_every_line_that_is_new_or_gone(old: bytes, new: bytes) -> None:
    shown = difference(old, new).split("\n")
    for mark, lines, others in (("+", new, old), ("-", old, new)):
        for line in set(lines.decode().splitlines()) - set(others.decode().splitlines()):
            assert f"{mark} {line}" in shown


def test_ac60_a_question_is_bound_to_all_of_the_content_even_where_it_is_cut() -> None:
    def asked(new: bytes) -> bytes:
        action = question_of(1, "g", "g/SOUL.md", ["telegram:1"] * 500, None, new)
        assert len(action.detail) < 8000
        return action_hash(action)

    long = b"x" * SHOWN_CHARS_MAX
    assert asked(long + b"a") != asked(long + b"b") and asked(b"a") != asked(b"a\n")


def test_long_files_are_compared_in_no_time() -> None:
    shown = difference(b"x\n" * 60_000, b"y\n" * 60_000)
    assert shown.startswith("all of it is replaced by:")


def test_ac60_every_way_out_that_egress_writes_down_is_known_as_a_way_in_for_words() -> None:
    egress = Path(__file__).parents[3] / "services/microclaw/egress"
    named = set(re.findall(r'"(egress\.[a-z]+)"', "".join(file.read_text() for file in egress.glob("*.py"))))
    # The end of a tunnel, a worker that asks too fast, names of a notice and of a socket.
    assert named - {"egress.cut", "egress.flood", "egress.notice", "egress.sock"} == set(WAYS_IN)
