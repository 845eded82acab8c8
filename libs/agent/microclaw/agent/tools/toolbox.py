"""Carries out one call: checks its arguments against the schema, then runs it here or asks the host."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Literal

import msgspec

from microclaw.agent.conversation import Call, Result
from microclaw.agent.tools import files, schemas, search, shell
from microclaw.agent.tools.errors import ToolError
from microclaw.agent.workspace import Workspace
from microclaw.core.worker import ALLOW_COMMAND

#: A longer result is cut in the middle, in characters.
RESULT_CHARS_MAX = 30_000

#: Asks the host to carry out a call and waits for its answer.
AskHost = Callable[[Call], Awaitable[Result]]
#: Runs a call in here and gives the text for the model.
RunHere = Callable[[Any, Workspace], Awaitable[str]]

async def _web_fetch(args: schemas.WebFetch, workspace: Workspace) -> str:
    from microclaw.agent.tools import web  # http.client and its kin: only when first needed

    return await web.web_fetch(args, workspace)


HERE: dict[str, RunHere] = {
    "bash": shell.bash,
    "read_file": files.read_file,
    "write_file": files.write_file,
    "edit_file": files.edit_file,
    "list_files": files.list_files,
    "grep": search.grep,
    "web_fetch": _web_fetch,
}


class Toolbox:
    """The tools of one worker. `extra` are tools of a backend of its own (the script's crash)."""

    def __init__(
        self,
        workspace: Workspace,
        ask_host: AskHost,
        extra: dict[str, tuple[schemas.ToolSpec, RunHere]] | None = None,
    ) -> None:
        self._workspace = workspace
        self._ask_host = ask_host
        self._extra = extra or {}

    def _spec(self, name: str) -> schemas.ToolSpec | None:
        return self._extra[name][0] if name in self._extra else schemas.TOOLS.get(name)

    def effect(self, call: Call) -> Literal["read", "write", "host"]:
        """What a death while it runs would mean."""
        spec = self._spec(call.name)
        return spec.effect if spec is not None else "read"

    async def run(self, call: Call) -> Result:
        """Never raises for what a model can get wrong: that is a result too."""
        spec = self._spec(call.name)
        if spec is None:
            return _refused(call, f"there is no tool {call.name!r}; use one of {', '.join(schemas.TOOLS)}")
        if call.broken:
            return _refused(call, f"the arguments could not be read ({call.broken}); call again with a JSON object")
        try:
            args = msgspec.convert(call.args, spec.args, strict=False)
        except msgspec.ValidationError as error:
            return _refused(call, f"wrong arguments: {error}")
        if isinstance(args, schemas.ScheduleTask):
            # The model was told that a task knows the conversation if it says nothing; the host takes nothing as no.
            call = msgspec.structs.replace(call, args=call.args | {"context_mode": args.context_mode})
        if spec.effect == "host":
            return await self._ask_host(call)
        if isinstance(args, schemas.Bash):
            from microclaw.core.destructive import why_destructive  # only when first needed

            if why_destructive(args.command):
                may = await self._ask_host(
                    Call(call_id=call.call_id, name=ALLOW_COMMAND, args={"command": args.command})
                )
                if not may.ok:
                    return may
        here = self._extra[call.name][1] if call.name in self._extra else HERE[call.name]
        try:
            text = await here(args, self._workspace)
        except ToolError as error:
            return _refused(call, str(error))
        except OSError as error:
            return _refused(call, f"{error.strerror or error}: {error.filename}" if error.filename else str(error))
        return Result(call_id=call.call_id, ok=True, text=cut_middle(text, RESULT_CHARS_MAX))


def _refused(call: Call, why: str) -> Result:
    return Result(call_id=call.call_id, ok=False, text=f"error: {cut_middle(why, RESULT_CHARS_MAX)}")


def cut_middle(text: str, chars_max: int) -> str:
    """The beginning and the end of a long text, and how much is missing between them."""
    if len(text) <= chars_max:
        return text
    half = chars_max // 2
    return f"{text[:half]}\n… {len(text) - 2 * half} characters left out …\n{text[-half:]}"
