"""Scenes of the queue in words ("msg a", "task t1 for b", "a ends", "wait 400 s"), played with the pure machine."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from microclaw.core.dispatch import Dispatch, Drain, Event, Finished, Grant, Notice, TaskDue, Wanted
from microclaw.core.lanes import Fire, Item, Run

_UNITS_MS = {"ms": 1, "s": 1000, "min": 60_000, "h": 3_600_000}
#: A time in words, a group of a number and one of its unit.
_TIME = r"(\d+) (ms|s|min|h)"
#: How a run ends well, and how it does not.
_WELL = "ends|ends well|finishes|succeeds"
_BADLY = "fails|throws|ends badly"
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
        #: Groups whose worker lives and waits for more.
        self._idle_workers: set[str] = set()

    # --- steps ------------------------------------------------------------------------------------------------

    def play(self, steps: list[str]) -> None:
        """All steps, then whatever is left comes to its end; a wait at the end is the end."""
        if any(step.startswith("container ") for step in steps[1:]) and not re.match("container |msg ", steps[0]):
            # What is said of the container later was so before.
            self._message(None, None, self.group)
        for number, step in enumerate(steps):
            self.step = number
            self.began.append(self.now)
            self._do(step)
        self.running_after, self.line_after = len(self.dispatch.running), self.dispatch.line
        self.step = len(steps)
        if not re.fullmatch(rf"(?:wait )?{_TIME}(?: pass(?:es)?)?", steps[-1] if steps else ""):
            self._let_end()

    def _do(self, step: str) -> None:
        table: tuple[tuple[str, Callable[..., None]], ...] = (
            (rf"(?:at {_TIME} )?(?:new )?(?:msg|message)(?: for)? (\w+)(?: starts| arrives| comes| again)?(?: \(.*\))?",
             self._message),
            (rf"(?:msg|message)(?: for)? (\w+) (?:at|after) {_TIME}",
             lambda group, count, unit: self._message(count, unit, group)),
            (r"msg (\w+) fails", self._message_fails),
            (r"msg (\w+) fails at (\d+) ms while msg \w+ is pending", self._message_fails_late),
            (r"task (\w+)(?: for (\w+))?(?: again| starts| comes| is due)?(?: \(.*\))?", self._task),
            (r"task (\w+)(?: for (\w+))? (?:fails|throws)", self._task_fails),
            (r"(?:all|everything|all runs) ends?()", lambda _: self._let_end()),
            (r"(?:a )?task (?:is )?(?:queued|enqueued)(?: for (\w+))?()", lambda group, _: self._task("t", group)),
            (r"(?:a )?message (?:is )?(?:queued|enqueued)(?: for (\w+))?",
             lambda group: self._message(None, None, group or self.group)),
            (r"container (?:is |goes |becomes )?idle(?: (?:for|of) (\w+))?", self._idle),
            (r"container (?:is )?(?:busy|working|running|active|live|not idle|starts)(?: (?:for|of) (\w+))?",
             lambda group: self._message(None, None, group or self.group)),
            (rf"(?:(?:the )?(?:first|second|third|next) run|(?:run of )?(\w+)) ({_WELL}|{_BADLY})(?: at {_TIME})?",
             self._end),
            (rf"(?:wait )?{_TIME}(?: pass(?:es)?)?", self._wait),
            (r"retries used up()", lambda _: self._until(HORIZON_MS)),
            (rf"retry of (\w+)(?: is)? due(?: at {_TIME})?", self._retry),
            (r"follow-up(?: message)?(?: for (\w+))?(?: \((.*)\))?", self._follow_up),
            (r"(?:host )?(?:shutdown|shuts down|shutting down)()", lambda _: self._handle(Drain())),
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
        self._idle_workers.discard(group)
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
        if not self._is_answering(self.group):
            self._message(None, None, self.group)
        self._idle_workers.add(self.group)
        self._finish(self._run_of(self.group), ok=True)

    def _is_answering(self, group: str) -> bool:
        """A run of the group's messages is under way."""
        return any(run.group == group and run.fire is None for run in self.dispatch.running)

    def _end(self, name: str | None, how: str, count: str | None, unit: str | None) -> None:
        run = self._run_of(name) if name else self._oldest()
        if self.running_before is None:
            self.running_before = len(self.dispatch.running)
        if count is not None:
            self._until(run.granted_ms + int(count) * _UNITS_MS[unit or "ms"])
        self.last_end = self.step
        self._finish(run, ok=how in _WELL.split("|"))

    def _wait(self, count: str, unit: str) -> None:
        self._until(self.now + int(count) * _UNITS_MS[unit])

    def _retry(self, group: str, _count: str | None, _unit: str | None) -> None:
        due = self.dispatch.lanes[group].retry_ms
        if due is None:
            raise NotUnderstood(f"no retry of {group} is set")
        self._until(due)

    def _follow_up(self, group: str | None, state: str | None) -> None:
        group = self.group = group or self.group
        if group in self._idle_workers:
            # It still lives, and what comes now is its next run at once.
            self._message(None, None, group)
        is_free = self.dispatch.state(group) == "idle"
        if state and is_free and "nothing" not in state and "no " not in state and "not " not in state:
            if "shutdown" in state:
                self._handle(Drain())
                self._message(None, None, group)
            elif "task" in state:
                self._task("t", group)
            elif "idle" in state or "waits" in state:
                self._idle(group)
                self._message(None, None, group)
            elif re.search("runs|running|live|busy|active|answering|working|container", state):
                self._message(None, None, group)
            else:
                raise NotUnderstood(f"state {state!r}")
        self.follow_ups.append(self._is_answering(group))

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
        """A task's run by its name, a group's by the group's; of messages, if they run."""
        running = self.dispatch.running
        for run in running:
            if (run.fire.task_id if run.fire else run.group) == name:
                return run
        for run in running:
            if run.group == name:
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
