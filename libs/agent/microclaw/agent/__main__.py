"""`python -m microclaw.agent`: the worker, as the sandbox starts it; with arguments, one command in its place."""

from __future__ import annotations

import asyncio
import os
import sys

from microclaw.agent.workspace import workspace_from


def main() -> int:
    """The exit code: 0 at the end of the host's lines, 2 when they make no sense; or the command's."""
    workspace = workspace_from(os.environ)
    if sys.argv[1:]:
        from microclaw.agent.by_hand import run_command

        return asyncio.run(run_command(sys.argv[1:], workspace))
    from microclaw.agent.serve import serve

    code = asyncio.run(serve(workspace))
    sys.stdout.flush()
    # The thread that reads standard input may be inside a read: don't wait for it.
    os._exit(code)


if __name__ == "__main__":
    sys.exit(main())
