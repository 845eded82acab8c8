"""Which backend runs agents on this machine. There is none that runs them without a sandbox."""

from __future__ import annotations

import logging
import sys
from collections.abc import Collection, Sequence
from pathlib import Path

from microclaw.sandbox.backend import Backend, EngineMissing, ProbeResult
from microclaw.sandbox.image import Say
from microclaw.sandbox.image_content import OWN_IMAGE

log = logging.getLogger(__name__)

#: In this order `auto` looks.
ORDER = {
    "darwin": ("apple", "docker"),
    "linux": ("docker", "podman", "bubblewrap"),
}
NAMES = ("docker", "podman", "bubblewrap", "apple")

_INSTALL = {
    "darwin": "install Apple's container (github.com/apple/container, 1.1.0 or newer) or Docker Desktop",
    "linux": "install Docker or Podman (Debian: sudo apt install docker.io), or allow user namespaces for bubblewrap",
}


def make(
    name: str, closed: Collection[Path] = (), image_name: str = OWN_IMAGE, say: Say | None = None,
    installation: str = "", *, may_start: bool = False,
) -> Backend:
    """The backend of this name, not yet looked at.

    :param closed: folders of this installation that no run may see.
    :param say: told the lines of an image being made.
    :param installation: for whom images are built (`image.ensure`).
    :param may_start: start an engine that is installed and not running, where that is a user's own to do (Apple's).
    :raises ValueError: there is no such backend.
    """
    if name in ("docker", "podman"):
        from microclaw.sandbox.docker_engine import DockerEngine

        return DockerEngine(name, closed, image_name=image_name, say=say, installation=installation)
    if name == "bubblewrap":
        from microclaw.sandbox.bubblewrap import Bubblewrap

        return Bubblewrap(closed)
    if name == "apple":
        from microclaw.sandbox.apple import AppleContainer

        return AppleContainer(closed, image_name=image_name, say=say, may_start=may_start)
    raise ValueError(f"there is no backend {name!r}, only {', '.join(NAMES)}")


async def choose(
    name: str, closed: Collection[Path] = (), image_name: str = OWN_IMAGE, say: Say | None = None
) -> Backend:
    """The backend that `name` means (`auto`: the first that passes its probe).

    :raises EngineMissing: the named one fails its probe, or none passes; the text says why and what to install.
    """
    names = ORDER.get(sys.platform, ()) if name == "auto" else (name,)
    return await first_usable([make(each, closed, image_name, say) for each in names], auto=name == "auto")


async def first_usable(candidates: Sequence[Backend], *, auto: bool) -> Backend:
    """The first that passes its probe. :raises EngineMissing: none does."""
    failed: list[ProbeResult] = []
    for backend in candidates:
        found = await backend.probe()
        if found.usable:
            log.info("sandbox backend %s (%s)", found.backend, found.version)
            return backend
        log.info("sandbox backend %s can't be used: %s", found.backend, found.reason)
        failed.append(found)
    reasons = "; ".join(f"{found.backend}: {found.reason}" for found in failed) or f"none exists for {sys.platform}"
    if not auto:
        raise EngineMissing(f"the sandbox backend that the configuration names can't be used: {reasons}")
    raise EngineMissing(
        f"agents run only in a sandbox and none works here: {reasons}. "
        f"To have one, {_INSTALL.get(sys.platform, 'use Linux or macOS')}"
    )
