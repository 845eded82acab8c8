"""A restart by the owner's word: played against a supervisord of three lines, with kills at any moment."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from microclaw.core.restarting import END_WAIT_S, LAST, WHOLE_MS_MAX, Step, end_text, next_step

ASKED_MS = 1_000_500
NAMES = ("broker", "egress", "sandbox", "queue", "router", "console", "watch")


@dataclass
class Process:
    name: str
    state: str = "RUNNING"
    since_s: int = 900


class Supervised:
    """Services that end when told, and come back a second later."""

    def __init__(self, *processes: Process) -> None:
        self.processes = {each.name: each for each in processes or [Process(name) for name in NAMES]}
        self.now_s = 1002.0
        self.told: dict[str, float] = {}
        self.ended: list[str] = []
        self.deaf: set[str] = set()

    def die(self, name: str) -> None:
        self.processes[name].state, self.processes[name].since_s = "STARTING", int(self.now_s)
        if name == "router":
            self.told.clear()

    def step(self) -> Step:
        step = next_step(
            self.processes.values(), self.told, asked_ms=ASKED_MS, now_ms=int(self.now_s * 1000), steady_s=self.now_s
        )
        for name in step.end:
            self.told[name] = self.now_s
            self.ended.append(name)
            if name not in self.deaf:
                self.die(name)
        for name in (*step.kill, *step.start):
            self.die(name)
        self.now_s += 1
        for process in self.processes.values():
            if process.state == "STARTING" and process.since_s < int(self.now_s) - 1:
                process.state = "RUNNING"
        return step

    def run(self) -> Step:
        for _ in range(WHOLE_MS_MAX // 1000 + 10):
            step = self.step()
            if step.is_over:
                return step
        raise AssertionError("it is never over")


def test_every_service_is_ended_once_the_bus_and_the_router_last_and_never_the_listener() -> None:
    world = Supervised()
    assert world.run() == Step(is_over=True)
    assert sorted(world.ended) == sorted(set(NAMES) - {"watch"}) and tuple(world.ended[-2:]) == LAST


def test_what_stands_still_stays_so_and_what_was_given_up_is_started() -> None:
    world = Supervised(Process("router"), Process("telegram", "STOPPED"), Process("queue", "FATAL"))
    assert world.run() == Step(is_over=True)
    assert world.ended == ["router"] and world.processes["queue"].state == "RUNNING"
    assert world.processes["telegram"].state == "STOPPED"


def test_the_bus_waits_until_the_others_are_up_again() -> None:
    processes = [Process("broker"), Process("router"), Process("queue", "STARTING", 1003)]
    step = next_step(processes, {}, asked_ms=ASKED_MS, now_ms=1_004_000, steady_s=1.0)
    assert step == Step()


def test_what_does_not_end_is_killed() -> None:
    world = Supervised()
    world.deaf = {"sandbox"}
    assert world.run() == Step(is_over=True) and world.now_s - 1002 > END_WAIT_S


def test_what_does_not_come_back_is_told_in_the_end() -> None:
    world = Supervised(Process("router"), Process("queue", "BACKOFF", 2000))
    assert world.run() == Step(is_over=True, missing=("queue",))
    assert "queue" in end_text(("queue",), WHOLE_MS_MAX) and "back" in end_text((), 12_000)


@given(st.lists(st.tuples(st.integers(0, 25), st.sampled_from(NAMES[:-1])), max_size=8))
def test_whoever_is_killed_when_it_is_over_in_the_end_and_nothing_is_ended_twice(kills: list[tuple[int, str]]) -> None:
    world = Supervised()
    at = sorted(kills)
    for moment in range(120):
        for when, name in at:
            if when == moment:
                world.die(name)
        if world.step().is_over and moment > 30:
            break
    assert all(each.state == "RUNNING" for each in world.processes.values())
    assert all(each.since_s * 1000 > ASKED_MS for each in world.processes.values() if each.name != "watch")
    assert len(world.ended) == len(set(world.ended))


def test_a_clock_that_was_set_back_ends_it_instead_of_killing_what_came_back_for_as_long() -> None:
    now_s = ASKED_MS // 1000 - 3600
    step = next_step(
        [Process(name, since_s=now_s - 5) for name in NAMES], {"queue": 0.0}, asked_ms=ASKED_MS, now_ms=now_s * 1000,
        steady_s=100.0,
    )
    assert step.is_over and not (step.end or step.kill)
    assert "after 0 s" in end_text(step.missing, now_s * 1000 - ASKED_MS)
