"""Asking services over the bus."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TypeVar

import msgspec

from microclaw.bus.api import Bus
from microclaw.bus.errors import BusTimeout
from microclaw.bus.supervisor import Supervisor
from microclaw.cli.context import Context
from microclaw.core.errors import DeniedError, MicroclawError, UnhealthyError, UsageError
from microclaw.core.requests import ANSWERED_BY, Failed, Request

#: Until the broker has greeted us, and until a service has answered.
CONNECT_TIMEOUT_S = 5.0
ANSWER_TIMEOUT_S = 10.0

T = TypeVar("T")


@asynccontextmanager
async def connected(context: Context, timeout_s: float = CONNECT_TIMEOUT_S) -> AsyncIterator[Bus]:
    """A connection to this installation's bus.

    :raises NotRunningError: MicroClaw is down. :raises BusTimeout: the broker does not answer.
    """
    from microclaw.bus.client import connect

    Supervisor(context.home.supervisor_socket).pid()
    bus = await connect(context.home.bus, "cli", timeout_s=timeout_s)
    try:
        yield bus
    finally:
        await bus.close()


def ask(context: Context, question: Request, answer: type[T]) -> T:
    """Ask the service that answers this, and nothing else.

    :raises MicroclawError: it is down, or it refused; says which.
    """
    return asked_of(context, ANSWERED_BY[type(question)], question, answer)


def asked_of(context: Context, service: str, question: Request, answer: type[T]) -> T:
    """Ask this service, and nothing else.

    :raises MicroclawError: it is down, or it refused; says which.
    """

    async def once() -> T:
        async with connected(context) as bus:
            return await asked(bus, question, answer, service=service)

    return asyncio.run(once())


async def asked(
    bus: Bus, question: Request, answer: type[T], timeout_s: float = ANSWER_TIMEOUT_S, *, service: str = ""
) -> T:
    """One question on an open connection; a refusal is raised. `service`: who answers, if it is not in the list."""
    name = service or ANSWERED_BY[type(question)]
    try:
        found = await bus.request(name, question, answer | Failed, timeout_s=timeout_s)  # type: ignore[arg-type]
    except BusTimeout as error:
        raise UnhealthyError(
            f"{name} did not answer within {timeout_s:.0f} s; it may still do what was asked: see `microclaw status`"
        ) from error
    if isinstance(found, Failed):
        raise refusal(found)
    return found


def refusal(failed: Failed) -> MicroclawError:
    """A service's "no" as the error that has the right exit code."""
    kinds: dict[str, Callable[[str], MicroclawError]] = {
        "bad_request": UsageError, "not_found": UsageError, "denied": DeniedError, "unavailable": UnhealthyError,
        "internal": UnhealthyError,
    }
    return kinds.get(failed.code, MicroclawError)(failed.reason)


def rows(values: Sequence[msgspec.Struct]) -> list[object]:
    """Structs as JSON shows them."""
    return [msgspec.to_builtins(value) for value in values]


