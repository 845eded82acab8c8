"""How the agent is started inside: where its Python, its sources and what it imports are seen.

The same neutral paths in every backend, so that nothing inside depends on where MicroClaw lies on the host.
"""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import dataclass
from pathlib import Path

#: `microclaw.core` and `microclaw.agent`, and no other part of MicroClaw.
LIB = "/opt/microclaw/lib"
#: What they import.
SITE = "/opt/microclaw/site"
#: The search path for programs, in every backend.
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
#: The home directory inside: small and gone with the worker.
HOME = "/tmp"  # noqa: S108 - inside the sandbox
#: Who processes are inside, where the host does not say otherwise.
UID = 10001
GID = 10001

#: The packages of ours that exist inside.
PACKAGES = ("core", "agent")


@dataclass(frozen=True, slots=True)
class HostPython:
    """The Python that runs us, as it can be shown inside."""

    #: The interpreter's path inside.
    program: str
    #: Host folder → where it is seen inside.
    folders: tuple[tuple[Path, str], ...]


def agent_argv(python: str) -> list[str]:
    """The command of the worker program. Isolated: no environment variable or file of the workspace changes
    what it imports, and the programs it starts don't inherit its search path."""
    start = (
        f"import sys, runpy; sys.path[:0] = [{LIB!r}, {SITE!r}]; sys.argv[0] = 'microclaw.agent'; "
        "runpy.run_module('microclaw.agent', run_name='__main__', alter_sys=True)"
    )
    return [python, "-I", "-S", "-B", "-u", "-c", start]


def host_python() -> HostPython:
    """The Python that runs us, its packages and our two packages.

    :raises ModuleNotFoundError: a part of MicroClaw is not installed.
    """
    base = Path(sys.base_prefix).resolve()
    program = str(base / f"bin/python{sys.version_info.major}.{sys.version_info.minor}")
    folders = [(package_folder(name), f"{LIB}/microclaw/{name}") for name in PACKAGES]
    folders.append((packages_folder(), SITE))
    if Path("/usr") in (base, *base.parents):
        return HostPython(program, tuple(folders))
    # At its own path: where it is linked to a shared libpython, that path is written in the program.
    return HostPython(program, ((base, str(base)), *folders))


def packages_folder() -> Path:
    """Where the packages of others lie that the agent imports.

    :raises ModuleNotFoundError: they are not installed.
    """
    spec = importlib.util.find_spec("msgspec")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("msgspec is not installed; install MicroClaw again", name="msgspec")
    return Path(spec.origin).resolve().parents[1]


def package_folder(name: str) -> Path:
    """Where `microclaw.<name>` lies, without importing it.

    :raises ModuleNotFoundError: it is not installed.
    """
    spec = importlib.util.find_spec(f"microclaw.{name}")
    places = list(spec.submodule_search_locations or ()) if spec else []
    if not places:
        name = f"microclaw.{name}"
        raise ModuleNotFoundError(f"{name} is not installed; install MicroClaw again", name=name)
    return Path(places[0]).resolve()
