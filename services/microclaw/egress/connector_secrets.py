"""Which secret a connector is told: the one that the configuration gives to it, and no other."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from microclaw.bus.api import Bus
from microclaw.bus.errors import BusError
from microclaw.core.channel_settings import CONNECTORS, Channels
from microclaw.core.requests import Done, Failed, SecretAsked, SecretRenewed, SecretValue
from microclaw.egress.gate import Gate

#: How long a connector may take to hear of its new secret.
TELL_S = 5.0


def secret_of(channels: Channels, connector: str) -> str:
    """The name of the connector's secret, "" = it is given none."""
    match connector:
        case "telegram":
            return channels.telegram.token
        case "discord":
            return channels.discord.token
        case "email":
            return channels.email.password
        case _:
            return ""


def connectors_of(channels: Channels, secret: str) -> tuple[str, ...]:
    """The connectors that are told this secret."""
    return tuple(name for name in CONNECTORS if secret_of(channels, name) == secret)


async def tell_renewed(bus: Bus, connectors: Sequence[str]) -> None:
    """Have them try it at once. One that does not answer asks for it by itself: when it starts, or next tries."""
    for name in connectors:
        with contextlib.suppress(BusError):
            await bus.request(name, SecretRenewed(), Done, timeout_s=TELL_S)


class ConnectorSecrets:
    """Answers `secret.ask`. Who asks, the kernel says (`broker/peers.py`); every answer is in the audit log."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate

    async def on_ask(self, _question: SecretAsked, asker: str) -> SecretValue | Failed:
        """The asker's own secret."""
        name = secret_of(self._gate.settings.channels, asker)
        value = self._gate.secrets.value(name) if name else None
        if value is not None:
            await self._gate.audit.record(asker, "secret.use", name, "ok")
            return SecretValue(value=value)
        await self._gate.audit.record(asker, "secret.use", name or "none", "deny")
        if not name:
            return Failed(reason=f"{asker} is given no secret by the configuration", code="denied")
        return Failed(
            reason=f"there is no secret {name}: set it with `microclaw secrets set {name}`", code="not_found"
        )
