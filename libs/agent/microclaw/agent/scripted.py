"""A model that does what the prompt's lines say: for tests that have to drive a mesh into every corner.

Lines of the messages, in order:
- `#!say TEXT` – a line of the answer;
- `#!bash COMMAND` – runs it in the sandbox; its output is a line of the answer;
- `#!tool NAME {json}` – calls a tool of the sandbox or the host; its result is a line of the answer;
- `#!quiet NAME {json}` – the same, but the result is not said;
- `#!sleep SECONDS` – takes its time;
- `#!write SECONDS TEXT` – is so long at writing this line of the answer;
- `#!crash` – the process dies, once a turn: done again, the turn goes on after it; `#!crash always` dies every time;
- `#!fail CODE [TEXT]` – the model fails with that error code.
Without any of them the answer is `echo: ` and the text, a line for each message.
"""

from __future__ import annotations

import asyncio
import json
import os
import re

import msgspec

from microclaw.agent.conversation import Said
from microclaw.agent.models import Ask, FailureCode, ModelError
from microclaw.agent.plan import Plan, Want, next_message
from microclaw.agent.reading import Prompt, read_prompt
from microclaw.agent.tools.schemas import Args, ToolSpec
from microclaw.agent.tools.toolbox import RunHere
from microclaw.agent.workspace import Workspace

#: Exit code of a scripted crash (EX_SOFTWARE).
CRASH_EXIT_CODE = 70

_WRITE = re.compile(r"#!write ([0-9.]+) (.+)")


class ScriptSleep(Args, frozen=True):
    """Take time."""

    seconds: float


class ScriptCrash(Args, frozen=True):
    """Die."""


async def _sleep(args: ScriptSleep, _: Workspace) -> str:
    await asyncio.sleep(args.seconds)
    return f"slept {args.seconds:g} s"


async def _crash(_args: ScriptCrash, _: Workspace) -> str:
    os._exit(CRASH_EXIT_CODE)


#: `script_crash` has side effects, so it is never done twice for one call; `script_crash_always` has none.
SCRIPT_TOOLS: dict[str, tuple[ToolSpec, RunHere]] = {
    "script_sleep": (ToolSpec("script_sleep", ScriptSleep, "read"), _sleep),
    "script_crash": (ToolSpec("script_crash", ScriptCrash, "write"), _crash),
    "script_crash_always": (ToolSpec("script_crash_always", ScriptCrash, "read"), _crash),
}


class ScriptedModel:
    """Answers by the script in the prompt."""

    async def prewarm(self) -> None:
        return

    async def close(self) -> None:
        return

    async def say(self, ask: Ask) -> Said:
        prompt = read_prompt(ask.turn.prompt)
        written: list[str] = []
        for seconds, text in _WRITE.findall("\n".join(message.text for message in prompt.messages)):
            written.append(text)
            if ask.writing is not None:
                ask.writing(lambda: "\n".join(written))
            await asyncio.sleep(float(seconds))
        return next_message(_play(prompt), ask.turn)


def _play(prompt: Prompt) -> Plan:
    lines = [line.strip() for message in prompt.messages for line in message.text.splitlines()]
    directives = [line for line in lines if line.startswith("#!")]
    if not directives:
        return "\n".join(f"echo: {message.text}" for message in prompt.messages)
    said: list[str] = []
    for directive in directives:
        verb, _, rest = directive[2:].partition(" ")
        rest = rest.strip()
        if verb in ("say", "write"):
            said.append(rest if verb == "say" else rest.partition(" ")[2])
            continue
        if verb == "fail":
            code, _, text = rest.partition(" ")
            raise ModelError(msgspec.convert(code, FailureCode), text or f"the script says {code}")
        result = yield _want(verb, rest)
        if verb in ("bash", "tool"):
            said.append(result.text)
    return "\n".join(said)


def _want(verb: str, rest: str) -> Want:
    match verb:
        case "bash":
            return Want("bash", {"command": rest})
        case "sleep":
            return Want("script_sleep", {"seconds": float(rest)})
        case "crash":
            return Want("script_crash_always" if rest == "always" else "script_crash", {})
        case "tool" | "quiet":
            name, _, args = rest.partition(" ")
            return Want(name, json.loads(args or "{}"))
    raise ModelError("bad_request", f"#!{verb} is not a directive of the script")
