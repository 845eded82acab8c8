"""How much of the past is kept and told: always whole turns, bounded, and the same on disk as in memory."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from microclaw.agent.context import (
    LEFT_OUT,
    RESULTS_KEPT,
    SESSION_CHARS_MAX,
    TURN_CHARS_MAX,
    fits,
    remembered,
    to_keep,
)
from microclaw.agent.conversation import Call, Outcome, Result, Said, Step, TurnLog
from microclaw.agent.transcript import Transcript


def turn(run_id: str, size: int, *, ok: bool = True, calls: int = 0) -> TurnLog:
    log = TurnLog(run_id, "x" * size, 0)
    for number in range(calls):
        step = Step(Said(calls=(Call(call_id=f"{run_id}.{number}.0", name="bash"),)))
        step.results[f"{run_id}.{number}.0"] = Result(call_id=f"{run_id}.{number}.0", ok=True, text="r" * size)
        log.steps.append(step)
    log.outcome = Outcome(ok=ok)
    return log


@given(sizes=st.lists(st.integers(0, SESSION_CHARS_MAX), max_size=12))
def test_what_is_kept_is_the_newest_and_at_most_half_the_bound(sizes: list[int]) -> None:
    turns = tuple(turn(str(number), size) for number, size in enumerate(sizes))
    kept = to_keep(turns)
    if sum(sizes) <= SESSION_CHARS_MAX:
        assert kept is None
    else:
        assert kept is not None
        assert kept == turns[len(turns) - len(kept):]
        assert sum(log.chars for log in kept) <= SESSION_CHARS_MAX // 2


def test_a_failed_turn_is_told_only_if_it_did_something() -> None:
    idle, busy, fine = turn("1", 5, ok=False), turn("2", 5, ok=False, calls=1), turn("3", 5)
    current = TurnLog("4", "now", 0)
    assert [log.run_id for log in remembered((idle, busy, fine, current), current)] == ["2", "3", "4"]


def test_a_turn_that_has_grown_too_large_loses_its_oldest_results_but_no_call() -> None:
    small = turn("1", 10, calls=3)
    assert fits((small,)) == (small,)
    large = turn("1", TURN_CHARS_MAX // 8, calls=12)
    (shorter,) = fits((large,))
    texts = [step.results[name].text for step in shorter.steps for name in step.results]
    assert len(texts) == 12
    assert texts[0] == LEFT_OUT and LEFT_OUT not in texts[-RESULTS_KEPT:]
    assert shorter.chars <= TURN_CHARS_MAX
    assert large.steps[0].results["1.0.0"].text != LEFT_OUT, "the transcript itself is not touched"


@settings(max_examples=50)
@given(count=st.integers(1, 6), keep=st.integers(0, 6))
def test_forgetting_keeps_the_ends_and_survives_a_restart(tmp_path_factory: object, count: int, keep: int) -> None:
    path = Path(tmp_path_factory.mktemp("s")) / "group.jsonl"  # type: ignore[attr-defined]
    transcript = Transcript(path)
    for number in range(count):
        log = transcript.begin(f"r{number}", "hello", 5, False)
        step = transcript.said(log, Said(text="t", calls=(Call(call_id=f"r{number}.0.0", name="bash", args={"a": 1}),)))
        transcript.started(log, f"r{number}.0.0")
        transcript.result(log, Result(call_id=f"r{number}.0.0", ok=True, text="out"))
        assert step.results
        transcript.done(log, Outcome(ok=True, text=f"end {number}", steps=1))
    kept = list(transcript.turns.values())[-keep:] if keep else []
    transcript.keep_only(kept)
    ids = [log.run_id for log in kept]
    for reader in (transcript, Transcript(path)):
        assert list(reader.turns) == ids
        assert {name: end.text for name, end in reader.outcomes.items()} == {
            f"r{number}": f"end {number}" for number in range(count)
        }
        for log in reader.turns.values():
            assert [result.text for step in log.steps for _, result in step.answers()] == ["out"]
            assert log.steps[0].started
        reader.close()
    assert [file.name for file in path.parent.iterdir()] == ["group.jsonl"]
