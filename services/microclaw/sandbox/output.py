"""What a sandbox writes, in bounds: lines for the reader, a tail of standard error for the log, a cap on
both."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from microclaw.core.worker import LINE_BYTES_MAX

#: Unread standard output kept in memory; the sandbox waits beyond it.
BUFFER_BYTES_MAX = 2 * LINE_BYTES_MAX
#: Unread lines kept in memory, however short.
BUFFER_LINES_MAX = 4096
#: Standard error that is thrown away before the sandbox is ended for it, as a multiple of the cap.
ERRORS_CAPS_MAX = 16
#: Standard error kept for the log.
STDERR_TAIL_BYTES = 4 << 10


class Output:
    """Fed by the backend's readers, read by `receive`.

    The readers are held back while nobody reads (back-pressure reaches the sandbox), until `let_go`: from
    then on all is thrown away at once, because an engine whose stream is not drained does not carry out a
    kill.
    """

    def __init__(self, limit_bytes: int, on_cut: Callable[[], None]) -> None:
        self._limit_bytes = limit_bytes
        self._on_cut = on_cut
        self._total_bytes = 0
        self._errors_bytes = 0
        self._lines: deque[bytes] = deque()
        self._lines_bytes = 0
        self._partial = bytearray()
        self._tail = bytearray()
        self._ended = False
        self._let_go = False
        self._waiters: set[asyncio.Future[None]] = set()
        #: The cap was reached, or a line was too long: something was thrown away.
        self.cut = False
        #: Something of standard error was thrown away.
        self.errors_cut = False

    @property
    def stderr_tail(self) -> str:
        return bytes(self._tail).decode("utf-8", "replace")

    async def stdout(self, chunk: bytes) -> None:
        """Take a piece of standard output; returns when there is room for more."""
        if not self._count(chunk):
            return
        *whole, rest = chunk.split(b"\n")
        for part in whole:
            self._partial += part
            if len(self._partial) >= LINE_BYTES_MAX:
                self._cut_off()
                return
            self._lines.append(bytes(self._partial) + b"\n")
            self._lines_bytes += len(self._partial) + 1
            self._partial.clear()
        self._partial += rest
        if len(self._partial) >= LINE_BYTES_MAX:
            self._cut_off()
            return
        self._wake()
        while not (self._has_room() or self._let_go):
            await self._change()

    def stderr(self, chunk: bytes) -> None:
        """Take a piece of standard error. Beyond the cap it is thrown away, and the sandbox goes on: what a program
        complains of is no reason to lose its results. One that does nothing but complain is ended."""
        if self._let_go or self.cut:
            return
        self._errors_bytes += len(chunk)
        if self._errors_bytes > self._limit_bytes:
            self.errors_cut = True
            if self._errors_bytes > ERRORS_CAPS_MAX * self._limit_bytes:
                self._cut_off()
            return
        self._tail += chunk
        del self._tail[:-STDERR_TAIL_BYTES]

    def let_go(self) -> None:
        """Nobody waits for room any more."""
        self._let_go = True
        self._wake()

    def end(self) -> None:
        """There is no more standard output."""
        if self._partial and not self.cut:
            self._lines.append(bytes(self._partial))
        self._partial.clear()
        self._ended = True
        self._wake()

    async def receive(self) -> bytes | None:
        """The next line; None after the last."""
        while not self._lines:
            if self._ended:
                return None
            await self._change()
        line = self._lines.popleft()
        self._lines_bytes -= len(line)
        self._wake()
        return line

    async def _change(self) -> None:
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.add(waiter)
        try:
            await waiter
        finally:
            self._waiters.discard(waiter)

    def _wake(self) -> None:
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)

    def _count(self, chunk: bytes) -> bool:
        if self._let_go or self.cut:
            return False
        self._total_bytes += len(chunk)
        if self._total_bytes > self._limit_bytes:
            self._cut_off()
            return False
        return True

    def _has_room(self) -> bool:
        return self._lines_bytes <= BUFFER_BYTES_MAX and len(self._lines) <= BUFFER_LINES_MAX

    def _cut_off(self) -> None:
        self.cut = True
        self._partial.clear()
        self._on_cut()
