"""A connector's own secret: asked of egress, which alone reads secrets; held in memory only."""

from __future__ import annotations

from typing import cast

from microclaw.bus.api import Bus
from microclaw.bus.errors import BusError
from microclaw.channel.link import LoggedOut, Unreachable
from microclaw.core.requests import Failed, SecretAsked, SecretValue

ASK_S = 5.0


async def own_secret(bus: Bus) -> str:
    """The secret that the configuration gives to this connector, as it is now (a rotated one is the new one).

    :raises Unreachable: egress does not answer at present.
    :raises LoggedOut: there is no such secret: says how to set it.
    """
    try:
        answer = await bus.request(
            "egress", SecretAsked(), cast("type[SecretValue | Failed]", SecretValue | Failed), timeout_s=ASK_S
        )
    except BusError as error:
        raise Unreachable(f"the secret can't be had: {error}") from error
    if isinstance(answer, Failed):
        raise LoggedOut(answer.reason)
    return answer.value
