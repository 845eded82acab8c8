"""The throw-away copy of the set-up: a home of its own, the owner's settings, nothing of the owner's data."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from microclaw.core.home import Home, home_from
from microclaw.core.settings import Egress, Model, Settings
from microclaw.prove import clock
from microclaw.prove.inside.sitecustomize import VARIABLE

#: Goes into the PYTHONPATH of the mesh on trial.
INSIDE = Path(__file__).parent / "inside"
#: Workers: a trial's groups must not wait for each other's idle workers to give way.
WORKERS_MIN = 8


def make(settings: Settings, env: Mapping[str, str]) -> tuple[dict[str, str], Home]:
    """The environment that names the copy, and the copy. Its folder is the caller's to remove."""
    # Short: Unix sockets have short paths.
    root = Path(tempfile.mkdtemp(prefix="microclaw-prove-", dir="/tmp"))
    inherited = {key: value for key, value in env.items() if not key.startswith("MICROCLAW_")}
    own = inherited | {
        "MICROCLAW_HOME": str(root), VARIABLE: str(root / "prove"),
        "PYTHONPATH": ":".join([str(INSIDE), *filter(None, [env.get("PYTHONPATH")])]),
    }
    home = home_from(own)
    home.create()
    folder = folder_of(home)
    folder.mkdir(mode=0o700)
    clock.make(folder / "clock")
    home.config.write_text(_toml(derived(settings)))
    home.config.chmod(0o600)
    return own, home


def folder_of(home: Home) -> Path:
    """Where the trial's clock and orders are."""
    return home.state / "prove"


def derived(settings: Settings) -> Settings:
    """The owner's settings with a scripted model, in bubblewrap, without a way out."""
    sandbox = msgspec.structs.replace(
        settings.sandbox, backend="bubblewrap", max_workers=max(WORKERS_MIN, settings.sandbox.max_workers)
    )
    assistant = msgspec.structs.replace(settings.assistant, prefix=False)
    return msgspec.structs.replace(
        settings, assistant=assistant, model=Model(backend="scripted"), egress=Egress(), sandbox=sandbox
    )


def _toml(settings: Settings) -> str:
    return "\n".join(_table((), msgspec.to_builtins(settings)))


def _table(path: tuple[str, ...], table: dict[str, Any]) -> list[str]:
    """TOML lines. A basic string of TOML is one of JSON, as long as no control character stands in it raw."""
    lines = [f"[{'.'.join(map(_text, path))}]"] if path else []
    lines += [f"{key} = {_value(value)}" for key, value in table.items() if not isinstance(value, dict)]
    for key, value in table.items():
        if isinstance(value, dict):
            lines += _table((*path, key), value)
    return lines


def _value(value: Any) -> str:
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_value, value))}]"
    # `${` would be a reference to the environment; what was one is resolved already.
    return _text(value.replace("${", "$${")) if isinstance(value, str) else json.dumps(value)


def _text(text: str) -> str:
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
