"""From the configuration to a backend that can start workers, or to a clear word why there is none."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Awaitable, Callable, Sequence

from microclaw.core.settings import Settings
from microclaw.sandbox.backend import Backend, EngineMissing, SandboxError
from microclaw.sandbox.choose import ORDER, first_usable

#: While no backend works, how often it is looked whether one does now (an engine that was installed or started).
LOOK_AGAIN_S = 30.0

log = logging.getLogger("microclaw.sandbox")


class Readiness:
    """The backend, once it is there. Nothing ever runs without one.

    :param candidates: the backends that the configuration allows, in the order in which they are tried.
    :param start: what is done with a backend before it is used (the reaping of earlier lives).
    :param trouble: tells the owner.
    """

    def __init__(
        self, candidates: Sequence[Backend], *, auto: bool,
        start: Callable[[Backend], Awaitable[None]], trouble: Callable[[str], None],
    ) -> None:
        self._candidates = list(candidates)
        self._auto = auto
        self._start = start
        self._trouble = trouble
        #: The first look has ended.
        self._looked = asyncio.Event()
        self._lacking = asyncio.Event()
        self._lacking.set()
        self._withdrawn: list[str] = []
        self._why_not = ""
        self._found = asyncio.Event()
        self.backend: Backend | None = None

    @property
    def why_not(self) -> str:
        """Why there is no backend, and what to do; "" = not looked yet."""
        return self._why_not

    async def get(self) -> Backend:
        """The backend; waits for the first look's end.

        :raises EngineMissing: there is none, and what to do.
        """
        await self._looked.wait()
        if self.backend is None:
            raise EngineMissing(self._why_not)
        return self.backend

    async def wait(self) -> Backend:
        """The backend, as soon as there is one."""
        while self.backend is None:
            self._found.clear()
            await self._found.wait()
        return self.backend

    def withdraw(self, backend: Backend, why: str) -> None:
        """This backend does not keep what it promises: use it no more, rather none."""
        self._candidates = [other for other in self._candidates if other is not backend]
        self.backend = None
        self._why_not = why
        self._withdrawn.append(why)
        self._trouble(why)
        self._lacking.set()

    async def keep_looking(self) -> None:
        """See to it that there is a backend, for as long as the service lives."""
        while True:
            await self._lacking.wait()
            try:
                backend = await self._first()
                await self._start(backend)
            except (SandboxError, OSError) as error:
                self._why_not = str(error)
                self._trouble(str(error))
                self._looked.set()
                await asyncio.sleep(LOOK_AGAIN_S)
            else:
                self._lacking.clear()
                self.backend = backend
                self._looked.set()
                self._found.set()

    async def _first(self) -> Backend:
        left = list(self._candidates)
        failed = list(self._withdrawn)
        if not left:
            raise EngineMissing("; ".join(failed))
        while True:
            try:
                backend = await first_usable(left, auto=self._auto)
            except EngineMissing as error:
                raise EngineMissing("; ".join([*failed, str(error)])) from error
            try:
                await backend.prepare()
            except SandboxError as error:
                left = left[left.index(backend) + 1:]
                if not left:
                    raise EngineMissing("; ".join([*failed, str(error)])) from error
                failed.append(f"{backend.name}: {error}")
                log.warning("backend can't be prepared", extra={"backend": backend.name, "why": str(error)})
            else:
                return backend


def names_of(settings: Settings) -> tuple[str, ...]:
    """The backends that the configuration allows here, in the order in which they are tried."""
    wanted = settings.sandbox.backend
    return ORDER.get(sys.platform, ()) if wanted == "auto" else (wanted,)
