"""A backend is not written off for one start that fails by chance."""

from __future__ import annotations

import pytest

from microclaw.sandbox.backend import Ended, EngineMissing, SandboxError
from microclaw.sandbox.probe import KILLED, TRIES, probe_backend


class Run:
    def __init__(self, code: int) -> None:
        self.code = code

    async def receive(self) -> bytes | None:
        return None

    async def wait(self) -> Ended:
        return Ended(self.code)


class Backend:
    """Starts as told, one after the other."""

    name = "told"

    def __init__(self, *starts: int | SandboxError) -> None:
        self.starts = list(starts)

    async def start(self, _spec: object) -> Run:
        told = self.starts.pop(0)
        if isinstance(told, SandboxError):
            raise told
        return Run(told)


NOT_STARTED = SandboxError("did not start: FileNotFoundError(2)")


@pytest.mark.parametrize("starts", [(NOT_STARTED, 0), (KILLED, NOT_STARTED, 0), (NOT_STARTED, KILLED, 0)])
async def test_a_start_that_fails_or_is_killed_is_tried_again(starts) -> None:
    backend = Backend(*starts)
    assert (await probe_backend(backend, "1", deep=False)).usable
    assert not backend.starts


async def test_what_never_starts_is_not_usable_and_says_why() -> None:
    found = await probe_backend(Backend(*[NOT_STARTED] * TRIES), "1", deep=False)
    assert (found.usable, found.reason) == (False, str(NOT_STARTED))


async def test_a_missing_engine_is_not_looked_for_again() -> None:
    backend = Backend(EngineMissing("install it"), 0)
    assert (await probe_backend(backend, "1", deep=False)).reason == "install it"
    assert backend.starts == [0]
