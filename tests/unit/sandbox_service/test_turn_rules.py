"""What a turn's end means, and when a worker is given up."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from microclaw.bus.envelope import ENVELOPE_BYTES_MAX
from microclaw.core.kinds import PromptMessage, RunGranted, ScheduledTask
from microclaw.core.turns import (
    ERROR_CHARS_MAX,
    GRACE_S,
    RESUMES_MAX,
    SILENCE_S_MAX,
    Loss,
    Lost,
    Sign,
    Watch,
    cut,
    ended,
    failed,
    may_resume,
    prompt_of,
)
from microclaw.core.worker import LINE_BYTES_MAX, Turn, TurnDone, encode_line

GRANT = RunGranted(run_id="r", attempt=2, group="fam", chat="console:fam")


def test_the_watch_wants_signs_of_life_and_an_end() -> None:
    watch = Watch(0, 100)
    assert (watch.sign(SILENCE_S_MAX - 1), watch.sign(SILENCE_S_MAX)) == (Sign.WELL, Sign.SILENT)
    watch.heard(50)
    assert watch.look_again_s == 50 + SILENCE_S_MAX
    watch.heard(100 + GRACE_S - 1)
    assert watch.sign(100 + GRACE_S - 1) is Sign.WELL
    assert watch.sign(watch.look_again_s) is Sign.OVERDUE
    assert (watch.left_s(40), watch.left_s(1000)) == (60, 1)


@given(st.lists(st.floats(0, 1000), max_size=20), st.floats(1, 500))
def test_a_turn_is_never_well_when_it_is_looked_at_again_without_a_word(heard: list[float], timeout_s: float) -> None:
    watch = Watch(0, timeout_s)
    for moment in sorted(heard):
        watch.heard(moment)
    assert watch.sign(watch.look_again_s) is not Sign.WELL


def test_only_a_death_is_resumed_and_not_for_ever() -> None:
    assert [may_resume(Lost(Loss.DIED), count) for count in range(RESUMES_MAX + 1)] == [True] * RESUMES_MAX + [False]
    assert not any(may_resume(Lost(how), 0) for how in Loss if how is not Loss.DIED)


def test_a_good_end_says_its_text() -> None:
    done = TurnDone(run_id="r", ok=True, text="<internal>x</internal> hi " + "y" * 300)
    end = ended(GRANT, done, visible=False, key="")
    assert end.reply.startswith("hi y") and len(end.finished.result) == 200
    assert (end.finished.ok, end.finished.attempt, end.finished.group) == (True, 2, "fam")


@pytest.mark.parametrize("code", ["model_down", "rate_limited", "stale_session", "crashed", ""])
def test_a_passing_failure_says_nothing_and_is_tried_again(code: str) -> None:
    done = TurnDone(run_id="r", ok=False, text="half an answer", error="why", error_code=code)  # type: ignore[arg-type]
    end = ended(GRANT, done, visible=False, key="")
    assert (end.reply, end.finished.retryable, end.finished.visible) == ("", True, False)
    assert "why" in end.finished.error


@pytest.mark.parametrize("code", ["bad_key", "bad_request", "too_long", "budget"])
def test_a_lasting_failure_says_what_there_is_and_is_not_tried_again(code: str) -> None:
    done = TurnDone(run_id="r", ok=False, text="half an answer", error_code=code)  # type: ignore[arg-type]
    end = ended(GRANT, done, visible=False, key="anthropic")
    assert (end.reply, end.finished.retryable, end.finished.visible) == ("half an answer", False, True)
    assert code != "bad_key" or "microclaw secrets set anthropic" in end.finished.error


def test_what_was_seen_before_stays_seen() -> None:
    assert failed(GRANT, "x", retryable=True, visible=True).finished.visible
    done = TurnDone(run_id="r", ok=False, error_code="model_down")
    assert ended(GRANT, done, visible=True, key="").finished.visible


@given(st.text(max_size=2000))
def test_an_error_is_one_short_line(text: str) -> None:
    error = failed(GRANT, text, retryable=True).finished.error
    assert len(error) <= ERROR_CHARS_MAX and "\n" not in error


@given(st.text(max_size=300), st.integers(1, 300))
def test_a_cut_text_fits_and_begins_as_it_did(text: str, bytes_max: int) -> None:
    kept = cut(text, bytes_max)
    if kept != text:
        head = kept.rpartition("\n[cut here: ")[0]
        assert text.startswith(head) and len(head.encode("utf-8", "replace")) <= bytes_max


def test_the_longest_reply_fits_an_envelope() -> None:
    assert len(cut("é" * 2_000_000).encode()) < ENVELOPE_BYTES_MAX - 10_000


@given(st.integers(1, 40), st.sampled_from(["\"", "<", "é", "\x01", "a"]))
def test_every_prompt_fits_a_line_and_holds_the_newest_message(count: int, character: str) -> None:
    messages = tuple(
        PromptMessage(id=str(number), sender_name="Ann", sent_ms=0, text=f"n{number} " + character * 13_000)
        for number in range(count)
    )
    prompt = prompt_of(RunGranted(run_id="r", attempt=1, group="g", chat="c:x", messages=messages), "Europe/Berlin")
    assert len(encode_line(Turn(run_id="r", prompt=prompt, now_ms=0))) <= LINE_BYTES_MAX
    assert f">n{count - 1} " in prompt
    assert "left out" in prompt or ">n0 " in prompt


def test_a_tasks_prompt_begins_with_its_header() -> None:
    task = ScheduledTask(task_id="t", prompt="stretch", due_ms=0)
    prompt = prompt_of(RunGranted(run_id="r", attempt=1, group="g", chat="c:x", task=task), "UTC")
    assert prompt.startswith("[SCHEDULED TASK") and prompt.endswith("stretch")
