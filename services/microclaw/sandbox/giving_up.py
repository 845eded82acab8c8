"""What was asked of an engine or of the system is done, also when nobody waits for it any more."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from microclaw.sandbox.backend import SandboxError

T = TypeVar("T")


async def or_undo(work: Coroutine[Any, Any, T], undo: Callable[[T], Awaitable[object]]) -> T:
    """The result of `work`, which runs to its end. If the caller is cancelled meanwhile, what came of it is undone
    before the cancellation goes on: half a start must leave nothing behind."""
    doing = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(doing)
    except asyncio.CancelledError:
        try:
            made = await doing
        except (SandboxError, OSError):
            pass  # nothing came of it
        else:
            await undo(made)
        raise
