"""Which session a task runs in, and what it is told.

An IPC request that names no context, or one nobody knows, is a command of the host.
"""

from __future__ import annotations

from typing import Any

from tests.contract.areas.clock import clockwork
from tests.contract.rows import Case, Checked, Unmapped

from microclaw.core.kinds import RunGranted
from microclaw.core.tasks import TOOL_CONTEXT, context_of, session_for
from microclaw.core.turns import prompt_of


def answer(case: Case) -> dict[str, Any]:
    case.knows("context_mode", "context_mode_argument", "path", "task", "group_session")
    if case.when_is("created"):
        with clockwork() as clock:
            context = context_of(case.given.get("context_mode"))
            return {"context_mode": clock.create("interval", "60000", context=context).context}
    if case.when_is("agent calls the tool"):
        context = context_of(case.given.get("context_mode_argument"), TOOL_CONTEXT)
        with clockwork() as clock:
            return {"context_mode": clock.create("interval", "60000", context=context).context}
    task = case.need("task")
    if case.when_is("task runs") or case.when_is("receives"):
        grant = _granted(task)
        assert grant.task is not None
        prompt = prompt_of(grant, "UTC")
        return {
            "session_used": session_for(grant.task.context, case.given.get("group_session")),
            "prompt_starts_with": Checked(prompt, str.startswith),
            "prompt_ends_with": Checked(prompt, str.endswith),
        }
    raise Unmapped(f"when: {case.when}")


def _granted(task: dict[str, Any]) -> RunGranted:
    """The grant of the task's first fire, as the scheduler asks for it."""
    with clockwork() as clock:
        clock.create(
            "interval", "1000", prompt=task.get("prompt", "stretch"), context=context_of(task.get("context_mode"))
        )
        clock.now += 1_000
        clock.tick()
        (asked,) = clock.requests
    return RunGranted(run_id="r", attempt=1, group=asked.group, chat=asked.chat, task=asked.task)
