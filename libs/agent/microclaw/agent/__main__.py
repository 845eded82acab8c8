"""`python -m microclaw.agent`: the worker, as the sandbox starts it."""

from __future__ import annotations

import asyncio
import os
import sys

from microclaw.agent.serve import serve
from microclaw.agent.workspace import workspace_from


def main() -> int:
    """The exit code: 0 at the end of the host's lines, 2 when they make no sense."""
    code = asyncio.run(serve(workspace_from(os.environ)))
    sys.stdout.flush()
    # The thread that reads standard input may be inside a read: don't wait for it.
    os._exit(code)


if __name__ == "__main__":
    main()
