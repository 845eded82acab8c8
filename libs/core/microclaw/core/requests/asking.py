"""What all questions and answers over the bus are, and those that every service knows."""

from __future__ import annotations

from typing import Literal

import msgspec


class Request(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind"):
    """What all questions are."""


class Failed(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="failed"):
    """The answer when a request can't be met. `reason` is one line: what, why, what to do."""

    reason: str
    code: Literal["bad_request", "denied", "not_found", "conflict", "unavailable", "internal"] = "bad_request"


class StatusAsked(Request, frozen=True, kw_only=True, tag="service.status"):
    """To any service."""


class ServiceStatus(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="service.status.answer"):
    service: str
    pid: int
    started_ms: int
    ready: bool
    #: What is worth knowing of this service, as name → short text or number.
    facts: dict[str, str | int | float | bool] = {}
    #: Troubles that the owner should see, one line each, newest first.
    troubles: tuple[str, ...] = ()


class Done(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="done"):
    """It is done."""
