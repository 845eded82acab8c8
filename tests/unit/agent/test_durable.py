"""A turn may be killed at any instant, and the power may go with it: done again it comes to the same end.

The kill is an exception that nothing catches, thrown at the n-th instant: before and after each write to the
transcript, each fsync, each tool's work, each call to the host. With it the bytes that were never synced are lost up
to a random place. The model gives different words every time it is asked, as real ones do, so asking it twice for a
step shows.
"""

from __future__ import annotations

import asyncio
import os
import resource
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any
from unittest import mock

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from microclaw.agent import transcript as transcript_module
from microclaw.agent.compaction import Compactor
from microclaw.agent.conversation import INTERRUPTED, Call, Outcome, Result, Said, call_id
from microclaw.agent.loop import Bounds, Loop
from microclaw.agent.models import Ask
from microclaw.agent.tools.schemas import Args, ToolSpec
from microclaw.agent.tools.toolbox import Toolbox
from microclaw.agent.transcript import Transcript
from microclaw.agent.workspace import Workspace
from microclaw.core.check import Checked
from microclaw.core.worker import Turn

KINDS = ("effect", "look", "send_message")


class KilledError(BaseException):
    """The process is gone."""


class Tag(Args, frozen=True):
    tag: str


class World:
    """What outlives the process: what was done, what the host was asked, what is on the disk."""

    def __init__(self) -> None:
        self.done: Counter[str] = Counter()
        self.asked_host: dict[str, list[dict[str, Any]]] = {}
        self.asked_model = 0
        self.instants = 0
        self.kill_at = -1
        self.synced_bytes = 0
        #: Results that were on the disk when the power came back.
        self.results: dict[str, Result] = {}

    async def check(self, _script: str) -> Checked:
        """Finds something else each time."""
        self.tick()
        return Checked(wake=True, data=str(self.instants))

    def tick(self) -> None:
        self.instants += 1
        if self.instants == self.kill_at:
            raise KilledError


class Disk:
    """The `os` of the transcript, with the instants of the world in it."""

    def __init__(self, world: World) -> None:
        self._world = world

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def write(self, fd: int, data: Any) -> int:
        self._world.tick()
        written = os.write(fd, data)
        self._world.tick()
        return written

    def fsync(self, fd: int) -> None:
        self._world.tick()
        self._world.synced_bytes = os.fstat(fd).st_size
        self._world.tick()


class Fickle:
    """A model with a fixed plan of which tools to use, and never twice the same arguments."""

    def __init__(self, world: World, plan: list[list[str]]) -> None:
        self._world, self._plan = world, plan

    async def prewarm(self) -> None:
        return

    async def close(self) -> None:
        return

    async def say(self, ask: Ask) -> Said:
        self._world.tick()
        self._world.asked_model += 1
        step = len(ask.turn.steps)
        if step == len(self._plan):
            return Said(text=f"after {step} steps")
        nonce = str(self._world.asked_model)
        return Said(calls=tuple(
            Call(
                call_id=call_id(ask.turn.run_id, step, index), name=kind,
                args={"text": nonce} if kind == "send_message" else {"tag": f"{step}.{index}/{nonce}"},
            )
            for index, kind in enumerate(self._plan[step])
        ))


def loop_for(world: World, plan: list[list[str]], workspace: Workspace) -> Loop:
    async def effect(args: Tag, _: Workspace) -> str:
        world.tick()
        world.done[args.tag.partition("/")[0]] += 1
        world.tick()
        return "did it"

    async def look(args: Tag, _: Workspace) -> str:
        world.tick()
        return "saw it"

    async def ask_host(call: Call) -> Result:
        world.tick()
        world.asked_host.setdefault(call.call_id, []).append(call.args)
        world.tick()
        return Result(call_id=call.call_id, ok=True, text="sent")

    extra = {
        "effect": (ToolSpec("effect", Tag, "write"), effect), "look": (ToolSpec("look", Tag, "read"), look),
    }
    model = Fickle(world, plan)
    return Loop(
        model, Toolbox(workspace, ask_host, extra), (), Bounds(steps=20, tokens=10**6),
        check=world.check, system=lambda: "", doing=lambda _: None,
        compactor=Compactor(model, (), lambda: "", lambda _turns: "", lambda _note: None),
    )


def live(world: World, plan: list[list[str]], root: Path) -> Outcome | None:
    """One life of the process: the turn's end, or None if it was killed before."""
    path = root / "session" / "group.jsonl"
    with mock.patch.object(transcript_module, "os", Disk(world)):
        try:
            transcript = Transcript(path)
        except KilledError:
            return None
        try:
            workspace = Workspace(root=root, egress_socket=root / "none")
            turn = Turn(run_id="r1", prompt="do it", script="look first", now_ms=1)
            return asyncio.run(loop_for(world, plan, workspace).run(turn, transcript))
        except KilledError:
            return None
        finally:
            transcript.close()


def lose_power(world: World, root: Path, share: float) -> None:
    """Of what was written since the last sync only a part is there after a loss of power."""
    path = root / "session" / "group.jsonl"
    if path.exists():
        size = path.stat().st_size
        os.truncate(path, world.synced_bytes + int((size - world.synced_bytes) * share))
        world.results |= results_on_disk(root)
        world.synced_bytes = path.stat().st_size


def results_on_disk(root: Path) -> dict[str, Result]:
    transcript = Transcript(root / "session" / "group.jsonl")
    transcript.close()
    steps = [step for turn in transcript.turns.values() for step in turn.steps]
    return {name: result for step in steps for name, result in step.results.items()}


@settings(max_examples=150)
@given(
    plan=st.lists(st.lists(st.sampled_from(KINDS), min_size=1, max_size=3), max_size=4),
    kills=st.lists(st.tuples(st.integers(1, 60), st.floats(0, 1)), max_size=5),
)
def test_whenever_it_is_killed_a_turn_comes_to_the_same_end(
    plan: list[list[str]], kills: list[tuple[int, float]]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root, world = Path(folder), World()
        (root / "group").mkdir()
        outcome = None
        for instant, share in kills:
            world.instants, world.kill_at = 0, instant
            outcome = live(world, plan, root)
            if outcome is not None:
                break
            lose_power(world, root, share)
        world.kill_at = -1
        if outcome is None:
            outcome = live(world, plan, root)
        assert outcome == Outcome(ok=True, text=f"after {len(plan)} steps", steps=len(plan) + 1)
        check(world, plan, root)
        # Asked once more, it answers the same and does nothing.
        asked, done = world.asked_model, world.done.total()
        assert live(world, plan, root) == outcome
        assert (world.asked_model, world.done.total()) == (asked, done)


def check(world: World, plan: list[list[str]], root: Path) -> None:
    wanted = [(step, index, kind) for step, calls in enumerate(plan) for index, kind in enumerate(calls)]
    # What has side effects was done at most once, and what was not done is known to be in doubt.
    results = results_on_disk(root)
    assert len(results) == len(wanted)
    assert world.results.items() <= results.items(), "what was known is not asked again"
    for step, index, kind in wanted:
        result = results[call_id("r1", step, index)]
        if kind == "effect":
            times = world.done[f"{step}.{index}"]
            assert times == 1 or (times == 0 and result.text == INTERRUPTED)
    # The host saw every call that was meant for it, under one name each, with the same arguments every time.
    assert set(world.asked_host) == {call_id("r1", s, i) for s, i, kind in wanted if kind == "send_message"}
    assert all(args == repeats[0] for repeats in world.asked_host.values() for args in repeats)


def test_without_a_kill_everything_is_done_once_and_the_model_asked_once_a_step() -> None:
    with tempfile.TemporaryDirectory() as folder:
        root, world = Path(folder), World()
        plan = [["effect", "look", "send_message"], ["effect"]]
        assert live(world, plan, root) is not None
        assert world.asked_model == 3
        assert world.done == {"0.0": 1, "1.0": 1}
        assert {name: len(calls) for name, calls in world.asked_host.items()} == {"r1.0.2": 1}


def test_every_single_instant_is_survived() -> None:
    plan = [["effect", "send_message"], ["look", "effect"]]
    with tempfile.TemporaryDirectory() as folder:
        counting = World()
        live(counting, plan, Path(folder))
    assert counting.instants > 20
    for instant in range(1, counting.instants + 1):
        for share in (0.0, 0.5, 1.0):
            with tempfile.TemporaryDirectory() as folder:
                root, world = Path(folder), World()
                world.kill_at = instant
                assert live(world, plan, root) is None
                lose_power(world, root, share)
                world.kill_at = -1
                assert live(world, plan, root) == Outcome(ok=True, text="after 2 steps", steps=3)
                check(world, plan, root)


@settings(max_examples=200)
@given(cut=st.integers(0, 4000), junk=st.binary(max_size=40))
def test_a_torn_or_spoiled_end_of_the_file_is_dropped(cut: int, junk: bytes) -> None:
    plan = [["effect", "look"], ["send_message"]]
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        live(World(), plan, root)
        path = root / "session" / "group.jsonl"
        whole = path.read_bytes()
        kept = whole[:cut]
        path.write_bytes(kept + junk)
        transcript = Transcript(path)
        transcript.close()
        # What is left is whole lines of what was there (or a junk that happens to be nothing).
        left = path.read_bytes()
        assert left == b"" or left.endswith(b"\n")
        assert whole.startswith(left) or left.startswith(kept[: kept.rfind(b"\n") + 1])
        for line in left.splitlines():
            msgspec.json.decode(line)


def test_a_line_that_the_disk_has_only_half_a_place_for_costs_no_other(tmp_path: Path) -> None:
    """A full disk takes what fits and refuses the rest; then there is room again."""
    transcript = Transcript(tmp_path / "group.jsonl")
    turn = transcript.begin("r1", "hello", 1, False)
    transcript.said(turn, Said(text="first"))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (transcript.path.stat().st_size + 20, hard))
    try:
        with pytest.raises(OSError, match="too large"):
            transcript.said(turn, Said(text="second " * 20))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    transcript.done(turn, Outcome(ok=True, text="end"))
    transcript.close()
    again = Transcript(transcript.path)
    assert [step.said.text for step in again.turns["r1"].steps] == ["first"]
    assert again.outcomes["r1"].text == "end"
    again.close()


def test_a_damaged_file_is_kept_beside_for_a_person_to_look_at() -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        live(World(), [["look"]], root)
        path = root / "session" / "group.jsonl"
        lines = path.read_bytes().splitlines(keepends=True)
        path.write_bytes(lines[0] + b"\x00\x00 not a line\n" + b"".join(lines[2:]))
        transcript = Transcript(path)
        transcript.close()
        assert path.read_bytes() == lines[0]
        assert b"not a line" in path.with_suffix(".damaged").read_bytes()


def test_a_turn_whose_steps_are_forgotten_never_begins_anew() -> None:
    with tempfile.TemporaryDirectory() as folder:
        root, world = Path(folder), World()
        plan = [["effect"], ["effect"]]
        world.kill_at = 16  # just after the first effect and its result
        assert live(world, plan, root) is None
        assert world.done == {"0.0": 1}
        transcript = Transcript(root / "session" / "group.jsonl")
        transcript.keep_only([])
        transcript.close()
        world.kill_at = -1
        outcome = live(world, plan, root)
        assert outcome is not None and outcome.error_code == "stale_session"
        assert world.done == {"0.0": 1}
