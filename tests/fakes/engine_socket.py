"""A container engine's socket that comes and goes, as when its daemon is started again; behind it is the real one."""

from __future__ import annotations

import asyncio
from pathlib import Path


class EngineSocket:
    """Passes bytes on to the real engine while it is open."""

    def __init__(self, path: Path, real: Path) -> None:
        self.path = path
        self._real = real
        self._server: asyncio.Server | None = None
        self._live: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        self._server = await asyncio.start_unix_server(self._pass_on, self.path)

    async def close(self) -> None:
        """Everybody who is connected is cut off."""
        if self._server is not None:
            self._server.close()
            self._server = None
        self.path.unlink(missing_ok=True)
        for task in list(self._live):
            task.cancel()
        await asyncio.gather(*self._live, return_exceptions=True)

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._live.add(task)
        try:
            there, back = await asyncio.open_unix_connection(self._real)
            try:
                async with asyncio.TaskGroup() as pumps:
                    pumps.create_task(_pump(reader, back))
                    pumps.create_task(_pump(there, writer))
            finally:
                back.close()
        except* (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            self._live.discard(task)
            writer.close()


async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    while data := await source.read(1 << 16):
        sink.write(data)
        await sink.drain()
    if sink.can_write_eof():
        sink.write_eof()
