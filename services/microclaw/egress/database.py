"""`egress.db`, and the one thread that has its connection.

A commit waits for the disk. It does so in that thread: doors, tunnels and streams go on meanwhile, and whoever must
know that something is on disk awaits it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import ParamSpec, TypeVar

from sqlalchemy import Connection

from microclaw.core.errors import UnhealthyError
from microclaw.store.engine import open_store

P = ParamSpec("P")
T = TypeVar("T")


class Database:
    """The database. What is done in it (`work`) is plain, synchronous code; SQLite refuses it in any other thread."""

    def __init__(self, path: Path, head: str) -> None:
        """:raises UnhealthyError: as `open_store`."""
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="egress-db")
        self._closed: asyncio.Future[None] | None = None
        self._engine = self.run_at_start(open_store, path, head, one_thread=True)

    def begin(self) -> AbstractContextManager[Connection]:
        """A transaction; within a `work` only."""
        return self._engine.begin()

    async def run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Do this in the thread, after all that was asked before; what it committed is on disk when this returns.

        Once asked it is done, though the caller may be cancelled meanwhile.

        :raises UnhealthyError: the service is ending; nothing was done.
        """
        return await asyncio.shield(self.ask(work, *args, **kwargs))

    def ask(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> asyncio.Future[T]:
        """The same, for several to wait for: each by `asyncio.shield`. :raises UnhealthyError:"""
        try:
            return asyncio.get_running_loop().run_in_executor(self._thread, partial(work, *args, **kwargs))
        except RuntimeError as error:
            raise UnhealthyError("egress is ending and writes nothing any more: ask again when it is back") from error

    def run_at_start(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """The same, and everything waits for it: for what has to be read before the service begins."""
        return self._thread.submit(work, *args, **kwargs).result()

    async def close(self) -> None:
        """Take nothing more, and return when all that was asked before is done. Again is no harm."""
        if self._closed is None:
            self._closed = self.ask(self._engine.dispose)
            self._thread.shutdown(wait=False)
        await asyncio.shield(self._closed)
