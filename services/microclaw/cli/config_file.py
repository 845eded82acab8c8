"""Writing the configuration file: whole or not at all, with the older versions kept."""

from __future__ import annotations

import os
from pathlib import Path

from microclaw.core.errors import UsageError

#: Older versions beside the file: `config.toml.1` is the newest.
OLD_VERSIONS_COUNT = 5


def write(path: Path, text: str, seen: str | None) -> None:
    """Put `text` there (0600). `seen` is what the writer read before, None = there was no file.

    :raises UsageError: somebody else has changed it since.
    """
    now = path.read_text(encoding="utf-8") if path.exists() else None
    if now != seen:
        raise UsageError(f"{path} was changed by somebody else meanwhile; look at it and try again")
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    handle = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        if now is not None:
            for number in range(OLD_VERSIONS_COUNT - 1, 0, -1):
                older = path.with_name(f"{path.name}.{number}")
                if older.exists():
                    older.rename(path.with_name(f"{path.name}.{number + 1}"))
            # A copy, not a rename: there is no instant without the file.
            os.link(path, path.with_name(f"{path.name}.1"))
        fresh.replace(path)
    except BaseException:
        fresh.unlink(missing_ok=True)
        raise
