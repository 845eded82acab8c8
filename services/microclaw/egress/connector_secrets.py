"""Which secret a connector is told: the one that the configuration gives to it, and no other."""

from __future__ import annotations

from microclaw.core.channel_settings import Channels
from microclaw.core.requests import Failed, SecretAsked, SecretValue
from microclaw.egress.gate import Gate


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
