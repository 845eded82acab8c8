"""Scenes of the queue in words ("msg a", "task t1 for b", "a ends", "wait 400 s"), played with the pure machine."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from microclaw.core.dispatch import Dispatch, Drain, Event, Finished, Grant, Notice, TaskDue, Wanted
from microclaw.core.lanes import Fire, Item, Run

_UNITS_MS = {"ms": 1, "s": 1000, "min": 60_000}
#: How long a run takes of which a scene says that it fails.
FAILING_MS = 5
#: Longest time a scene may take when nothing is left to happen.
HORIZON_MS = 3_600_000
#: Of a scene that never comes to rest.
STARTS_MAX = 1_000


class NotUnderstood(Exception):
    """A step in words that nobody knows."""


@dataclass
class Start:
    """A run that began."""

    at_ms: int
    run: Run
    step: int

    @property
    def name(self) -> tuple[str, str]:
        """("M", group) or ("T", task)."""
        return ("T", self.run.fire.task_id) if self.run.fire else ("M", self.run.group)


@dataclass
class Scene:
    """One play.

    `outcomes` gives the result of each run of messages at its start (None = it goes on until a step ends it), and
    `task_outcomes` of each task.
    """

    max_concurrent: int
    outcomes: Iterator[bool | None]
    task_outcomes: Iterator[bool | None]
    now: int = 0
    step: int = 0
    starts: list[Start] = field(default_factory=list)
    notices: list[Notice] = field(default_factory=list)
    #: When each step began.
    began: list[int] = field(default_factory=list)
    #: How many ran when the first run was ended by a step.
    running_before: int | None = None
    #: The step of the last end.
    last_end: int | None = None
    most: dict[str, int] = field(default_factory=dict)
    follow_ups: list[bool] = field(default_factory=list)
    #: The most that ran at once, all groups together.
    most_in_all: int = 0
    #: When all steps were done: how many ran, and who stood in line.
    running_after: int = 0
    line_after: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.dispatch = Dispatch(self.max_concurrent)
        self.group = "a"
        self.numbers = 0
        self.tasks: dict[str, str] = {}
        self._failing: list[tuple[int, str]] = []

    # --- steps ------------------------------------------------------------------------------------------------

    def play(self, steps: list[str]) -> None:
        """All steps, then whatever is left comes to its end."""
        for number, step in enumerate(steps):
            self.step = number
            self.began.append(self.now)
            self._do(step)
        self.running_after, self.line_after = len(self.dispatch.running), self.dispatch.line
        self.step = len(steps)
        self._let_end()

    def _do(self, step: str) -> None:
        table: tuple[tuple[str, Callable[..., None]], ...] = (
            (r"(?:at (\d+) (ms|s|min) )?msg (\w+)(?: starts| again)?(?: \(.*\))?", self._message),
            (r"msg (\w+) fails", self._message_fails),
            (r"msg (\w+) fails at (\d+) ms while msg \w+ is pending", self._message_fails_late),
            (r"task (\w+)(?: for (\w+))?(?: again| starts)?", self._task),
            (r"task (\w+)(?: for (\w+))? (?:fails|throws)", self._task_fails),
            (r"(?:all|everything) ends?()", lambda _: self._let_end()),
            (r"task queued(?: for (\w+))?()", lambda group, _: self._task("t", group)),
            (r"message queued(?: for (\w+))?", lambda group: self._message(None, None, group or self.group)),
            (r"container idle(?: for (\w+))?", self._idle),
            (r"container (?:busy|working|running|not idle)(?: for (\w+))?",
             lambda group: self._message(None, None, group or self.group)),
            (r"(?:first run|(\w+)) (ends|succeeds|fails|throws)(?: at (\d+) s)?", self._end),
            (r"wait (\d+) (ms|s|min)", self._wait),
            (r"retries used up()", lambda _: self._until(HORIZON_MS)),
            (r"retry of (\w+) due at (\d+) s", self._retry),
            (r"follow-up for (\w+)(?: \((.*)\))?", self._follow_up),
            (r"shutdown()", lambda _: self._handle(Drain())),
        )
        for pattern, act in table:
            found = re.fullmatch(pattern, step)
            if found:
                act(*found.groups())
                return
        raise NotUnderstood(f"step {step!r}")

    def _message(self, count: str | None, unit: str | None, group: str) -> None:
        if count is not None:
            self._until(int(count) * _UNITS_MS[unit or "ms"])
        self.group = group
        self.numbers += 1
        self._handle(Wanted(group, (Item(self.numbers, f"chat:{group}"),)))

    def _message_fails(self, group: str) -> None:
        self._message(None, None, group)
        self._fails_at(group, FAILING_MS)

    def _message_fails_late(self, group: str, ms: str) -> None:
        self._message(None, None, group)
        self._message(None, None, group)
        self._fails_at(group, int(ms))

    def _fails_at(self, group: str, ms: int) -> None:
        run = self._run_of(group)
        self._until(self.now + ms)
        self._finish(run, ok=False)

    def _task(self, name: str, group: str | None) -> None:
        self.group = self.tasks.setdefault(name, group or self.group)
        self.numbers += 1
        self._handle(TaskDue(self.group, Fire(self.numbers, f"chat:{self.group}", name, due_ms=0)))

    def _task_fails(self, name: str, group: str | None) -> None:
        self._task(name, group)
        self._finish(self._run_of(name), ok=False)

    def _idle(self, group: str | None = None) -> None:
        """A worker that has answered and waits for more."""
        self.group = group or self.group
        if not self.dispatch.takes_follow_up(self.group):
            self._message(None, None, self.group)
        self._finish(self._run_of(self.group), ok=True)

    def _end(self, name: str | None, how: str, after_s: str | None) -> None:
        run = self._run_of(name) if name else self._oldest()
        if self.running_before is None:
            self.running_before = len(self.dispatch.running)
        if after_s is not None:
            self._until(run.granted_ms + int(after_s) * 1000)
        self.last_end = self.step
        self._finish(run, ok=how in ("ends", "succeeds"))

    def _wait(self, count: str, unit: str) -> None:
        self._until(self.now + int(count) * _UNITS_MS[unit])

    def _retry(self, group: str, _after_s: str) -> None:
        due = self.dispatch.lanes[group].retry_ms
        if due is None:
            raise NotUnderstood(f"no retry of {group} is set")
        self._until(due)

    def _follow_up(self, group: str, state: str | None) -> None:
        is_free = self.dispatch.state(group) == "idle"
        if state and is_free and "nothing" not in state and "no " not in state:
            if "shutdown" in state:
                self._handle(Drain())
                self._message(None, None, group)
            elif "task" in state:
                self._task("t", group)
            elif "idle" in state:
                # It still lives, and what comes now is its next run at once.
                self._idle(group)
                self._message(None, None, group)
            elif "running" in state or "live" in state or "busy" in state:
                self._message(None, None, group)
            else:
                raise NotUnderstood(f"state {state!r}")
        self.follow_ups.append(self.dispatch.takes_follow_up(group))

    # --- the machine ------------------------------------------------------------------------------------------

    def _handle(self, event: Event) -> None:
        for command in self.dispatch.handle(event, self.now, lambda group, _fire: f"{group} {len(self.starts)}"):
            if isinstance(command, Notice):
                self.notices.append(command)
            elif isinstance(command, Grant):
                self._started(command.run)

    def _started(self, run: Run) -> None:
        if len(self.starts) > STARTS_MAX:
            raise NotUnderstood("the scene never comes to rest")
        self.starts.append(Start(self.now, run, self.step))
        running = [each.group for each in self.dispatch.running]
        self.most_in_all = max(self.most_in_all, len(running))
        for group in set(running):
            self.most[group] = max(self.most.get(group, 0), running.count(group))
        outcome = next(self.task_outcomes if run.fire else self.outcomes, None)
        if outcome is not None:
            self._finish(run, ok=outcome)

    def _finish(self, run: Run, *, ok: bool) -> None:
        self._handle(Finished(run.group, run.run_id, ok=ok, error="" if ok else "boom"))

    def _run_of(self, name: str) -> Run:
        for run in self.dispatch.running:
            if (run.fire.task_id if run.fire else run.group) == name or (run.group == name and run.fire is None):
                return run
        raise NotUnderstood(f"{name} does not run")

    def _oldest(self) -> Run:
        if not self.dispatch.running:
            raise NotUnderstood("nothing runs")
        return self.dispatch.running[0]

    def _until(self, moment: int) -> None:
        while (due := self.dispatch.next_retry_ms()) is not None and due <= moment:
            self.now = max(self.now, due)
            for retry in self.dispatch.retries_due(self.now):
                self._handle(retry)
        if moment < HORIZON_MS:
            self.now = max(self.now, moment)

    def _let_end(self) -> None:
        while self.dispatch.running:
            self._finish(self.dispatch.running[0], ok=True)
        if not self.dispatch.draining:
            self._until(HORIZON_MS)
