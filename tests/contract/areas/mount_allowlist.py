"""Which folders of the host a group may be given besides its own: the list lies where the owner puts it, the mount is
one of NanoClaw's `additionalMounts`, and what is asked is what a sandbox of the group would see.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import msgspec
from tests.contract.rows import Case, Phrases, Unmapped

from microclaw.core.home import Home, home_from
from microclaw.core.mounts import EXTRA
from microclaw.core.nanoclaw import container_of
from microclaw.sandbox.backend import Mount, RunSpec, SpecRefused
from microclaw.sandbox.extra_mounts import allow_list_path, extra_mounts
from microclaw.sandbox.installation import closed_folders
from microclaw.sandbox.mounts import group_mounts
from microclaw.sandbox.spec import admit

#: The user's folder, as rows write it.
_HOME = "$HOME"


def answer(case: Case) -> dict[str, Any]:
    case.knows(
        "allowlist", "mount", "mounts", "is_main", "filesystem", "allowlist_path", "allowlist_changed_on_disk",
    )
    if "allowlist_path" in case.given:
        return {"allowlist_reachable_from_container": _list_can_be_seen()}
    with _host(case.meta.get("mount_fs")) as (host, home):
        if "allowlist_changed_on_disk" in case.given:
            return {"uses": Phrases({"the list as loaded at start": not _is_read_anew(home)})}
        _write_list(home, _there(case.need("allowlist"), host))
        wanted = _there(case.given["mounts"] if "mounts" in case.given else [case.need("mount")], host)
        found, told = _mounted(home, wanted, is_main=case.need("is_main"))
    shown = [_shown(mount, host) for mount in found]
    answered = {"mounted": [each["container_path"] for each in shown], "count": len(shown), "reason": told}
    return answered | (shown[0] if len(shown) == 1 else {"allowed": bool(shown)})


def _there(said: Any, host: Path) -> Any:
    """What the row says, with the user's folder where it writes `$HOME` for a whole path."""
    return json.loads(json.dumps(said).replace(_HOME, str(host)))


def _shown(mount: Mount, host: Path) -> dict[str, Any]:
    return {
        "allowed": True, "container_path": mount.target, "readonly": not mount.writable,
        "host_path": str(mount.source).replace(str(host.resolve()), _HOME, 1),
    }


def _mounted(home: Home, wanted: Sequence[Mapping[str, Any]], *, is_main: bool) -> tuple[list[Mount], list[str]]:
    """What a sandbox of the group gets beside its own folders, and what the owner is told."""
    try:
        container = container_of({"additionalMounts": wanted})
    except msgspec.ValidationError as error:
        return [], [str(error)]
    told: list[str] = []
    beside = group_mounts(home, "main" if is_main else "fam", is_main=is_main, project=())
    found = extra_mounts(
        home, container.mounts, is_main=is_main, trouble=told.append, beside=beside, closed=closed_folders(home),
    )
    return found, told


def _write_list(home: Home, allowed: Any) -> None:
    path = allow_list_path(home)
    if allowed is None:
        path.unlink(missing_ok=True)
    else:
        path.write_text(allowed if isinstance(allowed, str) else json.dumps(allowed), encoding="utf-8")


@contextmanager
def _host(said: str | None) -> Iterator[tuple[Path, Home]]:
    """The user's folder, with the tree that the file's meta describes in it, and our installation elsewhere."""
    if not said:
        raise Unmapped("meta has no mount_fs")
    holds, _, links = said.partition("; links: ")
    with tempfile.TemporaryDirectory(prefix="mc-mounts-") as folder, tempfile.TemporaryDirectory() as ours:
        host = Path(folder)
        for name in holds.removeprefix(f"{_HOME} holds ").split(", "):
            path = host / name.strip('"')
            if path.suffix == ".txt":
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text("x")
            else:
                path.mkdir(parents=True, exist_ok=True)
        for link in links.split(", ") if links else ():
            name, _, target = link.partition(" -> ")
            os.symlink(target, host / name)
        home = home_from({"MICROCLAW_HOME": ours})
        home.create()
        with mock.patch.dict(os.environ, {"HOME": folder}):
            yield host, home


def _is_read_anew(home: Home) -> bool:
    """Whether a list that is changed counts from the next sandbox on."""
    folder = Path.home() / "projects"
    wanted = [{"hostPath": str(folder)}]
    _write_list(home, {"allowedRoots": [], "blockedPatterns": [], "nonMainReadOnly": True})
    before, _ = _mounted(home, wanted, is_main=True)
    _write_list(home, {"allowedRoots": [{"path": str(folder)}], "blockedPatterns": [], "nonMainReadOnly": True})
    after, _ = _mounted(home, wanted, is_main=True)
    assert not before
    return [mount.target for mount in after] == [f"{EXTRA}/projects"]


def _list_can_be_seen() -> bool:
    """Whether any mount that a run may have shows the list, wherever the configuration lies."""
    with tempfile.TemporaryDirectory(prefix="mc-l-") as folder:
        home = home_from({"HOME": folder, "MICROCLAW_CONFIG": f"{folder}/.config/microclaw/config.toml"})
        home.create()
        home.config.write_text("")
        path = allow_list_path(home)
        path.write_text("{}")
        shown = [mount.source for mount in group_mounts(home, "main", is_main=True, project=())]
        tried = [path, path.parent, path.parent.parent, Path(folder)]
        return any(_is_admitted(source, home) for source in tried) or any(
            source == path or source in path.parents for source in shown
        )


def _is_admitted(source: Path, home: Home) -> bool:
    spec = RunSpec(
        worker_id="w", installation="i", argv=["true"], mounts=[Mount(source, "/workspace/group")]
    )
    try:
        admit(spec, closed_folders(home))
    except SpecRefused:
        return False
    return True
