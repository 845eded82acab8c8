"""In what engines with Docker's API differ, as data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Quirks:
    """What has to be said differently to an engine."""

    #: As people know it.
    name: str
    #: It has a first process that buries orphans.
    has_init: bool
    #: Its report of an out-of-memory kill can be believed; else 137 without our doing means it.
    tells_out_of_memory: bool
    #: It wants the seccomp profile as a file's path, not as text.
    seccomp_by_file: bool


DOCKER = Quirks("Docker", has_init=True, tells_out_of_memory=True, seccomp_by_file=False)
#: Its init is a separate package (catatonit), and `OOMKilled` stays false.
PODMAN = Quirks("Podman", has_init=False, tells_out_of_memory=False, seccomp_by_file=True)


def quirks_of(version: Mapping[str, Any]) -> Quirks:
    """By what the engine answers to /version."""
    names = {str(part.get("Name", "")) for part in version.get("Components") or ()}
    return PODMAN if any("podman" in name.lower() for name in names) else DOCKER
