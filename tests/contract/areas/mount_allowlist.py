"""Which folders of the host a group may be given besides its own."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
from tests.contract.rows import Case, Unmapped

from microclaw.core.home import home_from
from microclaw.core.mounts import Granted, Refusal, Wanted, decide, read_allow_list
from microclaw.sandbox.backend import Mount, RunSpec, SpecRefused
from microclaw.sandbox.extra_mounts import allow_list_path, real_path
from microclaw.sandbox.installation import closed_folders
from microclaw.sandbox.mounts import group_mounts
from microclaw.sandbox.spec import admit


def answer(case: Case) -> dict[str, Any]:
    case.knows("allowlist", "mount", "is_main", "filesystem", "allowlist_path")
    if "allowlist_path" in case.given:
        return {"allowlist_reachable_from_container": _list_can_be_seen()}
    allowed = case.need("allowlist")
    raw = allowed if allowed is None or isinstance(allowed, str) else json.dumps(allowed)
    with _home(case.meta.get("mount_fs")) as home:
        wanted = msgspec.convert(case.need("mount"), Wanted)
        found = decide(
            wanted, read_allow_list(raw), is_main=case.need("is_main"), home=str(home), resolve=real_path
        )
        if isinstance(found, Refusal):
            return {"allowed": False, "reason": found.reason}
        assert isinstance(found, Granted)
        return {
            "allowed": True, "container_path": found.container_path, "readonly": found.readonly,
            "host_path": found.host_path.replace(str(home.resolve()), "$HOME", 1),
        }


@contextmanager
def _home(said: str | None) -> Iterator[Path]:
    """The folder tree that the file's meta describes."""
    if not said:
        raise Unmapped("meta has no mount_fs")
    holds, _, links = said.partition("; links: ")
    with tempfile.TemporaryDirectory(prefix="mc-mounts-") as folder:
        home = Path(folder)
        for name in holds.removeprefix("$HOME holds ").split(", "):
            path = home / name.strip('"')
            if path.suffix == ".txt":
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text("x")
            else:
                path.mkdir(parents=True, exist_ok=True)
        for link in links.split(", ") if links else ():
            name, _, target = link.partition(" -> ")
            os.symlink(target, home / name)
        yield home


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


def _is_admitted(source: Path, home: Any) -> bool:
    spec = RunSpec(
        worker_id="w", installation="i", argv=["true"], mounts=[Mount(source, "/workspace/group")]
    )
    try:
        admit(spec, closed_folders(home))
    except SpecRefused:
        return False
    return True
