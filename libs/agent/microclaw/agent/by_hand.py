"""One command of the owner in a sandbox (`microclaw sandbox run`), with the relay that an agent's programs have."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence

from microclaw.agent.relay import Relay
from microclaw.agent.workspace import Workspace

#: As a shell says it.
NOT_FOUND, NOT_STARTED = 127, 126


async def run_command(argv: Sequence[str], workspace: Workspace) -> int:
    """Run it to its end, its streams being ours. Returns its exit code as a shell says it."""
    relay = Relay(workspace.egress_socket)
    env = dict(os.environ)
    if workspace.egress_socket.exists():
        await relay.start(workspace.relay_port)
        env = await relay.environment(env)
    try:
        process = await asyncio.create_subprocess_exec(*argv, env=env)
        code = await process.wait()
    except FileNotFoundError:
        print(f"{argv[0]}: not found")  # noqa: T201 - to the owner's terminal, which sees both streams as one
        return NOT_FOUND
    except OSError as error:
        print(f"{argv[0]}: {error.strerror}", flush=True)  # noqa: T201
        return NOT_STARTED
    finally:
        await relay.close()
    for reason in await relay.refused_since(0):
        print(f"[egress refused: {reason}]", flush=True)  # noqa: T201
    return code if code >= 0 else 128 - code
