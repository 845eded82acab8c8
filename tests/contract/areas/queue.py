"""Who runs, who waits, what is tried again: the queue's machine with a clock of ours.

`when` is a scene in steps. A run whose result the row gives ends at once when it starts; the others when a step says
so, and what still runs after the last step ends well. "Taken" of a follow-up: a run of messages is under way for it. A
worker that is idle holds no place here (its run ended with the turn): that a task is granted at once is what closing
an idle container was for.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from typing import Any

from tests.contract.queue.scene import NotUnderstood, Scene, Start
from tests.contract.rows import Case, Checked, Phrases, Unmapped, begins_with

_WELL = {"success": True, "ok": True, "failure": False, "fail": False, "throws": False, "error": False}


def answer(case: Case) -> dict[str, Any]:
    case.knows("max_concurrent", "run_result", "runs", "task_result")
    if not isinstance(case.when, list):
        raise Unmapped(f"when: {case.when}")
    outcomes: Iterator[bool | None] = itertools.repeat(None)
    if "run_result" in case.given:
        outcomes = itertools.repeat(_well(case.given["run_result"]))
    elif "runs" in case.given:
        outcomes = iter([_well(each) for each in case.given["runs"]])
    tasks: Iterator[bool | None] = itertools.repeat(None)
    if "task_result" in case.given:
        tasks = itertools.repeat(_well(case.given["task_result"]))
    scene = Scene(case.given.get("max_concurrent", 2), outcomes, tasks)
    try:
        scene.play(case.when)
    except NotUnderstood as error:
        raise Unmapped(str(error)) from error
    return _facts(scene, case)


def _facts(scene: Scene, case: Case) -> dict[str, Any]:
    starts = scene.starts
    names = [start.name for start in starts]
    after_end = [start for start in starts if scene.last_end is not None and start.step == scene.last_end]
    has_rest = scene.dispatch.next_retry_ms() is None
    in_steps = [start for start in starts if start.step < len(case.when)]
    facts: dict[str, Any] = {
        "order": Checked(names, _same_order), "started": Checked(names, _same_order),
        "start_order": Checked(names, _same_order),
        "first_two": Checked(names[:2], _same_order),
        "started_next": Checked([start.name for start in after_end[:1]], lambda got, want: _same_order(got, [want])),
        "start_times_ms": [start.at_ms for start in starts],
        "start_offsets_ms_after_new_message": begins_with([
            start.at_ms - scene.began[-1] for start in starts if start.step >= len(case.when) - 1
        ]),
        "then": Phrases({"stops": has_rest and bool(scene.notices)}),
        "running_before": scene.running_before, "started_in_all": len(starts), "runs": len(starts),
        "max_parallel": scene.most_in_all, "running_after": scene.running_after, "waiting": scene.line_after,
    }
    if scene.follow_ups:
        facts["taken"] = scene.follow_ups[-1] if len(scene.follow_ups) == 1 else scene.follow_ups
    if any(step.startswith("container ") for step in case.when):
        facts["close_sentinel"] = any(start.run.fire and start.step == len(case.when) - 1 for start in starts)
    for key in case.asked - set(facts):
        if (found := _named(key, starts, in_steps, scene)) is not None:
            facts[key] = found
    return facts


def _named(key: str, starts: list[Start], in_steps: list[Start], scene: Scene) -> Any:
    if match := re.fullmatch(r"max_parallel_for_(\w+)", key):
        return scene.most.get(match[1], 0)
    if match := re.fullmatch(r"(\w+)_started", key):
        return any(start.name[1] == match[1] for start in in_steps)
    if match := re.fullmatch(r"(\w+)_runs", key):
        return sum(start.name[1] == match[1] for start in starts)
    if match := re.fullmatch(r"(\w+)_second_start_ms", key):
        times = [start.at_ms for start in starts if start.name == ("M", match[1])]
        return times[1] if len(times) > 1 else None
    return None


def _same_order(names: list[tuple[str, str]], expected: list[str]) -> bool:
    return names == [_name(word) for word in expected]


def _name(word: str) -> tuple[str, str]:
    """"M:a", "messages a" or "a": messages of a; "T:t1" or "task t1": that task."""
    kind, _, name = word.replace("messages ", "M:").replace("task ", "T:").rpartition(":")
    return (kind or "M", name)


def _well(word: str) -> bool:
    if word not in _WELL:
        raise Unmapped(f"a run that ends with {word!r}")
    return _WELL[word]
