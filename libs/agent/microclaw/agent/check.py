"""Runs the script that decides whether a task needs the model (`core.check`)."""

from __future__ import annotations

import shutil

from microclaw.agent.tools.errors import ToolError
from microclaw.agent.tools.shell import run_program
from microclaw.agent.workspace import Workspace
from microclaw.core.check import CHECK_S_MAX, Checked, CheckError, read_check

#: Of what a script that failed said last, in the error.
LAST_WORDS_CHARS = 200


async def run_check(script: str, workspace: Workspace, timeout_s: float = CHECK_S_MAX) -> Checked:
    """What it decides. After a crash in the middle of it it runs again: it should look, and change nothing. So one that
    would destroy something does not run at all, and no yes is asked for.

    :raises CheckError: it would destroy something, can't be started, failed, took longer than `timeout_s`, or did not
        decide.
    """
    from microclaw.core.destructive import why_destructive  # only when first needed

    if why := why_destructive(script):
        raise CheckError(f"it is not run: {why}")
    try:
        ran = await run_program(
            [shutil.which("bash") or "/bin/sh", "-c", script], workspace.group, timeout_s,
            await workspace.program_environment(),
        )
    except ToolError as error:
        raise CheckError(str(error)) from error
    if ran.timed_out:
        raise CheckError(f"it took longer than {timeout_s:g} s")
    if ran.exit_code:
        how = f"ended by signal {-ran.exit_code}" if ran.exit_code < 0 else f"exit code {ran.exit_code}"
        words = " ".join(ran.output.split())[-LAST_WORDS_CHARS:]
        raise CheckError(f"{how}: {words}" if words else how)
    return read_check(ran.output)
