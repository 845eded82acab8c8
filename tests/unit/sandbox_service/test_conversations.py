"""Sessions as the owner looks at them, takes them out and copies them."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest
from tests.contract.house import house

from microclaw.agent.conversation import Outcome
from microclaw.agent.transcript import CompactedLine, DoneLine, Transcript, TurnLine, UncompactedLine
from microclaw.core.requests import Done, Failed, ForkSession, Session
from microclaw.sandbox.conversations import ANSWER_CHARS_MAX, TRANSCRIPT, fork, session, to_archive
from microclaw.sandbox.own_settings import OwnSettings
from microclaw.sandbox.past import Past


def write(folder: Path, group: str, count: int, text: str = "hello", *more: msgspec.Struct) -> Path:
    """A conversation of so many turns."""
    lines: list[msgspec.Struct] = []
    for number in range(count):
        lines.append(TurnLine(run_id=f"r{number}", prompt=f"{number} {text}", now_ms=number))
        lines.append(DoneLine(run_id=f"r{number}", outcome=Outcome(ok=True, text=f"answer {number}")))
    (folder / group).mkdir(parents=True)
    path = folder / group / TRANSCRIPT
    path.write_bytes(b"".join(msgspec.json.encode(line) + b"\n" for line in (*lines, *more)))
    return path


def test_all_of_a_long_conversation_comes_in_parts_that_fit_an_answer(tmp_path: Path) -> None:
    write(tmp_path, "fam", 40, "x" * (ANSWER_CHARS_MAX // 20))
    found: list[str] = []
    while isinstance(part := session(tmp_path, "fam", 50, len(found)), Session) and part.turns:
        assert sum(len(turn.prompt) for turn in part.turns) <= ANSWER_CHARS_MAX
        found[:0] = [turn.run_id for turn in part.turns]
    assert found == [f"r{number}" for number in range(40)]


def test_a_copy_holds_whole_lines_and_follows_no_link(tmp_path: Path) -> None:
    path = write(tmp_path, "fam", 3)
    with path.open("ab") as file:
        file.write(b'{"what":"turn","run_id":"torn')
    assert fork(tmp_path, "fam", "other") is None
    copy = Transcript(tmp_path / "other" / TRANSCRIPT)
    assert list(copy.turns) == ["r0", "r1", "r2"]
    copy.close()
    (tmp_path / "link").mkdir()
    os.symlink(path, tmp_path / "link" / TRANSCRIPT)
    for name in ("link", "nobody", "../fam", "fam.stale-x"):
        assert isinstance(fork(tmp_path, name, "third"), Failed)
    assert not (tmp_path / "third").exists()


@pytest.mark.parametrize(("more", "left"), [
    ((), ["r0", "r1", "r2"]),
    ((CompactedLine(run_id="x", covers=("r0", "r1"), summary="s", archive="conversations/a.md"),), ["r2"]),
    ((CompactedLine(run_id="x", covers=("r0", "r1"), summary="s"),), ["r0", "r1", "r2"]),
    ((CompactedLine(run_id="x", covers=("r0",), summary="s", archive="a"), UncompactedLine(run_id="y")),
     ["r0", "r1", "r2"]),
])
def test_what_is_on_a_page_already_is_not_put_on_another(
    tmp_path: Path, more: tuple[msgspec.Struct, ...], left: list[str]
) -> None:
    write(tmp_path, "fam", 3, "hello", *more)
    assert [turn.run_id for turn in to_archive(tmp_path, "fam")] == left


def test_a_line_nested_without_end_is_passed_over(tmp_path: Path) -> None:
    """An agent can write what it likes into its own conversation: `/new` and the owner's look at it go on."""
    deep = '{"what":"model","run_id":"r1","said":{"calls":[{"call_id":"c","name":"n","args":{"a":' + "[" * 5_000
    with write(tmp_path, "fam", 2).open("a") as file:
        file.write(f"{deep}\n")
    assert [turn.run_id for turn in to_archive(tmp_path, "fam")] == ["r0", "r1"]
    transcript = Transcript(tmp_path / "fam" / TRANSCRIPT)
    assert list(transcript.turns) == ["r0", "r1"]
    transcript.close()


async def test_the_owner_forks_a_conversation_and_nobody_else() -> None:
    async with house() as made:
        past = Past(
            made.pool, made.home, made.settings, OwnSettings(made.bus), made.memory,  # type: ignore[arg-type]
            timezone="UTC", clock_ms=lambda: made.queue.now,
        )
        await made.register("wa:fam", "fam")
        await made.register("wa:club", "club")
        write(made.home.sessions, "fam", 2)
        write(made.home.sessions, "club", 1)
        wanted = ForkSession(name="fam", group="club")
        for refused, asker in ((wanted, "sandbox"), (ForkSession(name="fam", group="x"), "cli"),
                               (ForkSession(name="nobody", group="club"), "cli"),
                               (ForkSession(name="fam", group="fam"), "cli")):
            assert isinstance(await past.on_fork(refused, asker), Failed)
        assert len(to_archive(made.home.sessions, "club")) == 1, "a refusal changes nothing"
        assert await past.on_fork(wanted, "cli") == Done()
        assert len(to_archive(made.home.sessions, "club")) == 2
        aside = [path for path in made.home.sessions.iterdir() if path.name.startswith("club.stale-")]
        assert len(aside) == 1 and len(to_archive(made.home.sessions, "fam")) == 2
