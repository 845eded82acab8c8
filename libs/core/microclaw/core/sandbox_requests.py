"""What the owner asks of the sandbox service at the command line: `microclaw sandbox …`."""

from __future__ import annotations

import msgspec

from microclaw.core.requests import Request

#: Who answers all of these.
SERVICE = "sandbox"


class SandboxAsked(Request, frozen=True, kw_only=True, tag="sandbox.status"):
    """Which backend runs agents, and what was measured of it. Answer: SandboxState."""


class SandboxState(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="sandbox.status.answer"):
    #: "" = none works; then `trouble` says why and what to do.
    backend: str
    workers: int
    #: Name of a protection → what was measured; empty = not yet, or not since the last start.
    measured: dict[str, str] = {}
    trouble: str = ""


class ExplainSandbox(Request, frozen=True, kw_only=True, tag="sandbox.explain"):
    """What the next worker of this group would be given. Answer: SandboxExplained or Failed."""

    group: str


class MountRow(msgspec.Struct, frozen=True, kw_only=True):
    target: str
    source: str
    writable: bool


class SandboxExplained(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="sandbox.explain.answer"):
    group: str
    chat: str
    is_main: bool
    backend: str
    mounts: tuple[MountRow, ...]
    #: Name → amount, unit last in the name.
    limits: dict[str, float]
    idle_timeout_s: int
    run_timeout_s: int


class StartCommand(Request, frozen=True, kw_only=True, tag="sandbox.run"):
    """Run this in a fresh sandbox of the group, with its mounts, limits and door. Answer: CommandStarted or Failed."""

    group: str
    argv: tuple[str, ...]


class CommandStarted(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="sandbox.run.answer"):
    run_id: str


class ReadCommand(Request, frozen=True, kw_only=True, tag="sandbox.read"):
    """What it wrote since; waits up to `wait_ms`. `part` counts from 0: the same part again is the same answer.

    A command whose output nobody reads is ended. Answer: CommandOutput or Failed.
    """

    run_id: str
    part: int
    wait_ms: int = 1000


class CommandOutput(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="sandbox.read.answer"):
    #: Standard output and standard error, as they came.
    data: bytes
    ended: bool = False
    #: As a shell says it (137 = killed).
    code: int = 0
    #: Why it was ended, if it did not end by itself.
    why: str = ""


class StopCommand(Request, frozen=True, kw_only=True, tag="sandbox.stop"):
    """End it. Answer: Done."""

    run_id: str
