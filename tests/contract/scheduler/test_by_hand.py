"""A task that is run by hand, and its log."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.contract.scheduler.clockwork import Clockwork

from microclaw.core.requests import Failed, TaskRuns, TaskRunsAsked
from microclaw.core.tasks import Task


@pytest.fixture
def clock(tmp_path: Path) -> Clockwork:
    return Clockwork(tmp_path)


def by_hand(clock: Clockwork, command_id: str, task_id: str) -> Task | Failed:
    done = clock.firing.fire_now(command_id, task_id, clock.folders)
    clock.publish()
    return done


def test_it_runs_now_besides_its_times_and_once_a_command(clock: Clockwork) -> None:
    task = clock.create("interval", "600000")
    for _ in range(2):
        assert isinstance(by_hand(clock, "c", task.id), Task)
    assert clock.fired() == [(task.id, clock.now)]
    assert clock.row(task.id).next_run_ms == task.next_run_ms
    assert "is running" in str(by_hand(clock, "d", task.id))
    clock.ends(task.id, clock.now, result="done")
    clock.now = task.next_run_ms or 0
    clock.tick()
    assert len(clock.fired()) == 2
    found = clock.commands.runs(TaskRunsAsked(task_id=task.id))
    assert isinstance(found, TaskRuns)
    assert [(run.status, run.result) for run in found.runs] == [("fired", ""), ("success", "done")]


def test_a_paused_task_runs_by_hand_and_stays_paused(clock: Clockwork) -> None:
    task = clock.create("interval", "600000")
    clock.change(task.id, "pause")
    assert isinstance(by_hand(clock, "c", task.id), Task)
    clock.finish_all()
    assert clock.row(task.id).status == "paused"


def test_what_is_not_there_is_told(clock: Clockwork) -> None:
    assert "no task" in str(by_hand(clock, "c", "task-0"))
    assert isinstance(clock.commands.runs(TaskRunsAsked(task_id="task-0")), Failed)
    task = clock.create("interval", "600000")
    clock.folders = frozenset()
    assert "Group not found" in str(by_hand(clock, "c", task.id))
    assert clock.requests == []
