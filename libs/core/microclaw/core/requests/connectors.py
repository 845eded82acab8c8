"""What connectors ask and are asked."""

from __future__ import annotations

from typing import Literal

import msgspec

from microclaw.core.requests.asking import Request


class SecretAsked(Request, frozen=True, kw_only=True, tag="secret.ask"):
    """To egress, from a connector alone: the secret that the configuration gives to that connector. Each time is an
    entry in the audit log. Never durable: a secret is in no journal. Answer: SecretValue or Failed."""


class SecretValue(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="secret.ask.answer"):
    value: str

    def __repr__(self) -> str:
        return "SecretValue(value=…)"


class SecretRenewed(Request, frozen=True, kw_only=True, tag="secret.renewed"):
    """To a connector, from egress: its secret has just been set. If it is not connected it tries at once, else when it
    loses its connection. Nobody waits for this: one that misses it tries again by itself. Answer: Done."""


class ChannelStatusAsked(Request, frozen=True, kw_only=True, tag="channel.status"):
    """To a connector: how its channel is doing."""


class ChannelStatus(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="channel.status.answer"):
    channel: str
    #: `logged_out`: only the owner can mend that. By evidence: what the transport itself said last.
    state: Literal["connecting", "connected", "waiting", "logged_out"]
    #: Since when it is in this state, Unix ms.
    since_ms: int
    #: Who we are there.
    account: str = ""
    #: When something last came from the platform, its heartbeats included; 0 = never.
    last_event_ms: int = 0
    #: Connections that failed in a row.
    failures: int = 0
    #: Why it is not connected; one line.
    trouble: str = ""
    #: Parts of replies that are on their way.
    queued: int = 0
    #: Parts that ended so within the last day.
    sent: int = 0
    failed: int = 0
    uncertain: int = 0
    expired: int = 0
