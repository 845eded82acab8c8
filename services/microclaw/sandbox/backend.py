"""What a sandbox backend can do. `RunSpec` is data, checked by `check_spec` before any backend sees it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from microclaw.core.errors import MicroclawError


class SandboxError(MicroclawError):
    """The sandbox could not do it."""

    exit_code = 5


class EngineMissing(SandboxError):
    """No sandbox backend works here. The text says what to install."""


class SpecRefused(SandboxError):
    """A run asked for something no run may have."""

    exit_code = 4


@dataclass(frozen=True, slots=True)
class Mount:
    """A folder of the host inside the sandbox. The source must exist: nothing is created for it."""

    source: Path
    target: str
    writable: bool = False


@dataclass(frozen=True, slots=True)
class Limits:
    """All are enforced, or the run is refused."""

    memory_bytes: int = 512 << 20
    pids: int = 128
    cpus: float = 1.0
    tmp_bytes: int = 64 << 20
    #: Of standard output: more is cut off and the worker killed. Of standard error: more is thrown away,
    #: and 16 times as much ends the worker.
    output_bytes: int = 64 << 20
    open_files: int = 1024


@dataclass(frozen=True, slots=True)
class RunSpec:
    """One sandbox. There is no field for a network, privileges, capabilities or a seccomp profile: none can
    be asked."""

    #: Unique; `[a-z0-9-]+`, at most 40 characters. Becomes part of the container's name.
    worker_id: str
    #: The installation's id: the reaper touches only what carries it.
    installation: str
    argv: Sequence[str]
    #: The whole environment inside, besides PATH and HOME.
    env: Mapping[str, str] = field(default_factory=dict)
    mounts: Sequence[Mount] = ()
    #: Host directory with `egress.sock`, seen inside at `/run/egress`; None = no door at all.
    door: Path | None = None
    limits: Limits = Limits()
    workdir: str = "/workspace/group"


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """What was measured of a backend, not assumed."""

    backend: str
    usable: bool
    #: Why not, and what to do about it: one line.
    reason: str = ""
    #: Engine and version.
    version: str = ""
    #: name of a protection → what was measured ("memory": "killed at 64 MiB").
    measured: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Ended:
    """How a sandbox ended. `code` as a shell says it (137 = SIGKILL)."""

    code: int
    out_of_memory: bool = False
    output_cut: bool = False
    #: Last part of standard error, at most 4 KiB, for the log.
    stderr_tail: str = ""


class Sandbox(Protocol):
    """A running one."""

    worker_id: str

    async def send(self, line: bytes) -> None:
        """To its standard input. :raises SandboxError: it is gone."""
        ...

    async def receive(self) -> bytes | None:
        """The next line of its standard output, newline included; None = it ended."""
        ...

    async def kill(self) -> None:
        """End it and all it started, now. Idempotent."""
        ...

    async def wait(self) -> Ended:
        """Until it ended and everything of it is removed."""
        ...


class Backend(Protocol):
    """One kind of sandbox."""

    name: str

    async def probe(self, *, deep: bool = False) -> ProbeResult:
        """Is it there and does it hold? `deep` measures every protection with a throw-away run (seconds)."""
        ...

    def agent_argv(self) -> list[str]:
        """The command that starts `python -m microclaw.agent` inside. Its first part is the Python there."""
        ...

    async def prepare(self) -> None:
        """Make what runs need (the image). :raises EngineMissing: what to do."""
        ...

    async def start(self, spec: RunSpec) -> Sandbox:
        """:raises SandboxError: it could not be started, one line why."""
        ...

    async def reap(self, installation: str) -> int:
        """End what is left of earlier lives of this installation, and nothing else. Returns how many."""
        ...

    async def clear_away(self, installation: str, /) -> int:
        """Remove what this life could not remove, since its engine was away; not what runs now. Returns how many. Costs
        nothing when nothing is left. :raises SandboxError: the engine still is away."""
        ...
