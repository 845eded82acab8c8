"""Questions of the agent's own to egress's door, over its Unix socket: one connection each, the answer small."""

from __future__ import annotations

import asyncio
from pathlib import Path

#: The whole question.
ANSWER_S_MAX = 2.0
ANSWER_BYTES_MAX = 256 << 10
CHUNK_BYTES = 64 << 10


async def ask_door(door: Path, path: str) -> tuple[dict[str, str], bytes]:
    """`GET path`: the headers (names in lower case) and the body of a 200.

    :raises OSError: egress is away, slow, or answered anything else.
    """
    async with asyncio.timeout(ANSWER_S_MAX):
        reader, writer = await asyncio.open_unix_connection(str(door), limit=CHUNK_BYTES)
        try:
            writer.write(f"GET {path} HTTP/1.1\r\nHost: egress\r\nConnection: close\r\n\r\n".encode())
            whole = b""
            while len(whole) < ANSWER_BYTES_MAX and (piece := await reader.read(CHUNK_BYTES)):
                whole += piece
        finally:
            writer.close()
    head, _, body = whole.partition(b"\r\n\r\n")
    status, *lines = head.decode("latin-1").split("\r\n")
    if not status.startswith("HTTP/1.1 200"):
        raise OSError(f"the door answered {status[:100]!r}")
    pairs = (line.partition(":") for line in lines)
    return {name.strip().lower(): value.strip() for name, _, value in pairs}, body
