"""Where container engines listen on this machine.

Only Unix sockets: a run's folders must be on the engine's machine.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from microclaw.sandbox.backend import EngineMissing


def sockets(name: str, env: Mapping[str, str]) -> list[Path]:
    """The places to look at for an engine (`docker` or `podman`), the first that answers counts.

    :raises EngineMissing: the environment names an engine on another machine.
    """
    variable = {"docker": "DOCKER_HOST", "podman": "CONTAINER_HOST"}[name]
    if chosen := env.get(variable):
        if not chosen.startswith("unix://"):
            raise EngineMissing(f"{variable}={chosen} is not on this machine; use a Unix socket (unix:///path)")
        return [Path(chosen.removeprefix("unix://"))]
    places: tuple[str, ...]
    home, runtime = env.get("HOME", "/nonexistent"), env.get("XDG_RUNTIME_DIR") or f"/run/user/{os.getuid()}"
    if name == "docker":
        places = (
            "/var/run/docker.sock", f"{runtime}/docker.sock", f"{home}/.docker/run/docker.sock",
            f"{home}/.docker/desktop/docker.sock", f"{home}/.orbstack/run/docker.sock",
            f"{home}/.colima/default/docker.sock",
        )  # fmt: skip
    else:
        places = (f"{runtime}/podman/podman.sock", "/run/podman/podman.sock")
    return [Path(place) for place in places]
