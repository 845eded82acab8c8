"""Search in files, by the grep of the sandbox: a pattern that never ends is a process that can be ended."""

from __future__ import annotations

from microclaw.agent.tools.errors import ToolError
from microclaw.agent.tools.schemas import Grep
from microclaw.agent.tools.shell import run_program
from microclaw.agent.workspace import Workspace

#: A search is ended after this.
SEARCH_S_MAX = 20.0
#: Hits told of in one file.
HITS_PER_FILE_MAX = 100


async def grep(args: Grep, workspace: Workspace) -> str:
    """The tool."""
    path = workspace.readable(args.path)
    argv = ["grep", "-rnIE", f"--max-count={HITS_PER_FILE_MAX}", "--exclude-dir=.git"]
    if args.ignore_case:
        argv.append("-i")
    if args.glob:
        argv.append(f"--include={args.glob}")
    argv += ["-e", args.pattern, "--", workspace.shown(path)]
    ran = await run_program(argv, workspace.group, SEARCH_S_MAX)
    if ran.timed_out:
        raise ToolError(f"the search took more than {SEARCH_S_MAX:.0f} s: give a simpler pattern or a smaller folder")
    if ran.exit_code == 1:
        return "[no hits]"
    if ran.exit_code != 0 and not ran.output:
        raise ToolError(f"grep ended with exit code {ran.exit_code}")
    return ran.output.rstrip("\n")
