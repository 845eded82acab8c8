"""The three pipes of a program that is a sandbox's outer end."""

from __future__ import annotations

import asyncio

from microclaw.sandbox.backend import SandboxError
from microclaw.sandbox.output import Output

#: One read from a pipe.
CHUNK_BYTES = 64 << 10


async def send(process: asyncio.subprocess.Process, line: bytes, worker_id: str) -> None:
    """:raises SandboxError: it has ended or no longer reads."""
    if process.stdin is None or process.returncode is not None:
        raise SandboxError(f"worker {worker_id} has ended; start another")
    try:
        process.stdin.write(line)
        await process.stdin.drain()
    except (ConnectionError, RuntimeError) as error:
        raise SandboxError(f"worker {worker_id} no longer reads; start another") from error


async def drain(process: asyncio.subprocess.Process, output: Output) -> None:
    """Read both outputs to their ends, and wait for the program's."""
    await asyncio.gather(_stdout(process.stdout, output), _stderr(process.stderr, output), process.wait())


def exit_code(process: asyncio.subprocess.Process) -> int:
    """As a shell says it."""
    code = process.returncode or 0
    return 128 - code if code < 0 else code


async def _stdout(pipe: asyncio.StreamReader | None, output: Output) -> None:
    while pipe and (chunk := await pipe.read(CHUNK_BYTES)):
        await output.stdout(chunk)
    output.end()


async def _stderr(pipe: asyncio.StreamReader | None, output: Output) -> None:
    while pipe and (chunk := await pipe.read(CHUNK_BYTES)):
        output.stderr(chunk)
