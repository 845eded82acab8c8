"""Which session a task runs in, and what it is told.

An IPC request is a call that reaches the host; the agent's tool is the one in the sandbox, which checks what the model
wrote and passes it on. A group's session is its transcript, which an isolated turn does not open.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.contract.house import House, house
from tests.contract.rows import Case, Checked, Unmapped, contains

from microclaw.agent.conversation import Call, Result
from microclaw.agent.sessions import Sessions
from microclaw.agent.tools.toolbox import Toolbox
from microclaw.agent.workspace import Workspace
from microclaw.core.worker import Turn

_GROUP, _CHAT = "fam", "wa:fam@g.us"
_EVERY_MS = 60_000
_TASK = {"prompt": "stretch", "schedule_type": "interval", "schedule_value": str(_EVERY_MS)}
#: How a row says that nothing is given.
_ABSENT = ("absent", "missing")


async def answer(case: Case) -> dict[str, Any]:
    case.knows("context_mode", "context_mode_argument", "path", "task", "group_session")
    given = case.given
    async with house() as made:
        await made.register(_CHAT, _GROUP)
        if "task" in given:
            return await _runs(made, given["task"], given.get("group_session"))
        if case.when_is("tool") or "context_mode_argument" in given:
            mode = given.get("context_mode_argument", given.get("context_mode"))
            with tempfile.TemporaryDirectory(prefix="mc-tool-") as folder:
                workspace = Workspace(root=Path(folder), egress_socket=Path(folder) / "egress.sock")
                args = _TASK if mode is None or mode in _ABSENT else _TASK | {"context_mode": mode}
                call = Call(call_id="c", name="schedule_task", args=args)
                await Toolbox(workspace, lambda asked: _asked(made, asked)).run(call)
        elif case.when_is("created"):
            mode = given.get("context_mode", "absent")
            await _asked(made, Call(call_id="c", name="schedule_task", args=(
                _TASK if mode in _ABSENT else _TASK | {"context_mode": mode}
            )))
        else:
            raise Unmapped(f"when: {case.when}")
        modes = [row.context for row in made.clock.rows()]
    return {"context_mode": modes[0] if modes else None, "accepted": bool(modes)}


async def _asked(made: House, call: Call) -> Result:
    """The host is asked, as by a worker."""
    reply = await made.call(_GROUP, _CHAT, False, call.name, call.args)
    return Result(call_id=call.call_id, ok=reply.ok, text=reply.text)


async def _runs(made: House, task: Mapping[str, Any], group_session: str | None) -> dict[str, Any]:
    """The task's first fire, as far as its worker."""
    unknown = sorted(set(task) - {"context_mode", "prompt"})
    if unknown:
        raise Unmapped(f"task: {', '.join(unknown)}")
    args = _TASK | ({"prompt": task["prompt"]} if "prompt" in task else {})
    mode = {"context_mode": task["context_mode"]} if "context_mode" in task else {}
    reply = await made.call(_GROUP, _CHAT, False, "schedule_task", args | mode)
    assert reply.ok, reply.text
    made.clock.now += _EVERY_MS
    made.fire()
    await made.run_next()
    (told,) = made.prompts(_GROUP)
    prompt = told["prompt"]
    with tempfile.TemporaryDirectory(prefix="mc-sessions-") as folder:
        sessions = Sessions(Path(folder))
        conversation = sessions.open(Turn(run_id="r0", prompt="before", now_ms=0))
        is_same = sessions.open(Turn(run_id="r1", prompt=prompt, now_ms=0, session=told["session"])) is conversation
    return {
        "session_used": group_session if is_same else None,
        "prompt": prompt, "prompt_contains": contains(prompt),
        "prompt_starts_with": Checked(prompt, str.startswith), "prompt_ends_with": Checked(prompt, str.endswith),
    }
