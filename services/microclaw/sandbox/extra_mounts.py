"""Folders of the host that a group was promised, as the owner's allow-list lets it have them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from microclaw.core.home import Home
from microclaw.core.mounts import AllowList, Refusal, Wanted, decide, read_allow_list
from microclaw.sandbox.backend import Mount, SpecRefused
from microclaw.sandbox.spec import check_mounts

#: Longest allow-list.
LIST_BYTES_MAX = 1 << 20

log = logging.getLogger("microclaw.sandbox")


def allow_list_path(home: Home) -> Path:
    """Beside the configuration, where no run can reach it."""
    return home.config.parent / "mount-allowlist.json"


def real_path(path: str) -> str | None:
    """The path with every link followed; None = it does not exist."""
    try:
        return str(Path(path).resolve(strict=True))
    except (OSError, RuntimeError, ValueError):
        return None


def _allow_list(path: Path) -> AllowList | Refusal:
    try:
        return read_allow_list(path.read_bytes()[:LIST_BYTES_MAX])
    except FileNotFoundError:
        return read_allow_list(None)
    except OSError as error:
        return Refusal(f"{path} can't be read ({error.strerror}), so no extra folder may be mounted; mend it")


def extra_mounts(
    home: Home, wanted: Sequence[Wanted], *, is_main: bool, trouble: Callable[[str], None],
    beside: Sequence[Mount] = (), closed: Collection[Path] = (),
) -> list[Mount]:
    """Those of `wanted` that are allowed. The others are left out and told: the group works without them.

    :param beside: what the group has besides.
    :param closed: what no run may see.
    """
    if not wanted:
        return []
    allowed = _allow_list(allow_list_path(home))
    real_closed = [path.resolve() for path in closed]
    found: list[Mount] = []
    for each in wanted:
        verdict = decide(each, allowed, is_main=is_main, home=str(Path.home()), resolve=real_path)
        if isinstance(verdict, Refusal):
            trouble(f"a folder is not mounted: {verdict.reason}")
            continue
        mount = Mount(Path(verdict.host_path), verdict.container_path, writable=not verdict.readonly)
        try:
            # Here, and not when the sandbox is started: there it would cost the group every run.
            check_mounts([*beside, *found, mount], real_closed)
        except SpecRefused as refused:
            trouble(f"a folder is not mounted: {refused}; give it another name, or take it out of the group's mounts")
        else:
            found.append(mount)
    return found
